package away

import (
	"cmp"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/services/session/internal/claims"
)

func reported(d mesh.Delivery, within time.Duration) mesh.Delivery {
	d.ReportWithinMs = uint32(within / time.Millisecond)
	return d
}

// wantClients compares what a receipt says of clients, in the order of their ids.
func (r receipt) wantClients(want ...mesh.ClientReceipt) {
	r.w.t.Helper()
	got := slices.Clone(r.final().Clients)
	slices.SortFunc(got, func(a, b mesh.ClientReceipt) int { return cmp.Compare(a.ClientID, b.ClientID) })
	if diff := gocmp.Diff(want, got); diff != "" {
		r.w.t.Errorf("clients (-want +got):\n%s", diff)
	}
}

func TestAReportHasEveryAbsentClient(t *testing.T) {
	w := newWorld(t, nil)
	w.absent("x", 5, sub("a", 1))
	w.absent("y", 15, sub("a", 2), sub("b", 1))
	w.absent("z", 25, sub("a", 0))
	stored, ended := mesh.ClientStored, mesh.ClientEnded
	w.send("p", reported(match(msg("p", 1, "a", 1)), patience)).wantClients(
		mesh.ClientReceipt{ClientID: "x", Outcome: stored, Epoch: 6}, mesh.ClientReceipt{ClientID: "y", Outcome: stored, Epoch: 16},
		mesh.ClientReceipt{ClientID: "z", Outcome: ended, Epoch: 26})
	w.send("p", reported(match(msg("p", 2, "b", 0)), patience)).wantClients(mesh.ClientReceipt{ClientID: "y", Outcome: ended, Epoch: 16})
	w.send("p", reported(match(msg("p", 3, "c", 1)), patience)).wantClients()
	w.send("p", reported(direct("x", 0, msg("p", 4, "p2p/x/t", 1)), patience)).wantClients(mesh.ClientReceipt{ClientID: "x", Outcome: stored, Epoch: 6})
	w.send("p", reported(direct("x", 0, msg("p", 5, "p2p/x/t", 0)), patience)).wantClients(mesh.ClientReceipt{ClientID: "x", Outcome: ended, Epoch: 6})
	w.send("p", reported(direct("nobody", 0, msg("p", 6, "p2p/nobody/t", 1)), patience)).want(mesh.NotHolder)
	w.wantInbox("x", 1, 4)
}

func TestAClientThatHasGoneOnIsNotInTheReport(t *testing.T) {
	w := newWorld(t, nil)
	w.absent("x", 5, sub("a", 1))
	w.absent("y", 15, sub("a", 1))
	w.open("x", "g2", 29, claims.Terms{Expiry: 3600})
	r := w.send("p", reported(match(msg("p", 1, "a", 1)), patience))
	r.wantClients(mesh.ClientReceipt{ClientID: "y", Outcome: mesh.ClientStored, Epoch: 16})
}

func TestAReportIsGivenWhenItsTimeIsOver(t *testing.T) {
	w := newWorld(t, nil)
	w.absent("y", 15, sub("a", 1))
	// A session that has come and whose routes are not in force yet holds back.
	w.mesh.hold()
	st := w.open("x", "g1", 25, claims.Terms{Expiry: 3600})
	w.subscribe("x", st, 25, sub("a", 1))
	w.leave("x", "g1", 25, nil)
	w.send("p", reported(match(msg("p", 1, "a", 1)), 20*time.Millisecond)).wantClients(
		mesh.ClientReceipt{ClientID: "x", Outcome: mesh.ClientTimedOut, Epoch: 26},
		mesh.ClientReceipt{ClientID: "y", Outcome: mesh.ClientStored, Epoch: 16})
	w.mesh.release(nil)
	w.settled("x")
	w.wait("the inbox has it all the same", func() bool { return len(w.inbox("x")) == 1 })
}
