package bench

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// newPair is a publisher on a connection whose other end is returned.
func newPair(t testing.TB, l Load) (*publisher, net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	tr := newTraffic(Config{Duration: time.Hour}, l)
	tr.start = time.Now()
	tr.stream(broker(listener.Addr().String()), Broker{})
	p := tr.publishers[0]
	if p.c, err = dial(t.Context(), p.broker, Login{}, smallBuffer); err != nil {
		t.Fatal(err)
	}
	p.c.limits = limits{receiveMaximum: 65535, maximumQoS: 2}
	if err := p.admitted(); err != nil {
		t.Fatal(err)
	}
	far, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		tr.subscribers = nil // they are not connected
		tr.end()
		_ = far.Close()
	})
	return p, far
}

// read reads the next message as its receiver would.
func read(t testing.TB, c *conn) stamp {
	t.Helper()
	p, err := c.await(publish)
	if err != nil {
		t.Fatal(err)
	}
	m, err := parsePublish(c.v, p)
	if err != nil {
		t.Fatal(err)
	}
	s, ok := readStamp(m.payload)
	if !ok {
		t.Fatalf("payload %x", m.payload)
	}
	return s
}

// The connection takes only a part at first; nobody waits for it, and nothing is lost or out of order.
func TestAConnectionThatIsSlowHoldsNobodyUp(t *testing.T) {
	const messages = 200
	p, far := newPair(t, Load{QoS: 1, Size: 100_000, Window: messages})
	done := make(chan error, 1)
	go func() { done <- p.pump() }()
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(pingPatience):
		t.Fatal("it waits")
	}
	if !p.busy() || p.sent.Load() == messages {
		t.Fatalf("20 MB are in the buffers of the connection: %d messages", p.sent.Load())
	}
	if err := p.pump(); err != nil {
		t.Error(err)
	}
	c := &conn{nc: far, v: v311, buf: make([]byte, largeBuffer)}
	for want := range uint64(messages) {
		if got := read(t, c); got.seq != want {
			t.Fatalf("message %d, want %d", got.seq, want)
		}
	}
	p.t.wg.Wait()
	if p.busy() || p.sent.Load() != messages || p.unacknowledged() != messages {
		t.Errorf("busy %v, %d sent", p.busy(), p.sent.Load())
	}
}

func TestAMessageIsSentWhenItIsDueAndSaysWhenThatWas(t *testing.T) {
	p, far := newPair(t, Load{Rate: 100, Size: MinSize, Window: 1, Tick: time.Millisecond})
	p.t.start = time.Now().Add(-35 * time.Millisecond) // messages 0 to 3 are due
	if err := p.pump(); err != nil {
		t.Fatal(err)
	}
	c := &conn{nc: far, v: v311, buf: make([]byte, smallBuffer)}
	for i := range 4 {
		if got, want := read(t, c).due, time.Duration(i)*10*time.Millisecond; got != want {
			t.Errorf("message %d was due at %v, want %v", i, got, want)
		}
	}
	if late := p.t.late.percentiles(1)[0]; late < 35*time.Millisecond {
		t.Errorf("the first was sent %v late", late)
	}
	if n := p.unsent(100 * time.Millisecond); p.sent.Load() < 4 || n != 10-p.sent.Load() {
		t.Errorf("%d sent, %d not", p.sent.Load(), n)
	}
}

func TestAPublisherOfAConnectionThatIsGoneSaysSo(t *testing.T) {
	p, far := newPair(t, Load{QoS: 1, Size: 100_000, Window: 200})
	_ = far.(*net.TCPConn).SetLinger(0)
	_ = far.Close()
	if _, err := p.c.nc.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Fatalf("the connection was not reset: %v", err)
	}
	if err := p.pump(); err == nil {
		t.Error("no error")
	}
}

func TestABrokerMayAllowLessThanTheWindow(t *testing.T) {
	p, _ := newPair(t, Load{QoS: 1, Size: MinSize, Window: 20})
	p.c.limits.receiveMaximum = 3
	if err := p.admitted(); err != nil || len(p.window.free) != 3 {
		t.Errorf("window %d, %v", len(p.window.free), err)
	}
	p.c.limits.maximumQoS = 0
	if err := p.admitted(); err == nil {
		t.Error("a broker that takes QoS 0 only is no error")
	}
}
