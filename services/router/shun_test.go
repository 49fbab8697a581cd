package router

import (
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
	"github.com/beeline-mqtt/beeline/services/router/internal/placement"
)

func TestANodeIsShunnedForAMoment(t *testing.T) {
	s, now := newShunned(), time.Unix(100, 0)
	a, b := nodeKey{"c", "a"}, nodeKey{"c", "b"}
	s.add(a, now)
	if !s.has(a, now) || s.has(b, now) || s.has(nodeKey{"d", "a"}, now) {
		t.Error("want the node that has failed, and no other")
	}
	later := now.Add(shunFor)
	if s.has(a, later) {
		t.Error("it is shunned for ever")
	}
	s.add(b, later.Add(1))
	if len(s.until) != 1 {
		t.Errorf("%d are remembered, want those that are shunned", len(s.until))
	}
}

// While a node is shunned nobody goes there, not even whoever belongs there; when all are, that counts for nothing.
func TestAShunnedNodeIsTriedOnlyWhenThereIsNoOther(t *testing.T) {
	r := start(t, clustertest.StartEtcd(t).Client())
	nodes := r.nodes(2)
	asked := inquiry{cluster: "test", question: placement.Question{Key: placement.Key{1}, Holder: nodes[0].address()}}
	chosen := func() string {
		d, err := r.placer.choose(asked, nil)
		if err != nil {
			t.Fatal(err)
		}
		return d.node.ID
	}
	if got := chosen(); got != nodes[0].address() {
		t.Fatalf("its holder is %s, and it goes to %s", nodes[0].address(), got)
	}
	soon := time.Now().Add(time.Hour)
	r.placer.shunned.add(nodeKey{"test", nodes[0].address()}, soon)
	if got := chosen(); got != nodes[1].address() {
		t.Errorf("it goes to the node that is shunned")
	}
	r.placer.shunned.add(nodeKey{"test", nodes[1].address()}, soon)
	if got := chosen(); got != nodes[0].address() {
		t.Errorf("of two that are shunned it goes to %s, and not to its holder", got)
	}
}
