//go:build linux

package faults

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// ownership is the history of who holds some clients, as the clients see it: a connection that has got its
// CONNACK is the client's, until a newer one has. Only the one that is may be answered.
type ownership struct {
	t     testing.TB
	begin time.Time
	stop  chan struct{}
	wg    sync.WaitGroup

	mu       sync.Mutex // guards the following
	conns    int
	ops      []porcupine.Operation
	attempts []attempt
	excused  []excuse
}

// attempt is a CONNECT. It may have an effect until its end; one without an answer, at any time.
type attempt struct {
	client   string
	from, to time.Time // to is zero when it was not accepted
}

// excuse is a time in which a gateway may have answered clients that were not its any more.
type excuse struct {
	where    string
	from, to time.Time
}

// event is an operation on the register "connection that holds the client".
type event struct {
	client string
	conn   int
	where  string // address of the gateway
	took   bool   // CONNECT and CONNACK; else PINGREQ and PINGRESP, or a probe
	probe  bool   // a direct message to the client, from when it was published until this connection had it
}

// compete has two contenders for each of n client ids connect to gateways at random until the history is
// finished. Each connection is left open, and asks again and again whether it is served; and somebody sends direct
// messages to the clients. Every second client has a durable session.
func compete(t testing.TB, n int, seed uint64, addresses ...string) *ownership {
	o := &ownership{t: t, begin: time.Now(), stop: make(chan struct{})}
	t.Logf("%s: the contest begins", o.begin.UTC().Format(clock))
	for i := range n {
		for k := range uint64(2) {
			random := rand.New(rand.NewPCG(seed, uint64(i)<<1|k))
			o.wg.Go(func() { o.contend(contested(i), i%2 == 1, random, addresses) })
		}
	}
	random := rand.New(rand.NewPCG(seed, 1<<32))
	o.wg.Go(func() {
		for k := 0; ; k++ {
			select {
			case <-o.stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
			o.probe(n, k, addresses[random.IntN(len(addresses))])
		}
	})
	return o
}

func contested(i int) string { return fmt.Sprintf("contested-%d", i) }

// probe publishes direct messages to n clients in turn, over one connection, for a while.
func (o *ownership) probe(n, k int, where string) {
	c, err := dial(o.t, where, rawmqtt.V311, fmt.Sprintf("probe-%d", k), 2*time.Second)
	if err != nil {
		return
	}
	defer c.close()
	slots := make(chan struct{}, window)
	c.mu.Lock()
	c.onAck = func(packets.Packet) { <-slots }
	c.mu.Unlock()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := range 200 {
		select {
		case <-o.stop:
			return
		case <-c.done:
			return
		case <-tick.C:
		}
		select {
		case slots <- struct{}{}:
		default:
			continue
		}
		pk := rawmqtt.PublishPacket(topicOf(contested(i%n)), strconv.FormatInt(int64(time.Since(o.begin)), 10), 1)
		pk.PacketID = uint16(i + 1)
		if c.send(pk) != nil {
			return
		}
	}
}

func topicOf(id string) string { return "p2p/" + id + "/probe" }

func (o *ownership) contend(id string, durable bool, random *rand.Rand, addresses []string) {
	for {
		// Beyond a hundred takeovers in ten seconds a client is slowed down.
		next := time.NewTimer(200*time.Millisecond + time.Duration(random.IntN(200))*time.Millisecond)
		select {
		case <-o.stop:
			next.Stop()
			return
		case <-next.C:
		}
		called := time.Now()
		where := addresses[random.IntN(len(addresses))]
		o.mu.Lock()
		try := len(o.attempts)
		o.attempts = append(o.attempts, attempt{client: id, from: called})
		o.mu.Unlock()
		c, err := dial(o.t, where, rawmqtt.V5, id, 2*time.Second, func(pk *packets.Packet) {
			if durable {
				rawmqtt.Durable(600)(pk)
			}
		})
		if err != nil {
			continue // it holds nothing
		}
		o.mu.Lock()
		o.attempts[try].to = time.Now()
		o.conns++
		conn := o.conns
		o.mu.Unlock()
		o.record(called, event{client: id, conn: conn, where: where, took: true})
		o.wg.Go(func() {
			o.ask(c, conn, where)
			c.close()
			o.harvest(c, conn, where)
			o.mustHaveARival(c, try)
		})
	}
}

// harvest writes down the probes that a connection got.
func (o *ownership) harvest(c *client, conn int, where string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, a := range c.arrivals(topicOf(c.id)) {
		o.ops = append(o.ops, porcupine.Operation{
			ClientId: conn, Input: event{client: c.id, conn: conn, where: where, probe: true},
			Call: int64(a.n), Return: int64(a.at.Sub(o.begin)),
		})
	}
}

// mustHaveARival fails the test if a connection was told that it is taken over, and nobody else has tried to.
func (o *ownership) mustHaveARival(c *client, try int) {
	c.mu.Lock()
	reason, ended := c.disconnect, c.ended
	c.mu.Unlock()
	if reason != 0x8E {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if !hasRival(o.attempts, try, ended) {
		o.t.Errorf("%q: its connection of %v was told at %v that it is taken over, and nobody had tried to", c.id,
			o.attempts[try].from.UTC().Format(clock), ended.UTC().Format(clock))
	}
}

// hasRival reports whether another attempt for the client of one may have had an effect after that, until ended.
func hasRival(attempts []attempt, try int, ended time.Time) bool {
	mine := attempts[try]
	for i, a := range attempts {
		if i != try && a.client == mine.client && a.from.Before(ended) && (a.to.IsZero() || a.to.After(mine.from)) {
			return true
		}
	}
	return false
}

// ask pings until the connection is over.
func (o *ownership) ask(c *client, conn int, where string) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		called := time.Now()
		if c.ping(patience) != nil {
			return
		}
		o.record(called, event{client: c.id, conn: conn, where: where})
		select {
		case <-o.stop:
			return
		case <-c.done:
			return
		case <-tick.C:
		}
	}
}

func (o *ownership) record(called time.Time, e event) {
	returned := time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ops = append(o.ops, porcupine.Operation{
		ClientId: e.conn, Input: e, Call: int64(called.Sub(o.begin)), Return: int64(returned.Sub(o.begin)),
	})
}

// excuse leaves out what the gateway at an address answered between two moments: while it can be reached neither by
// etcd nor by the session service, or is paused for a short time, its clients may be taken over without its knowing.
// That ends with its incarnation at the latest.
func (o *ownership) excuse(where string, from, to time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.excused = append(o.excused, excuse{where: where, from: from, to: to})
}

// counted is the history without what is excused.
func (o *ownership) counted() []porcupine.Operation {
	var ops []porcupine.Operation
	for _, op := range o.ops {
		e := op.Input.(event)
		answered := o.begin.Add(time.Duration(op.Return))
		excused := slices.ContainsFunc(o.excused, func(x excuse) bool {
			return !e.took && e.where == x.where && answered.After(x.from) && answered.Before(x.to)
		})
		if !excused {
			ops = append(ops, op)
		}
	}
	return ops
}

// holder is the register: a CONNACK sets it, a PINGRESP reads it, and so does a probe. Two connections may get one
// probe, if the second has taken the client over before it had it; none may get one that was published after the
// CONNACK of a newer one.
func holder() porcupine.Model {
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			byClient := map[string][]porcupine.Operation{}
			for _, op := range history {
				id := op.Input.(event).client
				byClient[id] = append(byClient[id], op)
			}
			var parts [][]porcupine.Operation
			for _, id := range slices.Sorted(maps.Keys(byClient)) {
				parts = append(parts, byClient[id])
			}
			return parts
		},
		Init: func() any { return 0 },
		Step: func(state, input, _ any) (bool, any) {
			e := input.(event)
			return e.took || state == e.conn, e.conn
		},
		DescribeOperation: func(input, _ any) string {
			e := input.(event)
			switch {
			case e.took:
				return fmt.Sprintf("%s: connection %d accepted by %s", e.client, e.conn, e.where)
			case e.probe:
				return fmt.Sprintf("%s: connection %d has a message by %s", e.client, e.conn, e.where)
			}
			return fmt.Sprintf("%s: connection %d answered by %s", e.client, e.conn, e.where)
		},
	}
}

// finish ends the contest and fails the test if at any time two connections of one client were served.
func (o *ownership) finish() {
	o.t.Helper()
	close(o.stop)
	o.wg.Wait()
	if len(o.ops) == 0 {
		o.t.Error("no contested client was ever served")
	}
	ops := o.counted()
	result, info := porcupine.CheckOperationsVerbose(holder(), ops, patience)
	took, probes := 0, 0
	for _, op := range ops {
		switch e := op.Input.(event); {
		case e.took:
			took++
		case e.probe:
			probes++
		}
	}
	o.t.Logf("ownership: %d connections accepted, %d answers, %d direct messages, %d excused", took, len(ops)-took-probes, probes, len(o.ops)-len(ops))
	if probes == 0 {
		o.t.Error("no contested client has ever got a direct message")
	}
	if result != porcupine.Ok {
		o.t.Errorf("ownership of the contested clients is %v: an older connection was answered, or got what was published, after a newer one had its CONNACK\n%s",
			result, explain(ops, info))
	}
}

// explain shows, for each client whose history is inconsistent, what surrounds the first operation that does not fit behind
// the longest beginning that is consistent.
func explain(ops []porcupine.Operation, info porcupine.LinearizationInfo) string {
	const around = int64(300 * time.Millisecond)
	text := ""
	parts := holder().Partition(ops)
	for i, orders := range info.PartialLinearizationsOperations() {
		var longest []porcupine.Operation
		for _, order := range orders {
			if len(order) > len(longest) {
				longest = order
			}
		}
		if len(longest) == 0 || len(longest) == len(parts[i]) {
			continue
		}
		last := longest[len(longest)-1]
		next := unfit(parts[i], longest)
		text += fmt.Sprintf("no order fits after %v:\n", time.Duration(last.Call))
		for _, op := range parts[i] {
			if op.Return >= last.Call-around && op.Call <= last.Return+around || op.Return >= next.Call-around && op.Call <= next.Return+around {
				text += describe(op)
			}
		}
	}
	return text
}

// unfit returns the operation that ended first of those that are not in order.
func unfit(all, order []porcupine.Operation) porcupine.Operation {
	var first porcupine.Operation
	for _, op := range all {
		if !slices.Contains(order, op) && (first.Return == 0 || op.Return < first.Return) {
			first = op
		}
	}
	return first
}

func describe(op porcupine.Operation) string {
	return fmt.Sprintf("  %14v %14v %s\n", time.Duration(op.Call), time.Duration(op.Return), holder().DescribeOperation(op.Input, nil))
}

// A history in which two connections are served in turn must be found out: the check is worth nothing otherwise.
func TestTwoHoldersAreFoundOut(t *testing.T) {
	op := func(call, ret int64, conn int, took bool) porcupine.Operation {
		return porcupine.Operation{ClientId: conn, Input: event{client: "x", conn: conn, took: took}, Call: call, Return: ret}
	}
	tests := []struct {
		name string
		ops  []porcupine.Operation
		want bool
	}{
		{"one after the other", []porcupine.Operation{op(0, 1, 1, true), op(2, 3, 1, false), op(4, 5, 2, true), op(6, 7, 2, false)}, true},
		{"answered while the other connects", []porcupine.Operation{op(0, 1, 1, true), op(2, 9, 2, true), op(3, 4, 1, false), op(10, 11, 2, false)}, true},
		{"answered after the other was accepted", []porcupine.Operation{op(0, 1, 1, true), op(2, 3, 2, true), op(4, 5, 1, false)}, false},
		{"a message that was published before the other was accepted", []porcupine.Operation{op(0, 1, 1, true), op(3, 4, 2, true), op(2, 6, 1, false), op(2, 7, 2, false)}, true},
		{"a message that was published after the other was accepted", []porcupine.Operation{op(0, 1, 1, true), op(3, 4, 2, true), op(5, 6, 1, false)}, false},
		{"one message to both, the older one last", []porcupine.Operation{op(0, 1, 1, true), op(3, 4, 2, true), op(5, 6, 2, false), op(5, 7, 1, false)}, false},
		{"both at once", []porcupine.Operation{op(0, 3, 1, true), op(0, 3, 2, true), op(4, 5, 1, false), op(6, 7, 2, false)}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := porcupine.CheckOperations(holder(), tt.ops); got != tt.want {
				t.Errorf("consistent: %v, want %v", got, tt.want)
			}
		})
	}
}

func TestWhoIsTakenOverHasARival(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(int64(ms)) }
	mine := attempt{client: "x", from: at(10), to: at(20)}
	for _, tt := range []struct {
		name  string
		other attempt
		want  bool
	}{
		{"a later one", attempt{"x", at(30), at(40)}, true},
		{"a later one without an answer", attempt{client: "x", from: at(30)}, true},
		{"an earlier one without an answer", attempt{client: "x", from: at(1)}, true},
		{"one at the same time", attempt{"x", at(5), at(15)}, true},
		{"an earlier one", attempt{"x", at(1), at(9)}, false},
		{"one of another client", attempt{"y", at(30), at(40)}, false},
		{"one that came after the end", attempt{"x", at(60), at(70)}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := hasRival([]attempt{mine, tt.other}, 0, at(50)); got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}
