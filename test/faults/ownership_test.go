//go:build linux

package faults

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// ownership is the history of who holds some clients, as the clients see it: a connection that has got its
// CONNACK is the client's, until a newer one has. Only the one that is may be answered.
type ownership struct {
	t     testing.TB
	begin time.Time
	stop  chan struct{}
	wg    sync.WaitGroup

	mu      sync.Mutex // guards the following
	conns   int
	ops     []porcupine.Operation
	excused []excuse
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
	took   bool   // CONNECT and CONNACK; else PINGREQ and PINGRESP
}

// compete has two contenders for each of n client ids connect to gateways at random until the history is
// finished. Each connection is left open, and asks again and again whether it is served.
func compete(t testing.TB, n int, seed uint64, addresses ...string) *ownership {
	o := &ownership{t: t, begin: time.Now(), stop: make(chan struct{})}
	t.Logf("%s: the contest begins", o.begin.UTC().Format(clock))
	for i := range n {
		for k := range uint64(2) {
			random := rand.New(rand.NewPCG(seed, uint64(i)<<1|k))
			o.wg.Go(func() { o.contend(fmt.Sprintf("contested-%d", i), random, addresses) })
		}
	}
	return o
}

func (o *ownership) contend(id string, random *rand.Rand, addresses []string) {
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
		c, err := dial(o.t, where, rawmqtt.V5, id, 2*time.Second)
		if err != nil {
			continue // it holds nothing
		}
		o.mu.Lock()
		o.conns++
		conn := o.conns
		o.mu.Unlock()
		o.record(called, event{client: id, conn: conn, where: where, took: true})
		o.wg.Go(func() { o.ask(c, conn, where) })
	}
}

// ask pings until the connection is over.
func (o *ownership) ask(c *client, conn int, where string) {
	defer c.close()
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

// holder is the register: a CONNACK sets it, a PINGRESP reads it.
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
			if e.took {
				return fmt.Sprintf("%s: connection %d accepted by %s", e.client, e.conn, e.where)
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
	took := 0
	for _, op := range ops {
		if op.Input.(event).took {
			took++
		}
	}
	o.t.Logf("ownership: %d connections accepted, %d answers, %d excused", took, len(ops)-took, len(o.ops)-len(ops))
	if result != porcupine.Ok {
		o.t.Errorf("ownership of the contested clients is %v: an older connection was answered after a newer one had its CONNACK\n%s",
			result, explain(ops, info))
	}
}

// explain shows, for each client whose history is inconsistent, what surrounds the end of the longest beginning
// that is not.
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
		text += fmt.Sprintf("no order fits after %v:\n", time.Duration(last.Call))
		for _, op := range parts[i] {
			if op.Return >= last.Call-around && op.Call <= last.Return+around {
				text += describe(op)
			}
		}
	}
	return text
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
