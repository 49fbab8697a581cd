package routes_test

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"slices"
	"testing"

	"github.com/beeline-mqtt/beeline/internal/routes"
)

// digest follows the description of DigestOf with the standard library's FNV-1a.
func digest(all ...route) (count, hash uint64) {
	for _, r := range all {
		members := r.Members
		if r.Group == "" {
			members = 0
		}
		var b []byte
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(r.Filter))), r.Filter...)
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(r.Group))), r.Group...)
		b = binary.BigEndian.AppendUint32(b, members)
		if r.Durable {
			b = append(b, 1)
		} else {
			b = append(b, 0)
		}
		h := fnv.New64a()
		h.Write(b)
		count++
		hash += h.Sum64()
	}
	return count, hash
}

func TestDigestIsTheSumOfTheHashesOfTheDocumentedEncoding(t *testing.T) {
	cases := map[string][]route{
		"nothing":               nil,
		"ordinary route":        {ordinary("a/b")},
		"durable route":         {{Filter: "a/b", Members: 1, Durable: true}},
		"shared subscription":   {shared("g", "a/b", 70000)},
		"several":               {ordinary("a"), ordinary("b/#"), shared("g", "a", 2), shared("h", "a", 2)},
		"characters and length": {ordinary("日本/" + string(make([]byte, 300)))},
	}
	for name, all := range cases {
		t.Run(name, func(t *testing.T) {
			count, hash := routes.DigestOf(slices.Values(all))
			if wantCount, wantHash := digest(all...); count != wantCount || hash != wantHash {
				t.Errorf("DigestOf = %d, %016x, want %d, %016x", count, hash, wantCount, wantHash)
			}
		})
	}
}

// knownHash was computed apart from this repository. The encoding is part of the protocol: it must never change.
const knownHash = 0xb058997f968a1a04

func TestDigestOfAKnownTable(t *testing.T) {
	all := []route{ordinary("a/+/#"), {Filter: "b", Members: 1, Durable: true}, shared("workers", "jobs/#", 3)}
	count, hash := routes.DigestOf(slices.Values(all))
	if count != 3 || hash != knownHash {
		t.Errorf("DigestOf = %d, %#x, want 3, %#x", count, hash, uint64(knownHash))
	}
}

func TestDigestDoesNotDependOnOrder(t *testing.T) {
	all := []route{ordinary("a"), ordinary("b"), shared("g", "a", 1), {Filter: "c", Durable: true}}
	_, want := routes.DigestOf(slices.Values(all))
	slices.Reverse(all)
	if _, got := routes.DigestOf(slices.Values(all)); got != want {
		t.Errorf("backwards it is %x, forwards %x", got, want)
	}
}

func TestDigestTellsDifferentTablesApart(t *testing.T) {
	tables := map[string][]route{
		"ordinary":         {ordinary("a/b")},
		"other filter":     {ordinary("a/c")},
		"shared":           {shared("g", "a/b", 1)},
		"other group":      {shared("h", "a/b", 1)},
		"more members":     {shared("g", "a/b", 2)},
		"durable":          {{Filter: "a/b", Members: 1, Durable: true}},
		"durable shared":   {{Filter: "a/b", Group: "g", Members: 1, Durable: true}},
		"boundary moved":   {shared("ag", "/b", 1)},
		"one route more":   {ordinary("a/b"), ordinary("")},
		"nothing":          nil,
		"fields exchanged": {shared("a/b", "g", 1)},
	}
	seen := map[[2]uint64]string{}
	for name, all := range tables {
		count, hash := routes.DigestOf(slices.Values(all))
		if other, ok := seen[[2]uint64{count, hash}]; ok {
			t.Errorf("%q and %q have the same digest", name, other)
		}
		seen[[2]uint64{count, hash}] = name
	}
}

func TestMembersOfAnOrdinaryRouteDoNotCount(t *testing.T) {
	_, one := routes.DigestOf(slices.Values([]route{{Filter: "a", Members: 1}}))
	_, none := routes.DigestOf(slices.Values([]route{{Filter: "a"}}))
	if one != none {
		t.Errorf("digest is %x with 1 member, %x with none", one, none)
	}
}

func TestTableKeepsTheDigestOfEachPeerCurrent(t *testing.T) {
	tab := routes.NewTable[string]()
	check := func(step, p string, all ...route) {
		t.Helper()
		count, hash := tab.Digest(p)
		if wantCount, wantHash := digest(all...); count != wantCount || hash != wantHash {
			t.Errorf("%s: Digest(%q) = %d, %x, want %d, %x", step, p, count, hash, wantCount, wantHash)
		}
	}
	durable := route{Filter: "a", Members: 1, Durable: true}
	tab.Announce("north", ordinary("a"))
	tab.Announce("south", ordinary("a"))
	tab.Announce("north", shared("g", "a", 1))
	check("announced", "north", ordinary("a"), shared("g", "a", 1))
	tab.Announce("north", durable)
	tab.Announce("north", shared("g", "a", 9))
	check("changed", "north", durable, shared("g", "a", 9))
	tab.Announce("north", durable)
	check("announced again", "north", durable, shared("g", "a", 9))
	tab.Withdraw("north", "a", "g")
	check("withdrawn", "north", durable)
	tab.Replace("north", []route{ordinary("x"), ordinary("y"), durable, ordinary("x")})
	check("replaced", "north", ordinary("x"), ordinary("y"), durable)
	tab.Drop("north")
	check("dropped", "north")
	check("all the time", "south", ordinary("a"))
}

func BenchmarkDigestOf(b *testing.B) {
	all := make([]route, 1000)
	for i := range all {
		all[i] = ordinary(fmt.Sprintf("devices/%08d/commands", i))
	}
	b.ReportAllocs()
	for b.Loop() {
		if count, _ := routes.DigestOf(slices.Values(all)); count != 1000 {
			b.Fatal(count)
		}
	}
}
