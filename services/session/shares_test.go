package session_test

import (
	"fmt"
	"testing"
	"time"

	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/routes"
)

// keeper waits until somebody keeps for the members of jobs.
func (p *peer) keeper() (l *mesh.Link) {
	p.t.Helper()
	clustertest.Wait(p.t, "somebody keeps", func() bool {
		s := p.routes.Share("g", "jobs/+")
		if s == nil {
			return false
		}
		var ok bool
		l, ok = s.Keeper(func(*mesh.Link) bool { return false })
		return ok
	})
	return l
}

func TestWhatIsKeptForAwayMembersIsGivenToAGatewayWithAMember(t *testing.T) {
	_, _, a, b := startHolding(t)
	c := a.opened(lasting("x"))
	a.subscribes("x", c, "$share/g/jobs/+")
	a.leaves("x", c.GetEpoch())
	l, target := b.keeper(), mesh.Target{Kind: mesh.TargetShare, Group: "g", Filter: "jobs/+"}
	const n = 200
	for i := range n {
		b.send(l, target, fmt.Sprint("jobs/", i)).want(t, mesh.Stored)
	}
	a.await("forget", func(f *sessionv1.AttachResponse) bool { return f.GetForget() != nil })

	back := b.opened(lasting("x"))
	b.mesh.Announce([]routes.Route{{Group: "g", Filter: "jobs/+", Members: 1, Durable: true}}, func(error) {})
	b.settles(&sessionv1.Settled{ClientId: "x", Epoch: back.GetEpoch()})
	for i := range n {
		select {
		case d := <-b.shared:
			if want := fmt.Sprint("jobs/", i); d.Message.Topic != want || d.Target != target || d.Message.Publisher != "p" {
				t.Fatalf("%+v %+v, want %s", d.Target, d.Message, want)
			}
		case <-time.After(patience):
			t.Fatalf("%d messages come, want %d", i, n)
		}
	}
	clustertest.Wait(t, "nothing is kept any more", func() bool { return b.routes.Share("g", "jobs/+") == nil })
	b.send(l, target, "jobs/late").want(t, mesh.NoMember)
}
