//go:build linux

package faults

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// window is how many messages of one publisher are in flight.
const window = 16

// publication is one message of a publisher.
type publication struct {
	sent  time.Time
	acked time.Time // of the PUBACK or PUBREC; zero: none came
	code  byte
}

// publisher publishes numbers, from 0 on, to a topic of its own, until it is told to stop or its connection ends.
type publisher struct {
	*client
	topic string
	qos   byte
	stop  chan struct{}
	idle  chan struct{} // closed when it has stopped and all answers are there, or the connection is over
	slots chan struct{}

	mu    sync.Mutex // guards the following
	sent  []publication
	acked int
}

// publish starts a publisher that sends a message every pace at the most.
func publish(c *client, topic string, qos byte, pace time.Duration) *publisher {
	p := &publisher{
		client: c, topic: topic, qos: qos,
		stop: make(chan struct{}), idle: make(chan struct{}), slots: make(chan struct{}, window),
	}
	c.mu.Lock()
	c.onAck = p.acknowledged
	c.mu.Unlock()
	go p.run(pace)
	return p
}

func (p *publisher) run(pace time.Duration) {
	defer close(p.idle)
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-p.stop:
			p.drain()
			return
		case <-p.done:
			return
		case <-tick.C:
		}
		select {
		case p.slots <- struct{}{}:
		case <-p.stop:
			p.drain()
			return
		case <-p.done:
			return
		}
		p.mu.Lock()
		p.sent = append(p.sent, publication{sent: time.Now()})
		p.mu.Unlock()
		if p.qos == 0 {
			<-p.slots
		}
		pk := rawmqtt.PublishPacket(p.topic, strconv.Itoa(n), p.qos)
		pk.PacketID = uint16(n%65535) + 1
		if p.send(pk) != nil {
			<-p.done
			return
		}
	}
}

// drain waits until nothing is in flight.
func (p *publisher) drain() {
	for range window {
		select {
		case p.slots <- struct{}{}:
		case <-p.done:
			return
		}
	}
}

// acknowledged is called on the reading goroutine.
func (p *publisher) acknowledged(pk packets.Packet) {
	final := pk.FixedHeader.Type == packets.Puback || pk.FixedHeader.Type == packets.Pubcomp || pk.ReasonCode >= 0x80
	if pk.FixedHeader.Type != packets.Pubcomp {
		p.mu.Lock()
		// The packet identifier is the number, as long as there are fewer than 65,535 in flight.
		n := len(p.sent) - 1
		n -= (n%65535 + 1 - int(pk.PacketID) + 65535) % 65535
		if n < 0 || !p.sent[n].acked.IsZero() {
			p.t.Errorf("%q: %s for %d, which is not in flight", p.id, packets.PacketNames[pk.FixedHeader.Type], pk.PacketID)
		} else {
			p.sent[n].acked, p.sent[n].code = time.Now(), pk.ReasonCode
			p.acked++
		}
		p.mu.Unlock()
	}
	if final {
		<-p.slots
	}
}

// history returns what was published so far.
func (p *publisher) history() []publication {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.sent)
}

// acks returns how many messages were acknowledged, in whatever way.
func (p *publisher) acks() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.acked
}

// finish stops the publisher and waits for the answers that are outstanding.
func (p *publisher) finish(limit time.Duration) {
	p.t.Helper()
	close(p.stop)
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case <-p.idle:
	case <-timeout.C:
		p.t.Errorf("%q: %d of %d messages are not acknowledged after %v", p.id, len(p.history())-p.acks(), len(p.history()), limit)
	}
}

// lastSuccess returns the number of the last message that was acknowledged with success, -1 when there is none.
func (p *publisher) lastSuccess() int { return p.lastSuccessAfter(time.Time{}) }

// lastSuccessAfter is lastSuccess, unless that message was sent before a moment.
func (p *publisher) lastSuccessAfter(since time.Time) int {
	h := p.history()
	for n := len(h) - 1; n >= 0 && h[n].sent.After(since); n-- {
		if !h[n].acked.IsZero() && h[n].code < 0x80 {
			return n
		}
	}
	return -1
}

// gap returns the longest time without an acknowledgement between two moments.
func (p *publisher) gap(from, to time.Time) time.Duration {
	longest, last := time.Duration(0), from
	for _, m := range p.history() {
		if m.acked.After(last) && m.acked.Before(to) {
			longest = max(longest, m.acked.Sub(last))
			last = m.acked
		}
	}
	return max(longest, to.Sub(last))
}

// resumed returns how long after a moment the first message that was sent after it was acknowledged.
func (p *publisher) resumed(since time.Time) (time.Duration, bool) {
	for _, m := range p.history() {
		if m.sent.After(since) && !m.acked.IsZero() {
			return m.acked.Sub(since), true
		}
	}
	return 0, false
}

// waitForAcks waits until each publisher has got n acknowledgements more.
func waitForAcks(t testing.TB, n int, publishers ...*publisher) {
	t.Helper()
	want := make([]int, len(publishers))
	for i, p := range publishers {
		want[i] = p.acks() + n
	}
	for i, p := range publishers {
		eventually(t, fmt.Sprintf("%q gets %d acknowledgements more", p.id, n), func() bool {
			return p.acks() >= want[i] || !p.alive()
		})
		if !p.alive() {
			t.Fatalf("the connection of %q has ended: %v", p.id, p.err)
		}
	}
}

// checkOrder fails the test unless everything that came under a topic came once and in order. It returns the
// numbers.
func checkOrder(t testing.TB, c *client, topic string) map[int]bool {
	t.Helper()
	last, seen := -1, map[int]bool{}
	for _, a := range c.arrivals(topic) {
		switch {
		case a.n < 0:
			t.Errorf("%q got %q on %q", c.id, a.payload, topic)
		case seen[a.n]:
			t.Errorf("%q got %d on %q twice", c.id, a.n, topic)
		case a.n < last:
			t.Errorf("%q got %d on %q after %d", c.id, a.n, topic, last)
		}
		last = max(last, a.n)
		seen[a.n] = true
	}
	return seen
}

// checkReceived fails the test unless c, which was subscribed all the time, got all that p published
// successfully, once and in order. When p has lived, everything must have been acknowledged, with success.
func checkReceived(t testing.TB, p *publisher, c *client) {
	t.Helper()
	// An acknowledgement says that the message is in the receiver's queue: it may still be on its way.
	c.await(p.topic, p.lastSuccess())
	seen := checkOrder(t, c, p.topic)
	lost, first := 0, 0
	for n, m := range p.history() {
		switch {
		case m.acked.IsZero() && p.alive():
			t.Errorf("%q: %d was never acknowledged", p.id, n)
		case m.code >= 0x80:
			t.Errorf("%q: %d was refused with %#x", p.id, n, m.code)
		case !m.acked.IsZero() && !seen[n]:
			if lost == 0 {
				first = n
			}
			lost++
		}
	}
	if lost > 0 {
		m := p.history()[first]
		t.Errorf("%q has not got %d of %d messages on %q that were acknowledged, first %d (sent %v, acknowledged with %#x %v later)",
			c.id, lost, len(p.history()), p.topic, first, m.sent.Format(time.TimeOnly), m.code, m.acked.Sub(m.sent))
	}
}
