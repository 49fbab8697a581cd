//go:build linux

package faults

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// refused says that a CONNECT was answered, with this code.
type refused byte

func (r refused) Error() string { return fmt.Sprintf("CONNACK %#x", byte(r)) }

// unavailable is how a gateway refuses clients when the cluster cannot take any.
func unavailable(version byte) refused {
	if version == rawmqtt.V5 {
		return 0x88
	}
	return 3
}

// arrival is one PUBLISH that a client got.
type arrival struct {
	topic   string
	payload string
	n       int // the payload, if it is a number; else -1
	at      time.Time
	acked   bool // an acknowledgement may have been sent
}

// client is one connection. A goroutine reads whatever comes, acknowledges it and writes it down.
type client struct {
	id      string
	version byte
	t       testing.TB
	raw     *rawmqtt.Client
	writing sync.Mutex
	nextID  uint16 // of SUBSCRIBEs, which are the test's alone
	answers chan packets.Packet
	done    chan struct{} // closed when the connection is over

	mu         sync.Mutex // guards the following
	got        []arrival
	kinds      []byte // of all packets, in order
	onAck      func(packets.Packet)
	onPublish  func(packets.Packet) // called before the message is acknowledged
	mute       bool                 // nothing is acknowledged
	disconnect byte                 // reason of the DISCONNECT that came
	ended      time.Time
	err        error
	changed    chan struct{} // closed and replaced at each arrival and at the end
}

// dial connects with a clean start. The error is a refused when the gateway has said no; any other says that
// there was no answer within patience, or no connection.
func dial(t testing.TB, addr string, version byte, id string, patience time.Duration, opts ...rawmqtt.Option) (*client, error) {
	t.Helper()
	nc, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return nil, err
	}
	c := &client{
		id: id, version: version, t: t, raw: rawmqtt.Over(t, nc, version),
		answers: make(chan packets.Packet, 16), done: make(chan struct{}), changed: make(chan struct{}),
	}
	if err := c.send(rawmqtt.ConnectPacket(version, id, opts...)); err != nil {
		c.raw.Close()
		return nil, err
	}
	ack, err := c.raw.Next(patience)
	switch {
	case err != nil:
	case ack.FixedHeader.Type != packets.Connack:
		err = fmt.Errorf("%s instead of CONNACK", packets.PacketNames[ack.FixedHeader.Type])
	case ack.ReasonCode != 0:
		err = refused(ack.ReasonCode)
	}
	if err != nil {
		c.raw.Close()
		return nil, err
	}
	go c.read()
	return c, nil
}

// connect is dial for a client that has to be accepted.
func connect(t testing.TB, addr string, version byte, id string, opts ...rawmqtt.Option) *client {
	t.Helper()
	c, err := dial(t, addr, version, id, patience, opts...)
	if err != nil {
		t.Fatalf("connect %q to %s: %v", id, addr, err)
	}
	return c
}

// send writes a packet. An error says that the connection is over.
func (c *client) send(pk packets.Packet) error {
	pk.ProtocolVersion = c.version
	b := rawmqtt.Bytes(c.t, pk)
	c.writing.Lock()
	defer c.writing.Unlock()
	_ = c.raw.Conn().SetWriteDeadline(time.Now().Add(patience))
	_, err := c.raw.Conn().Write(b)
	return err
}

func (c *client) ack(kind byte, id uint16) {
	// That it fails shows in the read.
	_ = c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: kind}, PacketID: id})
}

func (c *client) read() {
	defer close(c.done)
	for {
		pk, err := c.raw.Next(time.Hour)
		c.mu.Lock()
		if err != nil {
			c.ended, c.err = time.Now(), err
			c.notify()
			c.mu.Unlock()
			c.raw.Close()
			return
		}
		c.kinds = append(c.kinds, pk.FixedHeader.Type)
		onAck, onPublish, mute := c.onAck, c.onPublish, c.mute
		switch pk.FixedHeader.Type {
		case packets.Publish:
			a := arrival{topic: pk.TopicName, payload: string(pk.Payload), n: -1, at: time.Now(), acked: !mute}
			if n, err := strconv.Atoi(a.payload); err == nil {
				a.n = n
			}
			c.got = append(c.got, a)
		case packets.Disconnect:
			c.disconnect = pk.ReasonCode
		}
		c.notify()
		c.mu.Unlock()
		if pk.FixedHeader.Type == packets.Publish && onPublish != nil {
			onPublish(pk)
		}
		if !mute {
			c.respond(pk, onAck)
		}
	}
}

// respond does what the protocol demands of a client.
func (c *client) respond(pk packets.Packet, onAck func(packets.Packet)) {
	switch pk.FixedHeader.Type {
	case packets.Publish:
		switch pk.FixedHeader.Qos {
		case 1:
			c.ack(packets.Puback, pk.PacketID)
		case 2:
			c.ack(packets.Pubrec, pk.PacketID)
		}
	case packets.Pubrel:
		c.ack(packets.Pubcomp, pk.PacketID)
	case packets.Puback, packets.Pubrec, packets.Pubcomp:
		if pk.FixedHeader.Type == packets.Pubrec && pk.ReasonCode < 0x80 {
			c.ack(packets.Pubrel, pk.PacketID)
		}
		if onAck != nil {
			onAck(pk)
		}
	case packets.Suback, packets.Unsuback, packets.Pingresp:
		c.answers <- pk
	}
}

// hear has f called with each message from now on.
func (c *client) hear(f func(packets.Packet)) *client {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onPublish = f
	return c
}

// hush has the client acknowledge nothing from now on.
func (c *client) hush() *client {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mute = true
	return c
}

// notify needs mu.
func (c *client) notify() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// alive reports whether nothing has ended the connection yet, as far as it is known here.
func (c *client) alive() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// end returns when the connection ended and what the DISCONNECT said, 0 when there was none. A connection that is
// still open after limit fails the test.
func (c *client) end(limit time.Duration) (at time.Time, reason byte) {
	c.t.Helper()
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case <-c.done:
	case <-timeout.C:
		c.t.Fatalf("the connection of %q has not ended within %v", c.id, limit)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended, c.disconnect
}

// errOver says that the connection ended before the answer came.
var errOver = errors.New("the connection is over")

// answer waits for the answer to a SUBSCRIBE or PINGREQ.
func (c *client) answer(kind byte, limit time.Duration) (packets.Packet, error) {
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case pk := <-c.answers:
		if pk.FixedHeader.Type != kind {
			return pk, fmt.Errorf("%s instead of %s", packets.PacketNames[pk.FixedHeader.Type], packets.PacketNames[kind])
		}
		return pk, nil
	case <-c.done:
		return packets.Packet{}, errOver
	case <-timeout.C:
		return packets.Packet{}, fmt.Errorf("no %s within %v", packets.PacketNames[kind], limit)
	}
}

// trySubscribe subscribes to one filter and returns the code in the SUBACK.
func (c *client) trySubscribe(filter string, qos byte) (byte, error) {
	c.nextID++
	err := c.send(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: c.nextID,
		Filters: packets.Subscriptions{{Filter: filter, Qos: qos}},
	})
	if err != nil {
		return 0, err
	}
	pk, err := c.answer(packets.Suback, patience)
	if err != nil {
		return 0, err
	}
	return pk.ReasonCodes[0], nil
}

// subscribe is trySubscribe where it has to work.
func (c *client) subscribe(filter string, qos byte) *client {
	c.t.Helper()
	code, err := c.trySubscribe(filter, qos)
	if err != nil || code != qos {
		c.t.Fatalf("%q subscribes to %q at QoS %d: code %#x, %v", c.id, filter, qos, code, err)
	}
	return c
}

// ping asks whether the connection is served. nil: it is, at this moment.
func (c *client) ping(limit time.Duration) error {
	if err := c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingreq}}); err != nil {
		return err
	}
	_, err := c.answer(packets.Pingresp, limit)
	return err
}

// mustServe fails the test unless the connection is served.
func (c *client) mustServe() {
	c.t.Helper()
	if err := c.ping(patience); err != nil {
		c.t.Fatalf("%q is not served: %v", c.id, err)
	}
}

// arrivals returns what came under a topic, under any when it is empty.
func (c *client) arrivals(topic string) []arrival {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []arrival
	for _, a := range c.got {
		if topic == "" || a.topic == topic {
			all = append(all, a)
		}
	}
	return all
}

// packets returns how many packets of each kind the client got.
func (c *client) packets() map[byte]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	count := map[byte]int{}
	for _, k := range c.kinds {
		count[k]++
	}
	return count
}

// receive waits for a payload under a topic.
func (c *client) receive(topic, payload string) {
	c.t.Helper()
	if err := c.waitFor(topic, payload); err != nil {
		c.t.Fatalf("%q waits for %q on %q: %v", c.id, payload, topic, err)
	}
}

// await waits until a number has come under a topic, if it comes. -1 is there already.
func (c *client) await(topic string, n int) {
	if n >= 0 {
		_ = c.waitFor(topic, strconv.Itoa(n)) // what is missing is the caller's to say
	}
}

func (c *client) waitFor(topic, payload string) error {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for seen := 0; ; {
		c.mu.Lock()
		for ; seen < len(c.got); seen++ {
			if a := c.got[seen]; a.topic == topic && a.payload == payload {
				c.mu.Unlock()
				return nil
			}
		}
		changed, err := c.changed, c.err
		c.mu.Unlock()
		if err != nil {
			return err
		}
		select {
		case <-changed:
		case <-timeout.C:
			return fmt.Errorf("not within %v", patience)
		}
	}
}

// close ends the connection without a word.
func (c *client) close() {
	c.raw.Close()
	<-c.done
}
