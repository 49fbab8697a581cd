package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	beeline "github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/test/clustertest"
)

// shared is a cluster of three gateways, made when the first test of the package wants it, for all of them.
var shared struct {
	once sync.Once
	dir  string
	*clustertest.Cluster
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	code = m.Run()
	var err error
	if shared.Cluster != nil {
		err = errors.Join(shared.Close(), os.RemoveAll(shared.dir))
	}
	if err := errors.Join(err, goleak.Find()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// cluster returns the shared cluster.
func cluster(t testing.TB) *clustertest.Cluster {
	t.Helper()
	shared.once.Do(func() {
		var err error
		if shared.dir, err = os.MkdirTemp("", "bench"); err != nil { //nolint:usetesting // it outlives the test
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if shared.Cluster, err = clustertest.Open(ctx, shared.dir, 3, io.Discard); err != nil {
			t.Fatal(err)
		}
	})
	if shared.Cluster == nil {
		t.Fatal("the cluster did not start")
	}
	return shared.Cluster
}

func broker(address string) Broker {
	return Broker{Name: address, Dial: func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}}
}

// gateways are all of the cluster.
func gateways(t testing.TB) []Broker {
	t.Helper()
	c := cluster(t)
	return []Broker{broker(c.MQTT(0)), broker(c.MQTT(1)), broker(c.MQTT(2))}
}

// config is that of a short run.
func config(t testing.TB, v5 bool, brokers ...Broker) Config {
	t.Helper()
	return Config{
		Brokers: brokers, Login: Login{V5: v5}, Prefix: t.Name(), Warmup: 20 * time.Millisecond, Duration: 200 * time.Millisecond,
		Processes: []Process{{Name: "me", PID: os.Getpid()}}, quiet: 500 * time.Millisecond, settle: 100 * time.Millisecond,
	}
}

// load is a small one.
func load(qos byte, rate int) Load {
	return Load{Rate: rate, QoS: qos, Size: MinSize, Window: 8, Tick: time.Millisecond}
}

// both runs f for both versions of MQTT.
func both(t *testing.T, f func(t *testing.T, v5 bool)) {
	t.Helper()
	t.Run("3.1.1", func(t *testing.T) { f(t, false) })
	t.Run("5", func(t *testing.T) { f(t, true) })
}

// fake is a broker with faults, written with the codec of the gateways. Without faults it does what is wanted of
// it here, and no more.
type fake struct {
	// route says what the receivers get instead of a message, in this order; it is called with the lock held. Nil:
	// the message.
	route func(n int, m beeline.Message) []beeline.Message
	// refuse is the code with which it refuses a client id.
	refuse func(id string) packet.Code
	// takes is how many packets it reads of one connection before it says goodbye; 0: any number.
	takes int
	// hears reports whether it acts on a packet of this type. Nil: it does.
	hears func(c *fakeConn, t packet.Type) bool
	// keeps has it keep the first connection when there is a second with the same client id.
	keeps bool
	// acks is how often it acknowledges a PUBLISH with QoS 1; 0 is once.
	acks int
	// forgets has it say that there is no session when there is one.
	forgets bool
	// wake says what a client whose session is there gets instead of what waits for it; nil: that.
	wake func(waiting []beeline.Message) []beeline.Message

	t        testing.TB
	l        net.Listener
	wg       sync.WaitGroup
	mu       sync.Mutex // guards what follows, and writing
	conns    map[net.Conn]bool
	clients  map[string]*fakeConn   // the newest
	receives map[string][]*fakeConn // by topic
	messages int
}

type fakeConn struct {
	nc  net.Conn
	v   packet.Version
	qos byte
	ids uint16
	nth int // of the connections with its client id, from 1

	durable bool
	away    bool
	unacked []unacked
	waiting []beeline.Message
}

// unacked is a message that was sent to a durable client, and not acknowledged.
type unacked struct {
	id uint16
	m  beeline.Message
}

// start lets it accept connections until the end of the test.
func (f *fake) start(t testing.TB) Broker {
	t.Helper()
	var err error
	if f.l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	f.t, f.conns, f.clients, f.receives = t, make(map[net.Conn]bool), make(map[string]*fakeConn), make(map[string][]*fakeConn)
	f.wg.Go(func() {
		for {
			nc, err := f.l.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.conns[nc] = true
			f.mu.Unlock()
			f.wg.Go(func() { f.serve(nc) })
		}
	})
	t.Cleanup(func() {
		_ = f.l.Close()
		f.mu.Lock()
		for nc := range f.conns {
			_ = nc.Close()
		}
		f.mu.Unlock()
		f.wg.Wait()
	})
	return broker(f.l.Addr().String())
}

func (f *fake) serve(nc net.Conn) {
	c := &fakeConn{nc: nc}
	defer func() {
		f.mu.Lock()
		c.away = c.durable
		f.mu.Unlock()
		_ = nc.Close()
	}()
	r := packet.NewReader(nc)
	for n := 1; f.takes == 0 || n <= f.takes; n++ {
		first, body, _, err := r.Next(1 << 20)
		if err != nil {
			return
		}
		f.mu.Lock()
		if f.hears == nil || f.hears(c, packet.Type(first>>4)) {
			err = f.handle(c, first, body)
		}
		f.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// handle does what one packet asks for. The lock is held.
func (f *fake) handle(c *fakeConn, first byte, body []byte) error {
	switch t := packet.Type(first >> 4); t {
	case packet.CONNECT:
		return f.connect(c, body)
	case packet.SUBSCRIBE:
		s, err := packet.DecodeSubscribe(c.v, first, body)
		if err != nil {
			return err
		}
		c.qos = s.Filters[0].Options.QoS
		f.receives[s.Filters[0].Filter] = append(f.receives[s.Filters[0].Filter], c)
		return c.write(packet.AppendSuback(nil, c.v, s.PacketID, []packet.Code{packet.Code(c.qos)}))
	case packet.PUBLISH:
		p, err := packet.DecodePublish(c.v, first, body, false)
		if err != nil {
			return err
		}
		return f.publish(c, p)
	case packet.PUBACK, packet.PUBREC, packet.PUBREL:
		a, err := packet.DecodeAck(c.v, first, body)
		if err != nil {
			return err
		}
		c.unacked = slices.DeleteFunc(c.unacked, func(u unacked) bool { return u.id == a.PacketID })
		if t == packet.PUBACK {
			return nil
		}
		return c.write(packet.AppendAck(nil, c.v, t+1, a.PacketID, packet.Success))
	case packet.PINGREQ:
		return c.write(packet.AppendPingresp(nil))
	case packet.DISCONNECT:
		return io.EOF
	}
	return nil
}

func (f *fake) connect(c *fakeConn, body []byte) error {
	p, err := packet.DecodeConnect(body)
	if err != nil {
		return err
	}
	c.v, c.nth, c.durable = p.Version, 1, !p.CleanStart
	present := false
	if old := f.clients[p.ClientID]; old != nil {
		c.nth = old.nth + 1
		if !f.keeps {
			_ = old.nc.Close()
		}
		present = old.durable && c.durable
		f.inherit(c, old)
	}
	f.clients[p.ClientID] = c
	code := packet.Success
	if f.refuse != nil {
		code = f.refuse(p.ClientID)
	}
	if err := c.write(packet.AppendConnack(nil, c.v, packet.Connack{Code: code, SessionPresent: present && !f.forgets})); err != nil {
		return err
	}
	for _, m := range c.waiting {
		if err := f.deliver(c, &m); err != nil {
			return err
		}
	}
	c.waiting = nil
	return nil
}

// inherit gives the session of an older connection to a newer one, when both are durable, and else ends it.
func (f *fake) inherit(c, old *fakeConn) {
	if old.durable && c.durable {
		c.qos = old.qos
		for _, u := range old.unacked {
			c.waiting = append(c.waiting, u.m)
		}
		c.waiting = append(c.waiting, old.waiting...)
		if f.wake != nil {
			c.waiting = f.wake(c.waiting)
		}
	}
	for topic, all := range f.receives {
		for i, x := range all {
			switch {
			case x != old:
			case old.durable && c.durable:
				all[i] = c
			case old.durable:
				f.receives[topic] = slices.Delete(slices.Clone(all), i, i+1)
			}
		}
	}
}

func (f *fake) deliver(to *fakeConn, m *beeline.Message) error {
	to.ids++
	if to.durable {
		to.unacked = append(to.unacked, unacked{id: to.ids, m: *m})
	}
	o := packet.PublishOptions{QoS: min(m.QoS, to.qos), PacketID: to.ids}
	return to.write(packet.AppendPublish(nil, to.v, m, o, time.Now()))
}

func (f *fake) publish(c *fakeConn, p packet.Publish) error {
	m := beeline.Message{Topic: p.Topic, Payload: p.Payload, QoS: p.QoS}
	all := []beeline.Message{m}
	if f.route != nil {
		all = f.route(f.messages, m)
	}
	f.messages++
	for _, m := range all {
		for _, to := range f.receives[p.Topic] {
			if to.durable {
				m.Payload = slices.Clone(m.Payload)
			}
			if to.away {
				to.waiting = append(to.waiting, m)
				continue
			}
			if err := f.deliver(to, &m); err != nil && !to.durable {
				return nil
			}
		}
	}
	ack := map[byte]packet.Type{1: packet.PUBACK, 2: packet.PUBREC}[p.QoS]
	for range max(f.acks, 1) {
		if p.QoS == 0 {
			break
		}
		if err := c.write(packet.AppendAck(nil, c.v, ack, p.PacketID, packet.Success)); err != nil {
			return err
		}
	}
	return nil
}

func (c *fakeConn) write(b []byte) error {
	_, err := c.nc.Write(b)
	return err
}
