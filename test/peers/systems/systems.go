//go:build linux

// Package systems starts the systems that are measured side by side, each on loopback, as processes of its own, with
// data in a directory that the caller removes. It owns how they are configured and when they are ready; it measures
// nothing.
//
// A Running belongs to one goroutine.
package systems

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/beeline-mqtt/beeline/test/process"
)

// ErrMissing says that a program of a system is not installed here.
var ErrMissing = errors.New("not installed")

// patience bounds the start of a system.
const patience = 60 * time.Second

// Env is where systems are started.
type Env struct {
	// Bin has the programs that were built, Dir is an empty directory for data and logs.
	Bin, Dir string
}

// System is one system in one size.
type System struct {
	// Name is what tables call it.
	Name string

	start func(context.Context, *Running) error
	// version asks a program for what it is, which is how it is known to be there.
	version func(context.Context, Env) (string, error)
}

// Version says which version of the system's programs is there. Without them it is ErrMissing.
func (s System) Version(ctx context.Context, env Env) (string, error) { return s.version(ctx, env) }

// Running is a started system.
type Running struct {
	Env

	// Brokers are the URLs that clients connect to, one for each node.
	Brokers []string
	// Metrics are the URLs of the nodes' metrics, for systems whose metrics are read: Beeline.
	Metrics []string

	etcd  string // address of etcd, for systems that have one
	parts []*process.Process
}

// Start starts the system and returns when every node takes clients.
func (s System) Start(ctx context.Context, env Env) (*Running, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("%s was not ready within %v", s.Name, patience))
	defer cancel()
	r := &Running{Env: env}
	err := s.start(ctx, r)
	for _, b := range r.Brokers {
		if err == nil {
			err = r.await(ctx, func() error { return takesClients(ctx, strings.TrimPrefix(b, "mqtt://")) })
		}
	}
	if err == nil {
		err = r.awaitPeers(ctx)
	}
	if err != nil {
		r.Stop()
		return nil, fmt.Errorf("start %s: %w%s", s.Name, err, r.tails())
	}
	return r, nil
}

// Stop ends all processes at once, without a word to them: nobody needs their data any more.
func (r *Running) Stop() {
	var wg sync.WaitGroup
	for _, p := range r.parts {
		wg.Go(p.Kill)
	}
	wg.Wait()
}

// Processes names all processes as NAME=PID.
func (r *Running) Processes() []string {
	list := make([]string, len(r.parts))
	for i, p := range r.parts {
		name, _, _ := strings.Cut(p.Name, "-") // nodes of one kind have one name
		list[i] = fmt.Sprintf("%s=%d", name, p.PID())
	}
	return list
}

// Check returns an error when a process has ended, with the end of its log.
func (r *Running) Check() error {
	for _, p := range r.parts {
		if !p.Running() {
			return fmt.Errorf("%s has ended: %s", p.Name, p.Tail(5))
		}
	}
	return nil
}

// run starts one program of the system.
func (r *Running) run(name, path string, args ...string) error {
	p := &process.Process{Name: name, Path: path, Args: args, LogFile: filepath.Join(r.Dir, name+".log")}
	if err := p.Start(); err != nil {
		return err
	}
	r.parts = append(r.parts, p)
	return nil
}

// program is one of those that were built.
func (e Env) program(name string) string { return filepath.Join(e.Bin, name) }

// file writes a file and returns its path.
func (r *Running) file(name, format string, args ...any) (string, error) {
	path := filepath.Join(r.Dir, name)
	return path, os.WriteFile(path, fmt.Appendf(nil, format, args...), 0o600)
}

// await repeats a question until it is answered with nil. A process that ends ends the waiting.
func (r *Running) await(ctx context.Context, ask func() error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		if dead := r.Check(); dead != nil {
			return dead
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

// tails is the end of all logs.
func (r *Running) tails() string {
	var b strings.Builder
	for _, p := range r.parts {
		fmt.Fprintf(&b, "\n%s: %s", p.Name, p.Tail(5))
	}
	return b.String()
}

// takesClients lets a client of MQTT 3.1.1 in and out again.
func takesClients(ctx context.Context, address string) error {
	nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer nc.Close()
	// A system that is starting may stay silent for ever.
	if err := nc.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	const connect = "\x10\x11\x00\x04MQTT\x04\x02\x00\x3c\x00\x05probe"
	if _, err := io.WriteString(nc, connect); err != nil {
		return err
	}
	connack := make([]byte, 4)
	if _, err := io.ReadFull(nc, connack); err != nil {
		return fmt.Errorf("read CONNACK: %w", err)
	}
	if connack[3] != 0 {
		return fmt.Errorf("refused with code %d", connack[3])
	}
	_, err = nc.Write([]byte{0xe0, 0x00}) // DISCONNECT
	return err
}

// find looks for an installed program where Debian puts it, which is not on the PATH of every user.
func find(name string) (string, error) {
	for _, candidate := range []string{name, "/usr/sbin/" + name, "/usr/bin/" + name} {
		if path, err := exec.LookPath(candidate); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: %w (apt-get install %s)", name, ErrMissing, name)
}

// firstLine runs a program that says what it is.
func firstLine(ctx context.Context, path string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, path, args...).Output()
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if line == "" && err != nil { // mosquitto -h says it and exits with 3
		return "", fmt.Errorf("run %s: %w", path, err)
	}
	return strings.TrimSpace(line), nil
}

// addresses are n free ones.
func addresses(n int) ([]string, error) {
	list := make([]string, n)
	for i := range list {
		var err error
		if list[i], err = process.Address(); err != nil {
			return nil, err
		}
	}
	return list, nil
}
