package placement_test

import (
	"testing"

	"github.com/beeline-mqtt/beeline/services/router/internal/placement"
)

func TestExplainSaysWhereAndWhy(t *testing.T) {
	nodes := []node{{ID: "gateway-1", Weight: 1, Active: true}, {ID: "gateway-2", Weight: 1}}
	full := []node{{ID: "gateway-1", Weight: 1, Active: true}, {ID: "gateway-2", Weight: 1, Active: true}}
	first := placement.Choose(placement.Question{Nodes: full}).Node
	full = with(full, first, loaded(10))
	second := placement.Choose(placement.Question{Nodes: full}).Node
	joe := username("joe", "main")
	for name, c := range map[string]struct {
		assigned assignment
		question placement.Question
		want     string
	}{
		"holder": {
			joe,
			placement.Question{Nodes: nodes, Holder: "gateway-1", Recorded: "gateway-2"},
			`node gateway-1 of cluster main: the client's session is held there; ` +
				`the cluster is assigned to user name "joe"`,
		},
		"recorded": {
			prefix("meter-", "main"),
			placement.Question{Nodes: nodes, Recorded: "gateway-1"},
			`node gateway-1 of cluster main: the client was there before; ` +
				`the cluster is assigned to client id prefix "meter-"`,
		},
		"recorded, the holder drains": {
			joe,
			placement.Question{Nodes: nodes, Holder: "gateway-2", Recorded: "gateway-1"},
			`node gateway-1 of cluster main: the client was there before; ` +
				`node gateway-2 holds the client's session and is not active; ` +
				`the cluster is assigned to user name "joe"`,
		},
		"hash": {
			byDefault("main", 1),
			placement.Question{Nodes: nodes},
			`node gateway-1 of cluster main: it is the first by the hash of the client; ` +
				`the cluster is assigned to clients without another assignment`,
		},
		"hash, holder and recorded are gone": {
			id("a\nb", "main"),
			placement.Question{Nodes: nodes, Holder: "gateway-3", Recorded: "gateway-2"},
			`node gateway-1 of cluster main: it is the first by the hash of the client; ` +
				`node gateway-3 holds the client's session and is not a member; ` +
				`node gateway-2 is recorded for the client and is not active; ` +
				`the cluster is assigned to client id "a\nb"`,
		},
		"hash, holder and recorded are the same": {
			joe,
			placement.Question{Nodes: nodes, Holder: "gateway-2", Recorded: "gateway-2"},
			`node gateway-1 of cluster main: it is the first by the hash of the client; ` +
				`node gateway-2 holds the client's session and is not active; ` +
				`the cluster is assigned to user name "joe"`,
		},
		"next by load": {
			joe,
			placement.Question{Nodes: full},
			`node ` + second + ` of cluster main: ` +
				`it is the first by the hash of the client whose load is in bounds; ` +
				`the cluster is assigned to user name "joe"`,
		},
		"spread": {
			triple(t, user("", "joe", "pw"), "main"),
			placement.Question{Nodes: nodes, Anonymous: true, Holder: "gateway-2", Recorded: "gateway-2"},
			`node gateway-1 of cluster main: the client has no id, and is spread at random by weight and load; ` +
				`the cluster is assigned to exactly this client id, user name and password`,
		},
		"no node": {
			joe,
			placement.Question{Nodes: nodes[1:], Recorded: "gateway-2"},
			`no node of cluster main: none takes new clients; ` +
				`node gateway-2 is recorded for the client and is not active; ` +
				`the cluster is assigned to user name "joe"`,
		},
		"no cluster": {
			assignment{},
			placement.Question{},
			`no cluster: nothing is assigned to the client, and there is no default`,
		},
	} {
		if got := placement.Explain(c.assigned, c.question, placement.Choose(c.question)); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, c.want)
		}
	}
}
