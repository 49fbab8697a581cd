package mesh

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAReportReachesItsSenderWheneverItIsGiven(t *testing.T) {
	clients := []ClientReceipt{{ClientID: "a", Outcome: ClientQueued, Epoch: 7}, {ClientID: "b", Outcome: ClientTimedOut, Epoch: 9}}
	laters := make(chan Later, 1)
	deliveries := make(chan Delivery, 2)
	k := &taker{answer: func(d Delivery, later Later) Receipt {
		deliveries <- d
		if d.Message.Topic == "later" {
			laters <- later
			return Receipt{Outcome: Accepted}
		}
		return Receipt{Outcome: Queued, Clients: clients}
	}}
	x, _ := two(t, k)
	w := newWaiters(2)
	for _, topic := range []string{"at once", "later"} {
		d := publish(topic, 0) // also of a QoS 0 message the receipt comes without delay
		d.ReportWithinMs, d.UntilAcked = 5000, topic == "later"
		x.link(t, "y").Send(d, w)
		if got := <-deliveries; got.ReportWithinMs != 5000 || got.UntilAcked != d.UntilAcked || !got.Reported() {
			t.Errorf("%s: delivered %+v", topic, got)
		}
	}
	want := Receipt{Outcome: Queued, Clients: clients}
	(<-laters).Settle(want)
	w.wait(t)
	for topic, got := range w.seen {
		if diff := cmp.Diff([]Receipt{want}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", topic, diff)
		}
	}
}
