package gateway

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/mesh"
)

func viewOf(ids ...string) cluster.View {
	var v cluster.View
	for i, id := range ids {
		v.Members = append(v.Members, cluster.Member{ID: id, Address: "at " + id, Revision: int64(i + 1)})
	}
	return v
}

func TestPeersAreAllProcessesOfBothKindsButTheGatewayItself(t *testing.T) {
	type seen struct {
		kind cluster.Kind
		view cluster.View
	}
	gateways := func(ids ...string) seen { return seen{cluster.Gateway, viewOf(ids...)} }
	sessions := func(ids ...string) seen { return seen{cluster.Session, viewOf(ids...)} }
	tests := []struct {
		name  string
		views []seen
		want  []string // the peers as they were set last; nil: never
		sets  int
	}{
		{"nothing is known", nil, nil, 0},
		{"one kind is known", []seen{gateways("g1", "g2"), gateways("g1", "g2", "g3")}, nil, 0},
		{"the other kind is known", []seen{sessions("s1")}, nil, 0},
		{"both", []seen{gateways("g1", "g2"), sessions("s1", "s2")}, []string{"g2", "s1", "s2"}, 1},
		{"both, the other way round", []seen{sessions("s1"), gateways("g1", "g2")}, []string{"g2", "s1"}, 1},
		{"it is not registered yet", []seen{sessions("s1"), gateways("g2")}, []string{"g2", "s1"}, 1},
		{"there is no session instance", []seen{gateways("g1", "g2"), sessions()}, []string{"g2"}, 1},
		{"it is alone", []seen{gateways("g1"), sessions()}, []string{}, 1},
		{"one comes and one goes", []seen{gateways("g1", "g2"), sessions("s1"), gateways("g1", "g3"), sessions("s2")}, []string{"g3", "s2"}, 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPeers("g1")
			var got []string
			sets := 0
			p.set = func(all []mesh.Peer) {
				sets++
				got = []string{}
				for _, x := range all {
					got = append(got, x.ID)
					if x.Address != "at "+x.ID || x.Revision == 0 || x.Quiet != strings.HasPrefix(x.ID, "s") {
						t.Errorf("%+v", x)
					}
				}
			}
			for _, s := range tt.views {
				p.see(s.kind, s.view)
			}
			slices.Sort(got)
			if diff := cmp.Diff(tt.want, got); diff != "" || sets != tt.sets {
				t.Errorf("set %d times, want %d (-want +got):\n%s", sets, tt.sets, diff)
			}
		})
	}
}

func TestAGatewayThatIsSeenIsAlive(t *testing.T) {
	p := newPeers("g1")
	p.set = func([]mesh.Peer) {}
	if p.alive("g1") {
		t.Error("alive before anybody has been seen")
	}
	p.see(cluster.Gateway, viewOf("g1", "g2"))
	p.see(cluster.Session, viewOf("s1"))
	for id, want := range map[string]bool{"g1": true, "g2": true, "g3": false, "s1": false} {
		if got := p.alive(id); got != want {
			t.Errorf("%s alive: %v", id, got)
		}
	}
	p.see(cluster.Gateway, viewOf("g1"))
	if p.alive("g2") {
		t.Error("one that has gone is alive")
	}
}
