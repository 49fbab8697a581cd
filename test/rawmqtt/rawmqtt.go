// Package rawmqtt is a client for tests that sends exactly what a test says, right or wrong, and shows exactly
// what comes back. It encodes and decodes with mochi-mqtt's codec, which is not the one that the gateway writes
// with. A Client belongs to one goroutine; every wait is bounded and fails the test.
package rawmqtt

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Patience bounds every wait.
const Patience = 10 * time.Second

// The protocol levels.
const (
	V311 byte = 4
	V5   byte = 5
)

// Client is one connection.
type Client struct {
	Version byte
	t       testing.TB
	nc      net.Conn
	r       *bufio.Reader
	nextID  uint16
	early   []packets.Packet // PUBLISHes that came while a PUBREL was expected
}

// Dial opens a TCP connection and sends nothing.
func Dial(t testing.TB, addr string, version byte) *Client {
	t.Helper()
	nc, err := net.DialTimeout("tcp", addr, Patience)
	if err != nil {
		t.Fatalf("dial %s: %v", addr, err)
	}
	return Over(t, nc, version)
}

// Over makes a client of a connection. It is closed at the end of the test.
func Over(t testing.TB, nc net.Conn, version byte) *Client {
	t.Helper()
	t.Cleanup(func() { _ = nc.Close() })
	return &Client{Version: version, t: t, nc: nc, r: bufio.NewReader(nc)}
}

// Option changes a CONNECT before it is sent.
type Option func(*packets.Packet)

// Connect dials, connects with a clean start and expects to be accepted.
func Connect(t testing.TB, addr string, version byte, id string, opts ...Option) *Client {
	t.Helper()
	c, _ := Come(t, addr, version, id, opts...)
	return c
}

// Come is Connect that also says whether the client had a session.
func Come(t testing.TB, addr string, version byte, id string, opts ...Option) (c *Client, present bool) {
	t.Helper()
	c = Dial(t, addr, version)
	ack := c.Hello(id, opts...)
	if ack.ReasonCode != 0 {
		t.Fatalf("CONNACK %#x for %q", ack.ReasonCode, id)
	}
	return c, ack.SessionPresent
}

// Durable asks for the session that the client has, or a new one, which outlives its connection for so long; in
// MQTT 3.1.1 for ever.
func Durable(seconds uint32) Option {
	return func(p *packets.Packet) {
		p.Connect.Clean = false
		if p.ProtocolVersion == V5 {
			p.Properties.SessionExpiryInterval, p.Properties.SessionExpiryIntervalFlag = seconds, true
		}
	}
}

// Hello sends a CONNECT and returns the CONNACK.
func (c *Client) Hello(id string, opts ...Option) packets.Packet {
	c.t.Helper()
	c.Send(ConnectPacket(c.Version, id, opts...))
	return c.Expect(packets.Connack)
}

// ConnectPacket makes a CONNECT with a clean start and a keep alive of a minute.
func ConnectPacket(version byte, id string, opts ...Option) packets.Packet {
	pk := packets.Packet{
		ProtocolVersion: version,
		FixedHeader:     packets.FixedHeader{Type: packets.Connect},
		Connect: packets.ConnectParams{
			ProtocolName: []byte("MQTT"), ClientIdentifier: id, Clean: true, Keepalive: 60,
		},
	}
	for _, o := range opts {
		o(&pk)
	}
	return pk
}

// Bytes encodes a packet.
func Bytes(t testing.TB, pk packets.Packet) []byte {
	t.Helper()
	var b bytes.Buffer
	var err error
	switch pk.FixedHeader.Type {
	case packets.Connect:
		err = pk.ConnectEncode(&b)
	case packets.Publish:
		err = pk.PublishEncode(&b)
	case packets.Puback:
		err = pk.PubackEncode(&b)
	case packets.Pubrec:
		err = pk.PubrecEncode(&b)
	case packets.Pubrel:
		pk.FixedHeader.Qos = 1
		err = pk.PubrelEncode(&b)
	case packets.Pubcomp:
		err = pk.PubcompEncode(&b)
	case packets.Subscribe:
		pk.FixedHeader.Qos = 1
		err = pk.SubscribeEncode(&b)
	case packets.Unsubscribe:
		pk.FixedHeader.Qos = 1
		err = pk.UnsubscribeEncode(&b)
	case packets.Pingreq:
		err = pk.PingreqEncode(&b)
	case packets.Disconnect:
		err = pk.DisconnectEncode(&b)
	case packets.Auth:
		err = pk.AuthEncode(&b)
	case packets.Connack:
		err = pk.ConnackEncode(&b)
	case packets.Suback:
		err = pk.SubackEncode(&b)
	case packets.Unsuback:
		err = pk.UnsubackEncode(&b)
	default:
		err = fmt.Errorf("packet type %d", pk.FixedHeader.Type)
	}
	if err != nil {
		t.Fatalf("encode %s: %v", packets.PacketNames[pk.FixedHeader.Type], err)
	}
	return b.Bytes()
}

// Send encodes and sends a packet.
func (c *Client) Send(pk packets.Packet) {
	c.t.Helper()
	pk.ProtocolVersion = c.Version
	c.SendRaw(Bytes(c.t, pk))
}

// SendRaw sends bytes as they are.
func (c *Client) SendRaw(b []byte) {
	c.t.Helper()
	_ = c.nc.SetWriteDeadline(time.Now().Add(Patience))
	if _, err := c.nc.Write(b); err != nil {
		c.t.Fatalf("write: %v", err)
	}
}

// ID returns the next packet identifier.
func (c *Client) ID() uint16 {
	c.nextID++
	if c.nextID == 0 {
		c.nextID = 1
	}
	return c.nextID
}

// Subscribe subscribes and returns the SUBACK.
func (c *Client) Subscribe(subs ...packets.Subscription) packets.Packet {
	c.t.Helper()
	c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: c.ID(), Filters: subs})
	return c.Expect(packets.Suback)
}

// MustSubscribe subscribes to one filter and expects its QoS to be granted.
func (c *Client) MustSubscribe(filter string, qos byte) {
	c.t.Helper()
	ack := c.Subscribe(packets.Subscription{Filter: filter, Qos: qos})
	if len(ack.ReasonCodes) != 1 || ack.ReasonCodes[0] != qos {
		c.t.Fatalf("SUBACK %v for %q at QoS %d", ack.ReasonCodes, filter, qos)
	}
}

// Unsubscribe unsubscribes and returns the UNSUBACK.
func (c *Client) Unsubscribe(filters ...string) packets.Packet {
	c.t.Helper()
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe}, PacketID: c.ID()}
	for _, f := range filters {
		pk.Filters = append(pk.Filters, packets.Subscription{Filter: f})
	}
	c.Send(pk)
	return c.Expect(packets.Unsuback)
}

// PublishPacket makes a PUBLISH; its packet identifier is set by the caller for QoS 1 and 2.
func PublishPacket(topic, payload string, qos byte) packets.Packet {
	return packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: qos}, TopicName: topic, Payload: []byte(payload),
	}
}

// Publish publishes and, at QoS 1 and 2, goes through the handshake. It returns the PUBACK or PUBREC.
func (c *Client) Publish(topic, payload string, qos byte) packets.Packet {
	c.t.Helper()
	pk := PublishPacket(topic, payload, qos)
	if qos > 0 {
		pk.PacketID = c.ID()
	}
	c.Send(pk)
	switch qos {
	case 1:
		return c.ExpectAck(packets.Puback, pk.PacketID)
	case 2:
		rec := c.ExpectAck(packets.Pubrec, pk.PacketID)
		if rec.ReasonCode < 0x80 {
			c.Ack(packets.Pubrel, pk.PacketID)
			c.ExpectAck(packets.Pubcomp, pk.PacketID)
		}
		return rec
	}
	return packets.Packet{}
}

// Ack sends a PUBACK, PUBREC, PUBREL or PUBCOMP.
func (c *Client) Ack(kind byte, id uint16) {
	c.t.Helper()
	c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: kind}, PacketID: id})
}

// ExpectAck expects an acknowledgement for id.
func (c *Client) ExpectAck(kind byte, id uint16) packets.Packet {
	c.t.Helper()
	pk := c.Expect(kind)
	if pk.PacketID != id {
		c.t.Fatalf("%s for %d, want %d", packets.PacketNames[kind], pk.PacketID, id)
	}
	return pk
}

// Receive expects a PUBLISH and, at QoS 1 and 2, acknowledges it to the end.
func (c *Client) Receive() packets.Packet {
	c.t.Helper()
	pk := c.Expect(packets.Publish)
	switch pk.FixedHeader.Qos {
	case 1:
		c.Ack(packets.Puback, pk.PacketID)
	case 2:
		c.Ack(packets.Pubrec, pk.PacketID)
		c.ExpectAck(packets.Pubrel, pk.PacketID)
		c.Ack(packets.Pubcomp, pk.PacketID)
	}
	return pk
}

// ReceivePayload expects a PUBLISH with that payload.
func (c *Client) ReceivePayload(want string) packets.Packet {
	c.t.Helper()
	pk := c.Receive()
	if string(pk.Payload) != want {
		c.t.Fatalf("payload %q, want %q", pk.Payload, want)
	}
	return pk
}

// Expect reads the next packet, which has to be of that type. Where a PUBREL is expected, PUBLISHes may come
// before: they are kept for those who expect them.
func (c *Client) Expect(kind byte) packets.Packet {
	c.t.Helper()
	if kind == packets.Publish && len(c.early) > 0 {
		pk := c.early[0]
		c.early = c.early[1:]
		return pk
	}
	pk, err := c.Next(Patience)
	for err == nil && kind == packets.Pubrel && pk.FixedHeader.Type == packets.Publish {
		c.early = append(c.early, pk)
		pk, err = c.Next(Patience)
	}
	if err != nil {
		c.t.Fatalf("waiting for %s: %v", packets.PacketNames[kind], err)
	}
	if pk.FixedHeader.Type != kind {
		c.t.Fatalf("got %s (reason %#x %q), want %s", packets.PacketNames[pk.FixedHeader.Type], pk.ReasonCode,
			pk.Properties.ReasonString, packets.PacketNames[kind])
	}
	return pk
}

// ExpectClosed expects the server to close, at most with a DISCONNECT before, whose reason it returns; 0 when
// there was none.
func (c *Client) ExpectClosed() byte {
	c.t.Helper()
	var reason byte
	for {
		pk, err := c.Next(Patience)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			c.t.Fatal("the connection is still open")
		case err != nil:
			return reason
		case pk.FixedHeader.Type == packets.Disconnect:
			reason = pk.ReasonCode
		default:
			c.t.Fatalf("got %s, want the end", packets.PacketNames[pk.FixedHeader.Type])
		}
	}
}

// ExpectNothing proves that nothing has been sent to the client: a PINGREQ is answered, and nothing came before.
func (c *Client) ExpectNothing() {
	c.t.Helper()
	if len(c.early) > 0 {
		c.t.Fatalf("got %d PUBLISHes more", len(c.early))
	}
	c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingreq}})
	c.Expect(packets.Pingresp)
}

// Disconnect sends a DISCONNECT and closes.
func (c *Client) Disconnect() {
	c.t.Helper()
	c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
	_ = c.nc.Close()
}

// Close closes the socket without a word.
func (c *Client) Close() { _ = c.nc.Close() }

// Conn returns the connection underneath.
func (c *Client) Conn() net.Conn { return c.nc }

// Next reads one packet.
func (c *Client) Next(patience time.Duration) (packets.Packet, error) {
	_ = c.nc.SetReadDeadline(time.Now().Add(patience))
	first, err := c.r.ReadByte()
	if err != nil {
		return packets.Packet{}, fmt.Errorf("read: %w", err)
	}
	pk := packets.Packet{ProtocolVersion: c.Version}
	if err := pk.FixedHeader.Decode(first); err != nil {
		return pk, fmt.Errorf("fixed header %#x: %w", first, err)
	}
	n, _, err := packets.DecodeLength(c.r)
	if err != nil {
		return pk, fmt.Errorf("remaining length: %w", err)
	}
	pk.FixedHeader.Remaining = n
	body := make([]byte, n)
	if _, err := io.ReadFull(c.r, body); err != nil {
		return pk, fmt.Errorf("body: %w", err)
	}
	return pk, decode(&pk, body)
}

func decode(pk *packets.Packet, body []byte) error {
	switch pk.FixedHeader.Type {
	case packets.Connack:
		return pk.ConnackDecode(body)
	case packets.Publish:
		return pk.PublishDecode(body)
	case packets.Puback:
		return pk.PubackDecode(body)
	case packets.Pubrec:
		return pk.PubrecDecode(body)
	case packets.Pubrel:
		return pk.PubrelDecode(body)
	case packets.Pubcomp:
		return pk.PubcompDecode(body)
	case packets.Suback:
		return pk.SubackDecode(body)
	case packets.Unsuback:
		return pk.UnsubackDecode(body)
	case packets.Pingresp:
		return nil
	case packets.Disconnect:
		return pk.DisconnectDecode(body)
	case packets.Connect:
		return pk.ConnectDecode(body)
	case packets.Subscribe:
		return pk.SubscribeDecode(body)
	case packets.Unsubscribe:
		return pk.UnsubscribeDecode(body)
	case packets.Pingreq:
		return nil
	}
	return fmt.Errorf("nobody sends packet type %d", pk.FixedHeader.Type)
}
