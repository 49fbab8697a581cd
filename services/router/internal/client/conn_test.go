package client

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestWhatIsPublishedIsAcknowledged(t *testing.T) {
	c, s := open(t, connack(), nil)
	for _, test := range []struct {
		qos  byte
		code packet.Code
	}{{0, packet.Success}, {1, packet.NoMatchingSubscribers}, {2, packet.QuotaExceeded}, {2, packet.Success}} {
		var code packet.Code
		done := make(chan error, 1)
		go func() {
			var err error
			code, err = c.Publish(within(t), &message.Message{Topic: "t", Payload: []byte("x"), QoS: test.qos})
			done <- err
		}()
		p := s.Expect(packets.Publish)
		switch test.qos {
		case 1:
			s.SendRaw([]byte{0x40, 3, byte(p.PacketID >> 8), byte(p.PacketID), byte(test.code)})
		case 2:
			s.Send(ackOf(packets.Pubrec, p.PacketID, test.code))
			if !test.code.Failure() {
				s.ExpectAck(packets.Pubrel, p.PacketID)
				s.Send(ackOf(packets.Pubcomp, p.PacketID, packet.Success))
			}
		}
		if err := <-done; err != nil || code != test.code {
			t.Errorf("QoS %d: %v, %v, want %v", test.qos, code, err, test.code)
		}
	}
}

func ackOf(kind byte, id uint16, code packet.Code) packets.Packet {
	return packets.Packet{FixedHeader: packets.FixedHeader{Type: kind}, ProtocolVersion: 5, PacketID: id, ReasonCode: byte(code)}
}

func TestAMessageWaitsForTheServersWindow(t *testing.T) {
	ack := connack()
	ack.Properties.ReceiveMaximum = 1
	c, s := open(t, ack, nil)
	published := make(chan error, 2)
	publish := func(payload string) {
		_, err := c.Publish(within(t), &message.Message{Topic: "t", Payload: []byte(payload), QoS: 1})
		published <- err
	}
	go publish("first")
	first := s.Expect(packets.Publish)
	go publish("second")
	s.Send(ackOf(packets.Puback, first.PacketID, packet.Success))
	if err := <-published; err != nil {
		t.Fatal(err)
	}
	second := s.Expect(packets.Publish)
	// Whoever gives up leaves the window as it is until the answer comes.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Publish(ctx, &message.Message{Topic: "t", QoS: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want context.Canceled", err)
	}
	s.Send(ackOf(packets.Puback, second.PacketID, packet.Success))
	if err := <-published; err != nil {
		t.Fatal(err)
	}
}

func TestAMessageThatTheServerDoesNotTakeIsNotSent(t *testing.T) {
	ack := connack()
	ack.Properties.MaximumPacketSize = 50
	c, _ := open(t, ack, nil)
	if _, err := c.Publish(within(t), &message.Message{Topic: "t", Payload: make([]byte, 50), QoS: 1}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("%v, want ErrTooLarge", err)
	}
}

func TestSubscriptionsAreAnsweredFilterByFilter(t *testing.T) {
	c, s := open(t, connack(), nil)
	go func() {
		p := s.Expect(packets.Subscribe)
		s.Send(packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Suback}, ProtocolVersion: 5, PacketID: p.PacketID, ReasonCodes: []byte{1, 0x87},
		})
		p = s.Expect(packets.Unsubscribe)
		s.Send(packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Unsuback}, ProtocolVersion: 5, PacketID: p.PacketID, ReasonCodes: []byte{0},
		})
	}()
	got, err := c.Subscribe(within(t), []packet.Filter{{Filter: "a", Options: subscriptions.Options{QoS: 1}}, {Filter: "b"}})
	if diff := cmp.Diff([]packet.Code{packet.GrantedQoS1, packet.NotAuthorized}, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if got, err = c.Unsubscribe(within(t), []string{"a"}); err != nil || !cmp.Equal(got, []packet.Code{packet.Success}) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestMessagesComeInOrderAndAreAcknowledgedByHand(t *testing.T) {
	got := make(chan packet.Publish, 10)
	c, s := open(t, connack(), func(p packet.Publish) { got <- p })
	for id, qos := range []byte{0, 1, 2} {
		p := rawmqtt.PublishPacket("t", "x", qos)
		p.ProtocolVersion, p.PacketID = 5, uint16(id)
		s.Send(p)
		if p := <-got; p.QoS != qos || string(p.Payload) != "x" {
			t.Fatalf("got %+v", p)
		}
	}
	c.Acknowledge(packet.Ack{Type: packet.PUBACK, PacketID: 1}, packet.Ack{Type: packet.PUBREC, PacketID: 2})
	s.ExpectAck(packets.Puback, 1)
	s.ExpectAck(packets.Pubrec, 2)
	s.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrel, Qos: 1}, ProtocolVersion: 5, PacketID: 2})
	s.ExpectAck(packets.Pubcomp, 2)
}

func TestAConnectionSaysWhyItHasEnded(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(*server)
		want error
	}{
		"the server closes it": {func(s *server) { s.Close() }, io.EOF},
		"an answer to nothing": {func(s *server) { s.Send(ackOf(packets.Puback, 3, 0)) }, errUnasked},
		"what no server sends": {func(s *server) { s.SendRaw([]byte{0xc0, 0}) }, errUnasked},
	} {
		t.Run(name, func(t *testing.T) {
			c, s := open(t, connack(), nil)
			test.end(s)
			ends(t, c, test.want)
			if _, err := c.Publish(within(t), &message.Message{Topic: "t", QoS: 1}); !errors.Is(err, test.want) {
				t.Errorf("a message afterwards: %v, want %v", err, test.want)
			}
		})
	}
	c, s := open(t, connack(), nil)
	s.Send(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Disconnect}, ProtocolVersion: 5, ReasonCode: 0x8e,
		Properties: packets.Properties{ReasonString: "elsewhere"},
	})
	<-c.Done()
	var d *DisconnectedError
	if !errors.As(c.Err(), &d) || d.Code != packet.SessionTakenOver || d.Reason != "elsewhere" {
		t.Errorf("%v, want a DISCONNECT", c.Err())
	}
}

func TestCloseSaysSoToTheServer(t *testing.T) {
	c, s := open(t, connack(), nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Close()
	}()
	if p := s.Expect(packets.Disconnect); p.ReasonCode != 0 {
		t.Errorf("DISCONNECT %#x", p.ReasonCode)
	}
	s.Close()
	<-done
	if !errors.Is(c.Err(), ErrClosed) {
		t.Errorf("%v, want ErrClosed", c.Err())
	}
}

func TestAConnectionThatIsNotTaken(t *testing.T) {
	near, far := net.Pipe()
	s := rawmqtt.Over(t, far, rawmqtt.V5)
	go func() {
		s.Expect(packets.Connect)
		ack := connack()
		ack.ReasonCode, ack.Properties.ReasonString = 0x88, "later"
		s.Send(ack)
	}()
	_, err := Open(within(t), near, Config{})
	var r *RefusedError
	if !errors.As(err, &r) || r.Code != packet.ServerUnavailable || r.Reason != "later" {
		t.Errorf("%v, want a CONNACK", err)
	}
	near, far = net.Pipe()
	defer far.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, near, Config{}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want context.Canceled", err)
	}
}

func TestASilentServerIsNoticed(t *testing.T) {
	near, far := net.Pipe()
	s := rawmqtt.Over(t, far, rawmqtt.V5)
	go func() {
		s.Expect(packets.Connect)
		s.Send(connack())
	}()
	c, err := Open(within(t), near, Config{Connect: packet.Connect{KeepAlive: 1}, OnPublish: func(*Conn, packet.Publish) {}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s.Expect(packets.Pingreq)
	ends(t, c, ErrSilent)
}

func TestTheServersKeepAliveCounts(t *testing.T) {
	ack := connack()
	ack.Properties.ServerKeepAlive, ack.Properties.ServerKeepAliveFlag = 1, true
	c, s := open(t, ack, nil)
	s.Expect(packets.Pingreq)
	ends(t, c, ErrSilent)
}
