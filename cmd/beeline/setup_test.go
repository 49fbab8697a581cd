package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/beeline-mqtt/beeline/cmd/beeline/local"
	"github.com/beeline-mqtt/beeline/internal/pki"
	"github.com/beeline-mqtt/beeline/internal/telemetry"
	"github.com/beeline-mqtt/beeline/services/gateway"
)

const patience = 20 * time.Second

// shared is a cluster of two gateways for all tests of the package. The first has further listeners: wss, and
// mutual, which demands client certificates.
var shared struct {
	*local.Cluster
	client pki.Files // a certificate for the listener mutual
}

// asCommand, in its environment, makes this program the command itself: for tests that need it as a process of its own.
const asCommand = "BEELINE_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	dir, err := os.MkdirTemp("", "beeline")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var log buffer
	level := telemetry.LogConfig{Level: slog.LevelWarn, Format: "text"}
	shared.Cluster, err = local.Start(ctx, local.Config{
		Dir: dir, Gateways: 2, Router: &local.RouterPorts{}, Unsynced: true, LogLevel: level, Log: &log,
		Gateway: func(i int, c *gateway.Config) {
			if i > 0 {
				return
			}
			wss, mutual := c.Listeners[1], c.Listeners[1] // both like mqtts
			wss.Name, wss.WebSocket = "wss", true
			mutual.Name, mutual.ClientCAFile = "mutual", dir+"/pki/ca.crt"
			c.Listeners = append(c.Listeners, wss, mutual)
		},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	shared.client, err = shared.CA().Issue(pki.Request{Name: "client", Role: "device"})
	if err == nil {
		code = m.Run()
	}
	if code != 0 {
		fmt.Fprintf(os.Stderr, "log of the cluster:\n%s", log.String())
	}
	if err := errors.Join(err, shared.Close(), goleak.Find()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// at is the URL of a listener of gateway 0 or 1.
func at(scheme string, gateway int, listener string) string {
	return scheme + "://" + shared.Gateways()[gateway].Service.Addr(listener).String()
}

// process is one run of the command.
type process struct {
	t      testing.TB
	stdout buffer
	stderr buffer
	stop   context.CancelFunc
	ended  chan struct{}
	err    error
}

// begin runs beeline with arguments. in is its standard input, which may be nil.
func begin(t testing.TB, in io.Reader, args ...string) *process {
	t.Helper()
	p := &process{t: t, ended: make(chan struct{})}
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	cmd := command()
	cmd.SetArgs(args)
	cmd.SetOut(&p.stdout)
	cmd.SetErr(&p.stderr)
	if in == nil {
		in = strings.NewReader("")
	}
	cmd.SetIn(in)
	go func() {
		defer close(p.ended)
		p.err = cmd.ExecuteContext(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-p.ended
	})
	return p
}

// beginSub runs beeline sub and returns when its subscriptions are in force.
func beginSub(t testing.TB, args ...string) *process {
	t.Helper()
	p := begin(t, nil, append([]string{"sub"}, args...)...)
	p.await("ready\n", &p.stderr)
	return p
}

// await returns when text has been written to b.
func (p *process) await(text string, b *buffer) {
	p.t.Helper()
	deadline := time.After(patience)
	for {
		changed := b.changes()
		if strings.Contains(b.String(), text) {
			return
		}
		select {
		case <-changed:
		case <-p.ended:
			if !strings.Contains(b.String(), text) {
				p.t.Fatalf("ended with %v and without saying %q", p.err, text)
			}
			return
		case <-deadline:
			p.t.Fatalf("no %q in %q", text, b.String())
		}
	}
}

// wait returns what the command has written, and its error, when it has ended.
func (p *process) wait() (string, error) {
	p.t.Helper()
	select {
	case <-p.ended:
		return p.stdout.String(), p.err
	case <-time.After(patience):
		p.t.Fatal("it does not end")
		return "", nil
	}
}

// done is wait for a command that is to succeed.
func (p *process) done() string {
	p.t.Helper()
	out, err := p.wait()
	if err != nil {
		p.t.Errorf("error: %v", err)
	}
	return out
}

// succeeds runs the command to its end, which is to be a good one.
func succeeds(t testing.TB, args ...string) {
	t.Helper()
	begin(t, nil, args...).done()
}

// fails runs the command and expects an error with a text in it.
func fails(t testing.TB, want string, args ...string) {
	t.Helper()
	_, err := begin(t, nil, args...).wait()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("beeline %s: error %v, want %q in it", strings.Join(args, " "), err, want)
	}
}

// buffer takes what a command writes.
type buffer struct {
	mu      sync.Mutex
	b       bytes.Buffer
	changed chan struct{}
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *buffer) changes() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.changed == nil {
		b.changed = make(chan struct{})
	}
	return b.changed
}

// fake is a broker that answers a CONNECT with fixed bytes and then nothing more. It returns its URL and the
// CONNECTs that come.
func fake(t testing.TB, answer ...byte) (address string, connects <-chan []byte) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan []byte, 10)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer nc.Close()
				header := make([]byte, 2) // a CONNECT here is shorter than 128 bytes
				if _, err := io.ReadFull(nc, header); err != nil {
					return
				}
				body := make([]byte, header[1])
				if _, err := io.ReadFull(nc, body); err != nil {
					return
				}
				got <- body
				if len(answer) > 0 {
					if _, err := nc.Write(answer); err != nil {
						return
					}
				}
				_, _ = io.Copy(io.Discard, nc)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return "mqtt://" + l.Addr().String(), got
}

// CONNACKs: accepted, in 5 and in 3.1.1.
var (
	connack5 = []byte{0x20, 3, 0, 0, 0}
	connack3 = []byte{0x20, 2, 0, 0}
)

// both runs f for both versions of MQTT, as --mqtt-version names them.
func both(t *testing.T, f func(t *testing.T, version string)) {
	t.Helper()
	for _, version := range []string{"3.1.1", "5"} {
		t.Run(version, func(t *testing.T) { f(t, version) })
	}
}
