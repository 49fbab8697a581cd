package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

func groupTests() []test {
	return []test{
		{"groups and members are kept", groupsAreKept},
		{"visiting ends with an error", groupVisitEnds},
		{"a full disk has no room for members", groupsOnFullDisk},
	}
}

func (b *bench) changeGroup(c store.GroupChange) error {
	b.Helper()
	done := make(chan error, 1)
	b.ChangeGroup(c, func(err error) { done <- err })
	return wait(b, done)
}

// groups is what there is: the members of each, in the order of the store.
func (b *bench) groups() map[string][]store.Member {
	b.Helper()
	all := make(map[string][]store.Member)
	err := b.LoadGroups(func(c store.GroupChange) error {
		_, known := all[c.Group]
		switch {
		case c.Kind == store.GroupMade && !known:
			if c.At.IsZero() {
				b.Errorf("group %q was made at no time", c.Group)
			}
			all[c.Group] = nil
		case c.Kind == store.MembersAdded && known && len(c.Members) > 0:
			all[c.Group] = append(all[c.Group], c.Members...)
		default:
			b.Errorf("unexpected %+v", c)
		}
		return nil
	})
	if err != nil {
		b.Fatalf("LoadGroups: %v", err)
	}
	return all
}

func groupsAreKept(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	ann, bob, user := store.Member{Name: "ann"}, store.Member{Name: "bob"}, store.Member{User: true, Name: "ann"}
	at := time.Unix(1000, 5)
	var many []store.Member
	for i := range 2500 {
		many = append(many, store.Member{Name: string(rune('a'+i/676)) + string(rune('a'+i/26%26)) + string(rune('a'+i%26))})
	}
	for _, c := range []store.GroupChange{
		{Kind: store.GroupMade, Group: "a", At: at},
		{Kind: store.GroupMade, Group: "a b", At: at}, // whose name begins with another's
		{Kind: store.GroupMade, Group: "over", At: at},
		{Kind: store.GroupMade, Group: "big", At: at},
		{Kind: store.MembersAdded, Group: "a", Members: []store.Member{ann, bob, user}},
		{Kind: store.MembersAdded, Group: "a", Members: []store.Member{ann}},
		{Kind: store.MembersAdded, Group: "a b", Members: []store.Member{bob}},
		{Kind: store.MembersRemoved, Group: "a", Members: []store.Member{bob, {Name: "nobody"}}},
		{Kind: store.MembersAdded, Group: "over", Members: []store.Member{ann}},
		{Kind: store.GroupEnded, Group: "over", Members: []store.Member{ann}},
		{Kind: store.MembersAdded, Group: "big", Members: many},
	} {
		if err := b.changeGroup(c); err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
	}
	want := map[string][]store.Member{"a": {ann, user}, "a b": {bob}, "big": many}
	b.equal("groups", b.groups(), want)
	b.reopen()
	b.equal("groups after opening again", b.groups(), want)
}

func groupVisitEnds(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	for _, name := range []string{"a", "b"} {
		if err := b.changeGroup(store.GroupChange{Kind: store.GroupMade, Group: name, At: time.Unix(1, 0)}); err != nil {
			t.Fatal(err)
		}
	}
	enough := errors.New("enough")
	visits := 0
	err := b.LoadGroups(func(store.GroupChange) error { visits++; return enough })
	if !errors.Is(err, enough) || visits != 1 {
		t.Errorf("%d visits, and then %v", visits, err)
	}
}

func groupsOnFullDisk(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	if b.Fill == nil {
		t.Skip("the engine's disk is never full")
	}
	members := []store.Member{{Name: "ann"}}
	wantErr(t, "make", b.changeGroup(store.GroupChange{Kind: store.GroupMade, Group: "a", At: time.Unix(1, 0)}), nil)
	wantErr(t, "add", b.changeGroup(store.GroupChange{Kind: store.MembersAdded, Group: "a", Members: members}), nil)
	b.Fill(true)
	wantErr(t, "add when full", b.changeGroup(store.GroupChange{Kind: store.MembersAdded, Group: "a", Members: members}), store.ErrFull)
	wantErr(t, "remove when full", b.changeGroup(store.GroupChange{Kind: store.MembersRemoved, Group: "a", Members: members}), nil)
	b.Fill(false)
	b.equal("groups", b.groups(), map[string][]store.Member{"a": nil})
}
