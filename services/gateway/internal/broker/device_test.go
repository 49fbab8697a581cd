package broker

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// lasting asks for the session that the client has, or a new one that outlives the connection.
func lasting(p *packets.Packet) { rawmqtt.Durable(3600)(p) }

// device is a durable client as MQTT wants it: it takes whatever comes, over one connection after another, and
// acknowledges it.
type device struct {
	t       testing.TB
	id      string
	version byte
	conn    *rawmqtt.Client
	reading sync.WaitGroup

	mu       sync.Mutex // guards the following
	taken    []string   // payloads, each as often as the application got it
	released map[uint16]bool
}

func newDevice(t testing.TB, version byte, id string) *device {
	return &device{t: t, id: id, version: version, released: make(map[uint16]bool)}
}

// connect moves the device to g. Its former connection, if there is one, is the gateways' to end.
func (d *device) connect(g *gateway) (present bool) {
	d.t.Helper()
	conn, present := rawmqtt.Come(d.t, g.mqtt, d.version, d.id, lasting)
	d.reading.Wait() // the former connection has ended, or takes nothing more
	d.conn = conn
	return present
}

// run takes what comes until the connection is over.
func (d *device) run() {
	conn := d.conn
	d.reading.Go(func() {
		for {
			p, err := conn.Next(rawmqtt.Patience)
			if err != nil || p.FixedHeader.Type == packets.Disconnect {
				conn.Close()
				return
			}
			kind, answer := d.take(p)
			if !answer {
				continue
			}
			b := rawmqtt.Bytes(d.t, packets.Packet{ProtocolVersion: d.version, FixedHeader: packets.FixedHeader{Type: kind}, PacketID: p.PacketID})
			_ = conn.Conn().SetWriteDeadline(time.Now().Add(rawmqtt.Patience))
			if _, err := conn.Conn().Write(b); err != nil {
				conn.Close()
				return
			}
		}
	})
}

// take does with a packet what a receiver does (4.3).
func (d *device) take(p packets.Packet) (kind byte, answer bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case p.FixedHeader.Type == packets.Pubrel:
		delete(d.released, p.PacketID)
		return packets.Pubcomp, true
	case p.FixedHeader.Type != packets.Publish || p.FixedHeader.Qos == 0:
		return 0, false
	case p.FixedHeader.Qos == 2:
		if !d.released[p.PacketID] {
			d.released[p.PacketID] = true
			d.taken = append(d.taken, string(p.Payload))
		}
		return packets.Pubrec, true
	case slices.Contains(d.taken, string(p.Payload)): // it may come more than once
		return packets.Puback, true
	}
	d.taken = append(d.taken, string(p.Payload))
	return packets.Puback, true
}

func (d *device) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.taken)
}

// close ends the connection without a word, and returns when the device takes nothing more.
func (d *device) close() {
	d.conn.Close()
	d.reading.Wait()
}

// wantAll expects all that the publishers have published, in order, and at QoS 2 each message once.
func (d *device) wantAll(all []*publisher) {
	d.t.Helper()
	total := 0
	for _, p := range all {
		total += p.n
	}
	eventually(d.t, fmt.Sprintf("%s has %d messages", d.id, total), func() bool { return d.count() >= total })
	d.mu.Lock()
	defer d.mu.Unlock()
	next := make(map[string]int)
	for _, got := range d.taken {
		var from string
		var i int
		if _, err := fmt.Sscanf(got, "%s %d", &from, &i); err != nil {
			d.t.Fatalf("%q: %v", got, err)
		}
		if i != next[from] {
			lost := fmt.Sprint(from, " ", next[from])
			d.t.Fatalf("%s got %q, want %q, which is at %d of %d", d.id, got, lost, slices.Index(d.taken, lost), len(d.taken))
		}
		next[from]++
	}
	for _, p := range all {
		if next[p.name] != p.n {
			d.t.Errorf("%d messages of %s, want %d", next[p.name], p.name, p.n)
		}
	}
}

// publisher publishes until stop is closed, and counts what has been acknowledged as far as it looked.
type publisher struct {
	name string
	n    int // published; to be read when it has ended
	done sync.WaitGroup
}

// publish has a client of its own publish at a QoS, a few at a time, until stop is closed. Every message has to be
// acknowledged well.
func (g *gateway) publish(name, topic string, qos byte, stop <-chan struct{}) *publisher {
	g.t.Helper()
	p := &publisher{name: name}
	c := g.connect(v5, name)
	p.done.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if ack := c.Publish(topic, fmt.Sprint(name, " ", p.n), qos); ack.ReasonCode != 0 {
				g.t.Errorf("%s %d: reason code %#x", name, p.n, ack.ReasonCode)
			}
			p.n++
		}
	})
	return p
}
