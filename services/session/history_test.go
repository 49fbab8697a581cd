package session_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	clientv3 "go.etcd.io/etcd/client/v3"

	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
	"github.com/beeline-mqtt/beeline/services/session"
)

// change is what a gateway asked for.
type change struct {
	client, holder string
	release        uint64 // 0: a claim
}

// answer is what it got. Unknown: it has happened before the answer, or not at all. Lost: it may even happen later.
type answer struct {
	epoch         uint64
	former        string
	unknown, lost bool
}

// holding is a state of the register of one client.
type holding struct {
	holder string
	epoch  uint64 // 0: not known
	latest uint64
}

// register is the lease of a client as it should behave: a claim puts its holder, at a higher epoch than all
// before, and learns who was there; a release empties it at the right epoch only.
func register() porcupine.Model {
	m := porcupine.NondeterministicModel{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			byClient := map[string][]porcupine.Operation{}
			for _, o := range history {
				c := o.Input.(change).client
				byClient[c] = append(byClient[c], o)
			}
			var parts [][]porcupine.Operation
			for _, p := range byClient {
				parts = append(parts, p)
			}
			return parts
		},
		Init: func() []any { return []any{holding{}} },
		Step: func(state, input, output any) []any {
			now, in, out := state.(holding), input.(change), output.(answer)
			switch {
			case in.release != 0:
				if now.holder == in.holder && now.epoch == in.release {
					emptied := holding{latest: now.latest}
					if out.unknown {
						return []any{now, emptied}
					}
					return []any{emptied}
				}
				return []any{now}
			case out.unknown:
				return []any{now, holding{holder: in.holder, latest: now.latest}}
			case out.former == now.holder && out.epoch > now.latest:
				return []any{holding{holder: in.holder, epoch: out.epoch, latest: out.epoch}}
			}
			return nil
		},
		DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v -> %+v", in, out) },
	}
	return m.ToModel()
}

// floor is where clients are served: nobody may serve a client while another does.
type floor struct {
	t  *testing.T
	mu sync.Mutex
	by map[string]string
}

func (f *floor) enter(client, gateway string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if other := f.by[client]; other != "" && other != gateway {
		f.t.Errorf("%s is served by %s and %s", client, other, gateway)
	}
	f.by[client] = gateway
}

func (f *floor) leave(client, gateway string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.by[client] == gateway {
		delete(f.by, client)
	}
}

// call is a request under way.
type call struct {
	client string
	done   chan answer
}

// gateway behaves as one should, and writes down what it asked and got.
type gateway struct {
	t         *testing.T
	number    int
	id        string
	floor     *floor
	instances []*instance
	began     time.Time

	mu      sync.Mutex
	stream  *attached
	sending sync.Mutex
	last    uint64
	serving map[string]uint64
	calls   map[uint64]call
	history []porcupine.Operation
	known   *atomic.Int64 // requests of all gateways with a known outcome
}

// run keeps the gateway attached to whichever instance takes it.
func (g *gateway) run(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		i := g.instances[n%len(g.instances)]
		if !i.Active() {
			<-time.After(time.Millisecond)
			continue
		}
		g.mu.Lock()
		var held []*sessionv1.Holding
		for client, epoch := range g.serving {
			held = append(held, &sessionv1.Holding{ClientId: client, Epoch: epoch})
		}
		a := attach(g.t, i.conn, g.id, held...)
		g.mu.Unlock()
		stop := context.AfterFunc(ctx, func() { a.cancel() })
		for f := range a.frames {
			g.receive(a, f)
		}
		stop()
		a.cancel()
		g.mu.Lock()
		g.stream = nil
		for id, c := range g.calls {
			c.done <- answer{unknown: true, lost: true}
			delete(g.calls, id)
		}
		g.mu.Unlock()
	}
}

func (g *gateway) receive(a *attached, f *sessionv1.AttachResponse) {
	g.mu.Lock()
	defer g.mu.Unlock()
	reply := func(id uint64, with answer) {
		c, waits := g.calls[id]
		if !waits {
			return
		}
		delete(g.calls, id)
		if with.epoch != 0 {
			g.serving[c.client] = with.epoch
			g.floor.enter(c.client, g.id)
		}
		c.done <- with
	}
	switch f := f.GetFrame().(type) {
	case *sessionv1.AttachResponse_Welcome:
		g.stream = a
	case *sessionv1.AttachResponse_Claimed:
		reply(f.Claimed.GetRequestId(), answer{epoch: f.Claimed.GetEpoch(), former: f.Claimed.GetFormerHolder()})
	case *sessionv1.AttachResponse_Released:
		reply(f.Released.GetRequestId(), answer{})
	case *sessionv1.AttachResponse_Refused:
		reply(f.Refused.GetRequestId(), answer{
			unknown: true, lost: f.Refused.GetReason() != sessionv1.Refusal_REFUSAL_SUPERSEDED,
		})
	case *sessionv1.AttachResponse_Evict:
		client, epoch := f.Evict.GetClientId(), f.Evict.GetEpoch()
		if held, ok := g.serving[client]; ok && held < epoch {
			delete(g.serving, client)
			g.floor.leave(client, g.id)
		}
		g.send(a, &sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Evicted{
			Evicted: &sessionv1.Evicted{ClientId: client, Epoch: epoch},
		}})
	}
}

func (g *gateway) send(a *attached, r *sessionv1.AttachRequest) {
	g.sending.Lock()
	defer g.sending.Unlock()
	a.send(r)
}

// ask sends a request and waits for its outcome.
func (g *gateway) ask(c change) answer {
	g.mu.Lock()
	a := g.stream
	if a == nil {
		g.mu.Unlock()
		<-time.After(time.Millisecond)
		return answer{unknown: true}
	}
	delete(g.serving, c.client)
	g.floor.leave(c.client, g.id)
	g.last++
	id, answered := g.last, make(chan answer, 1)
	g.calls[id] = call{client: c.client, done: answered}
	called := time.Since(g.began)
	r := &sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Claim{
		Claim: &sessionv1.Claim{RequestId: id, ClientId: c.client},
	}}
	if c.release != 0 {
		r.Frame = &sessionv1.AttachRequest_Release{
			Release: &sessionv1.Release{RequestId: id, ClientId: c.client, Epoch: c.release},
		}
	}
	g.send(a, r)
	g.mu.Unlock()

	got := <-answered
	g.mu.Lock()
	defer g.mu.Unlock()
	done := int64(time.Since(g.began))
	if got.lost {
		done = math.MaxInt64
	}
	if !got.unknown {
		g.known.Add(1)
	}
	g.history = append(g.history, porcupine.Operation{
		ClientId: g.number, Input: c, Output: got, Call: int64(called), Return: done,
	})
	return got
}

func contend(t *testing.T, grants int, disturb func(etcd *clientv3.Client)) {
	t.Helper()
	etcd := clustertest.StartEtcd(t).Client()
	change := func(c *session.Config) {
		c.FlapLimit = 100_000
	}
	instances := []*instance{start(t, etcd, change), start(t, etcd, change)}
	f := &floor{t: t, by: map[string]string{}}
	const ids = 50
	began := time.Now()
	ctx, stop := context.WithCancel(t.Context())
	var attachedAll, work sync.WaitGroup
	gateways := make([]*gateway, 3)
	var answered atomic.Int64
	for n := range gateways {
		id, _ := alive(t, etcd)
		g := &gateway{
			t: t, number: n, id: id, floor: f, instances: instances, began: began,
			serving: map[string]uint64{}, calls: map[uint64]call{}, known: &answered,
		}
		gateways[n] = g
		attachedAll.Go(func() { g.run(ctx) })
	}
	for _, g := range gateways {
		for c := range ids {
			work.Go(func() { g.contendFor(fmt.Sprintf("client-%d", c), grants) })
		}
	}
	finished := make(chan struct{})
	go func() { work.Wait(); close(finished) }()
	for before := int64(0); disturb != nil; {
		select {
		case <-finished:
			disturb = nil
		case <-time.After(150 * time.Millisecond):
			// However slow the machine is, something is achieved in between, or it would never end.
			if n := answered.Load(); n > before {
				before = n
				disturb(etcd)
			}
		}
	}
	<-finished
	stop()
	attachedAll.Wait()

	var history []porcupine.Operation
	known := 0
	for _, g := range gateways {
		for _, o := range g.history {
			if !o.Output.(answer).unknown {
				known++
			}
		}
		history = append(history, g.history...)
	}
	if known < ids*len(gateways)*grants {
		t.Errorf("only %d of %d requests have a known outcome", known, len(history))
	}
	worked := time.Since(began)
	if result := porcupine.CheckOperationsTimeout(register(), history, 2*time.Minute); result != porcupine.Ok {
		t.Errorf("history of %d requests: %v", len(history), result)
	}
	t.Logf("%d requests, %d with a known outcome, in %v; checked in %v", len(history), known, worked, time.Since(began)-worked)
}

// contendFor claims a client until that has been granted some times, and now and then releases it.
func (g *gateway) contendFor(client string, grants int) {
	for grants > 0 {
		if got := g.ask(change{client: client, holder: g.id}); got.unknown {
			continue
		}
		grants--
		g.mu.Lock()
		epoch := g.serving[client]
		g.mu.Unlock()
		if epoch != 0 && rand.N(4) == 0 {
			g.ask(change{client: client, holder: g.id, release: epoch})
		}
	}
}

// A thousand claims of the same fifty clients from three gateways at once: each client's lease behaves like a
// register, and no client is served by two gateways at any time.
func TestLeasesAreLinearizableAndExclusive(t *testing.T) { contend(t, 7, nil) }

// The same while the session instances lose their incarnations again and again.
func TestLeasesAreLinearizableAndExclusiveAcrossDeathsOfTheActiveInstance(t *testing.T) {
	contend(t, 2, func(etcd *clientv3.Client) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		keys := cluster.Keys("test")
		active, err := etcd.Get(ctx, keys.Active())
		if err != nil || len(active.Kvs) == 0 {
			return
		}
		_, _ = etcd.Txn(ctx).Then(
			clientv3.OpDelete(keys.Member(cluster.Session, string(active.Kvs[0].Value))),
			clientv3.OpDelete(keys.Active()),
		).Commit()
	})
}
