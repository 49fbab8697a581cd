//go:build linux

package compose

import (
	"context"
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

// pace is how often each talker publishes.
const pace = 25 * time.Millisecond

// load is pairs of clients that know one address, and connect there again whenever a connection ends: a talker, and a
// listener whose session stays. Half of the pairs are of MQTT 5.
type load struct {
	t       *testing.T
	pairs   []*pair
	calm    context.CancelFunc // ends the talking
	stop    context.CancelFunc // ends the listening
	talking sync.WaitGroup
	hearing sync.WaitGroup
}

// pair is a talker, who publishes 0, 1, 2 and so on, each until it is acknowledged, and its listener.
type pair struct {
	t       *testing.T
	topic   string
	version byte
	ready   chan struct{} // closed when the listener has subscribed
	on      sync.Once

	mu      sync.Mutex     // guards the following
	acked   int            // how many have been acknowledged
	at      time.Time      // when the last one was
	longest time.Duration  // between two of them
	heard   map[string]int // how often each has come
	came    map[string]int // how often talker and listener have connected
}

// load returns when all pairs talk.
func (p *project) load(t *testing.T, address string, pairs int) *load {
	t.Helper()
	l := &load{t: t}
	talk, calm := context.WithCancel(t.Context())
	listen, stop := context.WithCancel(t.Context())
	l.calm, l.stop = calm, stop
	t.Cleanup(l.end)
	for i := range pairs {
		x := &pair{
			t: t, topic: fmt.Sprintf("load/%d", i), version: []byte{rawmqtt.V311, rawmqtt.V5}[i%2],
			ready: make(chan struct{}), heard: map[string]int{}, came: map[string]int{},
		}
		l.pairs = append(l.pairs, x)
		l.hearing.Go(func() { x.keep(listen, address, "listener", x.listen, rawmqtt.Durable(3600)) })
		l.talking.Go(func() {
			select {
			case <-x.ready:
				x.keep(talk, address, "talker", x.talk)
			case <-talk.Done():
			}
		})
	}
	await(t, "all pairs talk", func() bool {
		for _, x := range l.pairs {
			if x.next() < 10 {
				return false
			}
		}
		return true
	})
	return l
}

func (l *load) end() {
	l.calm()
	l.talking.Wait()
	l.stop()
	l.hearing.Wait()
}

// finish ends the talking, and fails the test unless everything that was acknowledged is heard.
func (l *load) finish() {
	l.t.Helper()
	l.calm()
	l.talking.Wait()
	var acked, again, connections int
	var longest time.Duration
	for _, x := range l.pairs {
		await(l.t, x.topic+": everything that was acknowledged", func() bool { return x.isComplete() })
		x.mu.Lock()
		acked += x.acked
		for _, n := range x.heard {
			again += n - 1
		}
		connections += x.came["talker"] + x.came["listener"] - 2
		longest = max(longest, x.longest)
		if x.came["talker"] < 2 || x.came["listener"] < 2 {
			l.t.Errorf("%s was not sent away: %v", x.topic, x.came)
		}
		x.mu.Unlock()
	}
	l.end()
	l.t.Logf("%d messages acknowledged and heard, %d of them more than once; %d clients connected %d times again; longest wait for an acknowledgement %v",
		acked, again, 2*len(l.pairs), connections, longest.Round(time.Millisecond))
}

// keep connects until ctx ends, and has serve use each connection until it returns.
func (x *pair) keep(ctx context.Context, address, role string, serve func(context.Context, *rawmqtt.Client, bool) error, opts ...rawmqtt.Option) {
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		if c, present, err := x.connect(address, role, opts...); err == nil {
			unhook := context.AfterFunc(ctx, c.Close)
			_ = serve(ctx, c, present) // it ends with the connection, however that ends
			unhook()
			c.Close()
		}
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
	}
}

func (x *pair) connect(address, role string, opts ...rawmqtt.Option) (*rawmqtt.Client, bool, error) {
	nc, err := net.DialTimeout("tcp", address, rawmqtt.Patience)
	if err != nil {
		return nil, false, err
	}
	c := rawmqtt.Over(x.t, nc, x.version)
	err = x.send(c, rawmqtt.ConnectPacket(x.version, role+"-of-"+x.topic, opts...))
	ack, nextErr := c.Next(rawmqtt.Patience)
	if err = errors.Join(err, nextErr); err == nil && (ack.FixedHeader.Type != packets.Connack || ack.ReasonCode != 0) {
		err = fmt.Errorf("not accepted: packet of type %d, code %#x", ack.FixedHeader.Type, ack.ReasonCode)
	}
	if err != nil {
		c.Close()
		return nil, false, err
	}
	x.mu.Lock()
	x.came[role]++
	x.mu.Unlock()
	return c, ack.SessionPresent, nil
}

func (x *pair) send(c *rawmqtt.Client, pk packets.Packet) error {
	pk.ProtocolVersion = x.version
	_, err := c.Conn().Write(rawmqtt.Bytes(x.t, pk))
	return err
}

// until reads packets until one is of that kind, which it returns.
func until(c *rawmqtt.Client, kind byte) (packets.Packet, error) {
	for {
		pk, err := c.Next(rawmqtt.Patience)
		if err != nil || pk.FixedHeader.Type == kind {
			return pk, err
		}
	}
}

func (x *pair) talk(ctx context.Context, c *rawmqtt.Client, _ bool) error {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		pk := rawmqtt.PublishPacket(x.topic, strconv.Itoa(x.next()), 1)
		pk.PacketID = c.ID()
		if err := x.send(c, pk); err != nil {
			return err
		}
		ack, err := until(c, packets.Puback)
		if err != nil {
			return err
		}
		if ack.PacketID != pk.PacketID || ack.ReasonCode >= 0x80 {
			return fmt.Errorf("PUBACK %#x for %d", ack.ReasonCode, ack.PacketID)
		}
		x.acknowledged()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (x *pair) listen(_ context.Context, c *rawmqtt.Client, present bool) error {
	if !present {
		select {
		case <-x.ready:
			x.t.Errorf("%s: the session of the listener is gone", x.topic)
		default:
		}
		subscribe := packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: c.ID(),
			Filters: []packets.Subscription{{Filter: x.topic, Qos: 1}},
		}
		if err := x.send(c, subscribe); err != nil {
			return err
		}
		if _, err := until(c, packets.Suback); err != nil {
			return err
		}
		x.on.Do(func() { close(x.ready) })
	}
	for {
		pk, err := until(c, packets.Publish)
		if err != nil {
			return err
		}
		x.hear(string(pk.Payload))
		if err := x.send(c, packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: pk.PacketID}); err != nil {
			return err
		}
	}
}

// next is the message that is to be published, or is under way.
func (x *pair) next() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.acked
}

func (x *pair) acknowledged() {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := time.Now()
	if x.acked > 0 {
		x.longest = max(x.longest, now.Sub(x.at))
	}
	x.acked, x.at = x.acked+1, now
}

func (x *pair) hear(payload string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.heard[payload]++
}

// isComplete reports whether everything that was acknowledged has come.
func (x *pair) isComplete() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := range x.acked {
		if x.heard[strconv.Itoa(i)] == 0 {
			return false
		}
	}
	return true
}
