package splice_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/beeline-mqtt/beeline/internal/listener"
	"github.com/beeline-mqtt/beeline/internal/listener/listenertest"
	"github.com/beeline-mqtt/beeline/internal/tcp"
	"github.com/beeline-mqtt/beeline/services/router/internal/splice"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// link is one connection: near is the router's end, far the one of a device or a node.
type link struct{ far, near net.Conn }

// plain is TCP as package net has it.
func plain(t *testing.T) link {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	far, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	near, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close(); near.Close() })
	return link{far, near}
}

// wrapped is TCP as the listeners of this project have it.
func wrapped(t *testing.T) link {
	t.Helper()
	l := plain(t)
	return link{l.far, tcp.Wrap(l.near)}
}

// secure returns a maker of links with TLS, of which the router's end is the server.
func secure(t *testing.T) func(t *testing.T) link {
	t.Helper()
	certs := listenertest.Issue(t)
	server, err := certs.Server.Server()
	if err != nil {
		t.Fatal(err)
	}
	client := certs.Trusting(t, certs.Client)
	return func(t *testing.T) link {
		t.Helper()
		l := wrapped(t)
		near, far := tls.Server(l.near, server), tls.Client(l.far, client)
		shaken := make(chan error, 1)
		go func() { shaken <- near.Handshake() }()
		if err := errors.Join(far.Handshake(), <-shaken); err != nil {
			t.Fatal(err)
		}
		return link{far, near}
	}
}

// webSocket is a link of which the router's end comes from a listener.
func webSocket(t *testing.T) link {
	t.Helper()
	accepted, over := make(chan net.Conn, 1), make(chan struct{})
	r := listenertest.Serve(t, listener.Config{WebSocket: true}, 1, func(_ context.Context, nc net.Conn, _ string) {
		accepted <- nc
		<-over
	})
	t.Cleanup(func() { close(over) })
	ws, err := r.DialWS("ws", &websocket.DialOptions{Subprotocols: []string{"mqtt"}})
	if err != nil {
		t.Fatal(err)
	}
	return link{websocket.NetConn(context.WithoutCancel(t.Context()), ws, websocket.MessageBinary), <-accepted}
}

// piped is a link that cannot be closed one way and is no socket; with a fake clock, time passes when it waits.
func piped(t *testing.T) link {
	t.Helper()
	far, near := net.Pipe()
	t.Cleanup(func() { far.Close(); near.Close() })
	return link{far, near}
}

func pool(t *testing.T, pipes int) *splice.Pool {
	t.Helper()
	p := splice.NewPool(pipes)
	t.Cleanup(func() {
		p.Close()
		if open, lent := p.Pipes(); open != 0 || lent != 0 {
			t.Errorf("at the end %d pipes are open, %d lent", open, lent)
		}
	})
	return p
}

// start joins two links. wait returns when Join has.
func start(t *testing.T, client, node link, o splice.Options) (wait func() splice.Result, cancel context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan splice.Result, 1)
	go func() { ended <- *splice.New(ctx, client.near, node.near, o).Join() }()
	wait = func() splice.Result {
		t.Helper()
		select {
		case r := <-ended:
			ended <- r
			return r
		case <-time.After(patience):
			t.Fatal("Join does not return")
			panic("unreachable")
		}
	}
	t.Cleanup(func() { cancel(); wait() })
	return wait, cancel
}

// random returns n bytes of which no part is like another.
func random(n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(p)
	return p
}

// exchange passes a few bytes both ways.
func exchange(t *testing.T, a, b net.Conn) {
	t.Helper()
	send(t, a, b)
	send(t, b, a)
}

// send passes a few bytes.
func send(t *testing.T, from, to net.Conn) {
	t.Helper()
	sent := make(chan error, 1)
	go func() { _, err := from.Write([]byte("hello")); sent <- err }()
	_ = to.SetReadDeadline(time.Now().Add(patience))
	got := make([]byte, 5)
	if _, err := io.ReadFull(to, got); err != nil || string(got) != "hello" {
		t.Fatalf("received %q, %v", got, err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}

// pour passes so much at once that a buffer does not hold it.
func pour(t *testing.T, from, to net.Conn) {
	t.Helper()
	sent, got := random(4<<20), make([]byte, 4<<20)
	go func() { _, _ = from.Write(sent) }()
	_ = to.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(to, got); err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("what was poured does not arrive: %v", err)
	}
}

// expectClosed proves that nothing can be read any more, and soon.
func expectClosed(t *testing.T, nc net.Conn) {
	t.Helper()
	_ = nc.SetReadDeadline(time.Now().Add(patience))
	if n, err := nc.Read(make([]byte, 1)); n > 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read %d bytes, %v; want the end", n, err)
	}
}

func closeWrite(t *testing.T, nc net.Conn) {
	t.Helper()
	if err := nc.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
}

// halfPipe is a piped link of which the far end can be closed one way.
func halfPipe(t *testing.T) link {
	t.Helper()
	a, b := net.Pipe()
	up, upWriter := io.Pipe()
	t.Cleanup(func() { a.Close(); b.Close(); upWriter.Close(); up.Close() })
	return link{halfFar{a, upWriter}, halfNear{b, up}}
}

type halfFar struct {
	net.Conn

	out *io.PipeWriter
}

func (h halfFar) Write(p []byte) (int, error) { return h.out.Write(p) }
func (h halfFar) CloseWrite() error           { return h.out.Close() }

type halfNear struct {
	net.Conn

	in *io.PipeReader
}

func (h halfNear) Read(p []byte) (int, error) { return h.in.Read(p) }

func (h halfNear) Close() error {
	_ = h.in.Close()
	return h.Conn.Close()
}
