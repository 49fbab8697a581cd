package placement_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/beeline-mqtt/beeline/services/router/internal/placement"
)

type node = placement.Node

// random makes numbers that are, of numbers that follow each other (SplitMix64).
func random(n uint64) uint64 {
	n = (n + 1) * 0x9e3779b97f4a7c15
	n = (n ^ n>>30) * 0xbf58476d1ce4e5b9
	n = (n ^ n>>27) * 0x94d049bb133111eb
	return n ^ n>>31
}

// key of a client by its number.
func key(n int) placement.Key {
	var k placement.Key
	for i := range k {
		k[i] = byte(random(uint64(n)*4+uint64(i/8)) >> (i % 8 * 8))
	}
	return k
}

// plain makes active, empty nodes of weight 1: a, b, c and so on.
func plain(n int) []node {
	nodes := make([]node, n)
	for i := range nodes {
		nodes[i] = node{ID: string(rune('a' + i)), Weight: 1, Active: true}
	}
	return nodes
}

// with is a copy of nodes of which one is changed.
func with(nodes []node, id string, change func(*node)) []node {
	nodes = append([]node{}, nodes...)
	for i := range nodes {
		if nodes[i].ID == id {
			change(&nodes[i])
		}
	}
	return nodes
}

func draining(n *node)   { n.Active = false }
func weightless(n *node) { n.Weight = 0 }
func loaded(load int) func(*node) {
	return func(n *node) { n.Load = load }
}

// order is how the hash ranks a, b and c for the client of the tables: found by taking away who is chosen.
func order(t *testing.T, k placement.Key, nodes []node) []string {
	t.Helper()
	var ids []string
	for range nodes {
		first := placement.Choose(placement.Question{Nodes: nodes, Key: k})
		if first.Why != placement.Hash {
			t.Fatalf("after %v: %+v", ids, first)
		}
		ids = append(ids, first.Node)
		nodes = with(nodes, first.Node, draining)
	}
	return ids
}

func TestWhereAClientGoes(t *testing.T) {
	client, all := key(1), plain(3)
	o := order(t, client, all)
	first, second, third := o[0], o[1], o[2]
	// fresh is an answer that is to be recorded, same one that is recorded already.
	fresh := func(node string, why placement.Reason) placement.Answer {
		return placement.Answer{Node: node, Why: why, Record: true}
	}
	same := func(node string, why placement.Reason) placement.Answer {
		return placement.Answer{Node: node, Why: why}
	}
	const holder, recorded, hash, next = placement.Holder, placement.Recorded, placement.Hash, placement.NextByLoad
	// q asks about the nodes, the holder and who is recorded.
	q := func(nodes []node, holder, recorded string) placement.Question {
		return placement.Question{Nodes: nodes, Key: client, Holder: holder, Recorded: recorded}
	}
	drains := func(id string) []node { return with(all, id, draining) }
	full := func(id string) []node { return with(all, id, loaded(10)) }
	light := func(id string) []node { return with(all, id, weightless) }
	unbounded := q(full(first), "", "")
	unbounded.Factor = math.Inf(1)
	for name, c := range map[string]struct {
		question placement.Question
		want     placement.Answer
	}{
		"nothing is known: the first by hash":    {q(all, "", ""), fresh(first, hash)},
		"the holder":                             {q(all, third, ""), fresh(third, holder)},
		"the holder, not who is recorded":        {q(all, third, second), fresh(third, holder)},
		"the holder, recorded already":           {q(all, third, third), same(third, holder)},
		"who is recorded":                        {q(all, "", second), same(second, recorded)},
		"the holder drains":                      {q(drains(third), third, ""), fresh(first, hash)},
		"the holder drains, another is recorded": {q(drains(third), third, second), same(second, recorded)},
		"the holder drains, and is recorded":     {q(drains(third), third, third), fresh(first, hash)},
		"the holder is no member":                {q(all, "z", second), same(second, recorded)},
		"who is recorded drains":                 {q(drains(second), "", second), fresh(first, hash)},
		"who is recorded is no member":           {q(all, "", "z"), fresh(first, hash)},
		"holder and recorded are gone":           {q(all, "y", "z"), fresh(first, hash)},
		"the first drains":                       {q(drains(first), "", ""), fresh(second, hash)},
		"the first has no weight":                {q(light(first), "", ""), fresh(second, hash)},
		"a holder without weight":                {q(light(third), third, ""), fresh(third, holder)},
		"a record without weight":                {q(light(third), "", third), same(third, recorded)},
		"the first is full":                      {q(full(first), "", ""), fresh(second, next)},
		"the first two are full":                 {q(with(full(first), second, loaded(10)), "", ""), fresh(third, next)},
		"the second is full":                     {q(full(second), "", ""), fresh(first, hash)},
		"the first drains, the second is full":   {q(with(full(second), first, draining), "", ""), fresh(third, next)},
		"the load of one that drains is not counted": {
			q(with(with(full(first), third, loaded(99)), third, draining), "", ""), fresh(second, next),
		},
		"the load of one without weight is not counted": {
			q(with(with(full(first), third, loaded(99)), third, weightless), "", ""), fresh(second, next),
		},
		"the holder is full":                 {q(full(third), third, ""), fresh(third, holder)},
		"who is recorded is full":            {q(full(third), "", third), same(third, recorded)},
		"the first is full, without a bound": {unbounded, fresh(first, hash)},
		"one is left":                        {q(with(drains(first), second, draining), "", ""), fresh(third, hash)},
		"only one, and many clients":         {q(with(plain(1), "a", loaded(99)), "", ""), fresh("a", hash)},
		"no node":                            {q(nil, "a", "b"), placement.Answer{}},
		"all drain":                          {q(with(plain(1), "a", draining), "a", "a"), placement.Answer{}},
		"none has weight":                    {q(with(plain(1), "a", weightless), "y", "z"), placement.Answer{}},
		"a node without a name":              {q([]node{{Active: true}}, "", ""), placement.Answer{}},
	} {
		if got := placement.Choose(c.question); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// Two nodes of weight 1 with 7 clients between them: the bound of each is ceil(factor * 8 / 2).
func TestTheBoundIsCeilOfFactorTimesAverage(t *testing.T) {
	for name, c := range map[string]struct {
		factor float64
		load   int
		full   bool
	}{
		"1.25: the fifth is in":           {factor: 1.25, load: 4},
		"1.25: the sixth is not":          {factor: 1.25, load: 5, full: true},
		"1.26: the sixth is in":           {factor: 1.26, load: 5},
		"1: the fourth is in":             {factor: 1, load: 3},
		"1: the fifth is not":             {factor: 1, load: 4, full: true},
		"2: all are in":                   {factor: 2, load: 7},
		"0 is 1.25: the fifth is in":      {load: 4},
		"0 is 1.25: the sixth is not":     {load: 5, full: true},
		"no number is 1.25: fifth":        {factor: math.NaN(), load: 4},
		"no number is 1.25: sixth":        {factor: math.NaN(), load: 5, full: true},
		"less than 1 is 1: fourth":        {factor: 0.1, load: 3},
		"less than 1 is 1: fifth":         {factor: 0.1, load: 4, full: true},
		"less than 0 is 1: fourth":        {factor: -1, load: 3},
		"less than 0 is 1: fifth":         {factor: -1, load: 4, full: true},
		"no bound":                        {factor: math.Inf(1), load: 7},
		"less than nobody: bound 1, none": {factor: 1, load: math.MinInt},
	} {
		other := 7 - c.load
		if c.load < 0 {
			other = math.MinInt
		}
		q := placement.Question{Nodes: plain(2), Factor: c.factor}
		first := placement.Choose(q).Node
		q.Nodes = with(with(q.Nodes, "a", loaded(other)), "b", loaded(other))
		q.Nodes = with(q.Nodes, first, loaded(c.load))
		if got := placement.Choose(q); (got.Node != first) != c.full || (got.Why == placement.NextByLoad) != c.full {
			t.Errorf("%s: %+v, full: %t", name, got, c.full)
		}
	}
}

// With these, the client that comes is lost in the sum of floating-point numbers, and nobody would have room.
func TestHugeLoadsLeaveRoom(t *testing.T) {
	load := 50
	load <<= 47
	q := placement.Question{Nodes: []node{
		{ID: "a", Weight: 50, Active: true, Load: load}, {ID: "b", Weight: 50, Active: true, Load: load},
	}, Factor: 1}
	if got := placement.Choose(q); got.Node == "" || got.Why != placement.Hash {
		t.Errorf("with an id: %+v", got)
	}
	q.Anonymous = true
	if got := placement.Choose(q); got.Node == "" || got.Why != placement.Spread {
		t.Errorf("without: %+v", got)
	}
}

func TestClientsWithoutAnIDAreSpread(t *testing.T) {
	all := plain(3)
	even := with(with(with(all, "a", loaded(100)), "b", loaded(100)), "c", loaded(100))
	for name, c := range map[string]struct {
		nodes []node
		want  map[string]uint32
	}{
		"equal weights":         {all, map[string]uint32{"a": 1, "b": 1, "c": 1}},
		"by weight":             {with(all, "b", func(n *node) { n.Weight = 8 }), map[string]uint32{"a": 1, "b": 8, "c": 1}},
		"one drains":            {with(all, "b", draining), map[string]uint32{"a": 1, "c": 1}},
		"one without weight":    {with(all, "b", weightless), map[string]uint32{"a": 1, "c": 1}},
		"one is over its bound": {with(all, "b", loaded(5)), map[string]uint32{"a": 1, "c": 1}},
		// It gets all for which it is drawn at least once.
		"one is less loaded": {with(even, "b", loaded(99)), map[string]uint32{"a": 2, "b": 5, "c": 2}},
		"one has more, but not by its weight": {
			with(even, "b", func(n *node) { n.Weight, n.Load = 2, 200 }), map[string]uint32{"a": 1, "b": 2, "c": 1},
		},
		"one is left": {with(with(all, "b", draining), "c", draining), map[string]uint32{"a": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			got := map[string]int{}
			for i := range clients {
				// What is known of other clients does not lead it.
				a := placement.Choose(placement.Question{
					Nodes: c.nodes, Anonymous: true, Random: random(uint64(i)), Key: key(1), Holder: "a", Recorded: "a",
				})
				if a.Why != placement.Spread || a.Record {
					t.Fatalf("answer is %+v", a)
				}
				got[a.Node]++
			}
			near(t, got, c.want)
		})
	}
	for name, nodes := range map[string][]node{"no node": nil, "all drain": {{ID: "a", Weight: 1}}} {
		got := placement.Choose(placement.Question{Nodes: nodes, Anonymous: true, Holder: "a", Recorded: "a"})
		if got != (placement.Answer{}) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// The random numbers need not be good ones: those of a counter do.
func TestACounterSpreadsToo(t *testing.T) {
	got := map[string]int{}
	for i := range clients {
		got[placement.Choose(placement.Question{Nodes: plain(4), Anonymous: true, Random: uint64(i)}).Node]++
	}
	near(t, got, map[string]uint32{"a": 1, "b": 1, "c": 1, "d": 1})
}

func TestReasonsHaveAWordEach(t *testing.T) {
	for r, want := range map[placement.Reason]string{
		placement.None: "none", placement.Holder: "holder", placement.Recorded: "recorded", placement.Hash: "hash",
		placement.NextByLoad: "next_by_load", placement.Spread: "spread", 6: "reason 6",
	} {
		if r.String() != want {
			t.Errorf("%d is %s, want %s", byte(r), r, want)
		}
	}
}

// Clients do not find back to where they were if this fails: do not adapt the test.
func TestChoicesAreTheSameInAllReleases(t *testing.T) {
	nodes := make([]node, 9)
	for i := range nodes {
		nodes[i] = node{ID: fmt.Sprintf("gateway-%d", i+1), Weight: uint32(1 + i%2), Active: true}
	}
	s := secret(t)
	got := ""
	for i := range 40 {
		q := placement.Question{Nodes: nodes, Key: s.Key(user(fmt.Sprintf("meter-%d", i), "joe", "pw"))}
		got += placement.Choose(q).Node[len("gateway-"):]
	}
	if want := "5293179224858498125379964186622296249234"; got != want {
		t.Errorf("chosen: %s, want %s", got, want)
	}
}
