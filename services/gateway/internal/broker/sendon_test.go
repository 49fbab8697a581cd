package broker

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// moving is a durable session that goes from a to b while messages for it are on their way from a publisher at c to a.
type moving struct {
	g   []*gateway
	pub *rawmqtt.Client
	x   *rawmqtt.Client // at b
}

// move has the first five messages on their way to a, and the others beside them at b, where its routes are in force.
func move(t *testing.T, settle time.Duration) moving {
	t.Helper()
	g := start(t, 3, options{durable: true, config: func(c *Config) { c.Settle = settle }})
	x := g[0].connect(v5, "x", lasting)
	x.MustSubscribe("news/#", 1)
	pub := g[2].connect(v5, "pub")
	g[1].to(g[2]).shut() // c goes on sending to a alone
	g[2].to(g[0]).shut() // and a gets none of it
	y := g[1].connect(v5, "x", lasting)
	for i := range 5 {
		send(pub, "news/1", fmt.Sprint(i), 1)
	}
	handled(pub)
	g[1].to(g[2]).open()
	eventually(t, "b's routes are in force", g[1].client("x").RoutesInForce)
	for i := 5; i < 10; i++ {
		send(pub, "news/1", fmt.Sprint(i), 1)
	}
	handled(pub)
	return moving{g, pub, y}
}

func TestASessionThatHasComeWaitsForWhatIsOnItsWayToItsFormerHolder(t *testing.T) {
	m := move(t, time.Minute)
	m.x.ExpectNothing()
	looking, found := make(chan struct{}, 10), make(chan struct{})
	m.g[2].lookUps(func([]string) error {
		looking <- struct{}{}
		<-found
		return nil
	})
	m.g[2].to(m.g[0]).open()
	receive(t, looking, "a look-up of where it is now")
	m.x.ExpectNothing() // they have come back, and have not been sent on
	close(found)
	for i := range 10 {
		m.x.ReceivePayload(fmt.Sprint(i))
	}
	wantAcks(t, m.pub, 10, packet.Success)
	m.x.ExpectNothing()
}

func TestASessionThatHasComeDoesNotWaitForEver(t *testing.T) {
	m := move(t, time.Millisecond)
	for i := 5; i < 10; i++ {
		m.x.ReceivePayload(fmt.Sprint(i))
	}
	m.x.ExpectNothing()
	// Either it has waited long enough, or whoever it waited for.
	if m.g[1].metric("beeline_gateway_order_given_up_total")+m.g[2].metric("beeline_gateway_not_sent_on_total") == 0 {
		t.Error("nobody says that order has been given up")
	}
	m.g[2].to(m.g[0]).open()
	for i := range 5 {
		m.x.ReceivePayload(fmt.Sprint(i))
	}
	wantAcks(t, m.pub, 10, packet.Success)
}

// At the former holder somebody else has not acknowledged what is to be sent on, and it is not stored either.
func TestWhatIsSentOnDoesNotWaitForOthersWhereItWas(t *testing.T) {
	for _, publisher := range []int{0, 2} {
		t.Run(fmt.Sprint("published at ", publisher), func(t *testing.T) {
			g := start(t, 3, options{durable: true, config: func(c *Config) { c.Settle = time.Minute }})
			g[0].full.Store(true) // nothing is stored that may wait
			x, slow := g[0].connect(v5, "x", lasting), g[0].connect(v5, "slow", lasting)
			x.MustSubscribe("news/#", 1)
			slow.MustSubscribe("news/#", 1)
			pub := g[publisher].connect(v5, "pub")
			g[1].to(g[publisher]).shut()
			defer g[1].to(g[publisher]).open()
			y := g[1].connect(v5, "x", lasting)
			id := send(pub, "news/1", "0", 1)
			unacknowledged := slow.Expect(packets.Publish)
			g[1].to(g[publisher]).open()
			y.ReceivePayload("0")
			pub.ExpectNothing()
			slow.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: unacknowledged.PacketID})
			pub.ExpectAck(packets.Puback, id)
		})
	}
}

func TestSendOnWaitsForPublishesThatAreUnderWay(t *testing.T) {
	var u underway
	var over sync.WaitGroup
	begun := u.one()
	begun.RLock()
	waited := false
	over.Go(func() {
		u.wait()
		waited = true
	})
	eventually(t, "it waits", func() bool {
		if !begun.TryRLock() {
			return true
		}
		begun.RUnlock()
		return false
	})
	if waited {
		t.Error("it has not waited")
	}
	begun.RUnlock()
	over.Wait()
	for range 2 * len(u.locks) { // every publish finds one that is free
		u.one().RLock()
	}
}

// What comes back and is sent on while a round waits for receipts may go to where the session is not any more.
func TestSendOnGoesRoundAgainForWhatIsSentOnInBetween(t *testing.T) {
	b, m := alone()
	d := b.direct
	done := 0
	s := &sendingOn{d: d, client: "x", done: func() { done++ }, enough: time.AfterFunc(time.Hour, func() {})}
	d.watch(s)
	pass := func(id string) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.entry(id)
		d.drop(id)
	}
	pass("y")
	pass("x")
	s.behindLookUps()
	if n := m.rounds.Load(); n != 1 || done != 1 {
		t.Errorf("%d rounds, and done %d times; want one of each", n, done)
	}
	pass("x") // nobody wants to know any more
	if len(d.watching) > 0 {
		t.Errorf("%d are watching", len(d.watching))
	}
}
