package listener_test

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// echo is a Handler that sends back what it gets, to the end.
func echo(ctx context.Context, nc net.Conn, _ string) {
	defer nc.Close()
	defer context.AfterFunc(ctx, func() { _ = nc.Close() })()
	_, _ = io.Copy(struct{ io.Writer }{nc}, struct{ io.Reader }{nc})
}

// expectEcho proves that the other side answers.
func expectEcho(t *testing.T, nc net.Conn) {
	t.Helper()
	if err := tryEcho(nc); err != nil {
		t.Fatal(err)
	}
}

func tryEcho(nc net.Conn) error {
	if _, err := nc.Write([]byte("hello")); err != nil {
		return err
	}
	_, err := io.ReadFull(nc, make([]byte, 5))
	return err
}

// expectEnd proves that the other side closes.
func expectEnd(t *testing.T, nc net.Conn) {
	t.Helper()
	_ = nc.SetReadDeadline(time.Now().Add(patience))
	n, err := nc.Read(make([]byte, 1))
	if ne, ok := err.(net.Error); n > 0 || err == nil || ok && ne.Timeout() { //nolint:errorlint // net.Conn returns it as it is
		t.Fatalf("read %d bytes, %v; want the end", n, err)
	}
}

func receive[T any](t *testing.T, ch <-chan T, what string) T {
	t.Helper()
	select {
	case x := <-ch:
		return x
	case <-time.After(patience):
		t.Fatalf("no sign of %s", what)
		panic("unreachable")
	}
}
