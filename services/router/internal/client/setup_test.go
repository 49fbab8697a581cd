package client

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"go.uber.org/goleak"

	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is the other end of a connection, which reads and writes with a codec that is not ours.
type server struct {
	*rawmqtt.Client
	t *testing.T
}

// open opens a connection that a server takes with a CONNACK.
func open(t *testing.T, ack packets.Packet, got func(packet.Publish)) (*Conn, *server) {
	t.Helper()
	near, far := net.Pipe()
	s := &server{rawmqtt.Over(t, far, rawmqtt.V5), t}
	welcomed := make(chan packets.Packet, 1)
	go func() {
		p := s.Expect(packets.Connect)
		s.Send(ack)
		welcomed <- p
	}()
	if got == nil {
		got = func(packet.Publish) {}
	}
	c, err := Open(t.Context(), near, Config{
		Connect: packet.Connect{ClientID: "me", CleanStart: true, ReceiveMaximum: 7}, OnPublish: func(_ *Conn, p packet.Publish) { got(p) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if p := <-welcomed; p.Connect.ClientIdentifier != "me" || p.Properties.ReceiveMaximum != 7 {
		t.Errorf("CONNECT %+v", p)
	}
	t.Cleanup(func() {
		_ = far.Close()
		c.Close()
	})
	return c, s
}

func connack() packets.Packet {
	return packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connack}, ProtocolVersion: 5}
}

// ends waits until a connection has ended with an error that is want.
func ends(t *testing.T, c *Conn, want error) {
	t.Helper()
	select {
	case <-c.Done():
	case <-time.After(rawmqtt.Patience):
		t.Fatal("it does not end")
	}
	if !errors.Is(c.Err(), want) {
		t.Errorf("it ends with %v, want %v", c.Err(), want)
	}
}

// within is a context for what has to happen soon.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), rawmqtt.Patience)
	t.Cleanup(cancel)
	return ctx
}
