package mesh

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAReceiptCarriesEveryClientThatMoved(t *testing.T) {
	want := Receipt{Outcome: Moved, Moved: []MovedClient{{ClientID: "x", Epoch: 7}, {ClientID: "y", Epoch: 9}}}
	k := &taker{answer: func(Delivery, Later) Receipt { return want }}
	x, _ := two(t, k)
	w := newWaiters(1)
	x.link(t, "y").Send(publish("a", 1), w)
	w.wait(t)
	if diff := cmp.Diff([]Receipt{want}, w.seen["a"]); diff != "" {
		t.Errorf("receipts (-want +got):\n%s", diff)
	}
}

func TestAListOfMovedClientsThatNoFrameTakesIsAnOverloadAndNeverCut(t *testing.T) {
	moved := make([]MovedClient, 300_000)
	for i := range moved {
		moved[i] = MovedClient{ClientID: fmt.Sprintf("some client with a long name %06d", i), Epoch: 1 << 40}
	}
	laters := make(chan Later, 1)
	k := &taker{answer: func(d Delivery, later Later) Receipt {
		switch d.Message.Topic {
		case "later":
			laters <- later
			return Receipt{Outcome: Accepted}
		case "large":
			return Receipt{Outcome: Moved, Moved: moved[:100_000]}
		}
		return Receipt{Outcome: Moved, Moved: moved}
	}}
	x, _ := two(t, k)
	w := newWaiters(3)
	for _, topic := range []string{"large", "too large", "later"} {
		x.link(t, "y").Send(publish(topic, 1), w)
	}
	(<-laters).Settle(Receipt{Outcome: Moved, Moved: moved})
	w.wait(t)
	if n := len(w.seen["large"][0].Moved); n != 100_000 {
		t.Errorf("%d clients", n)
	}
	for _, topic := range []string{"too large", "later"} {
		if r := w.seen[topic][0]; r.Outcome != Overloaded {
			t.Errorf("%s: %v", topic, r.Outcome)
		}
	}
}
