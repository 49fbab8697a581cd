package groups

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

var (
	ann  = store.Member{Name: "ann"}
	bob  = store.Member{Name: "bob"}
	user = store.Member{User: true, Name: "ann"}
	made = time.Unix(100, 0)
)

// change checks a change and applies it.
func change(t *testing.T, x *Index, kind store.GroupChangeKind, group string, members ...store.Member) []store.Member {
	t.Helper()
	c, err := x.Check(store.GroupChange{Kind: kind, Group: group, Members: members, At: made})
	if err != nil {
		t.Fatal(err)
	}
	x.Apply(c)
	return c.Members
}

func TestAMemberGetsTheMessagesOfItsGroups(t *testing.T) {
	x := New(DefaultLimits())
	change(t, x, store.GroupMade, "team")
	change(t, x, store.GroupMade, "all")
	change(t, x, store.MembersAdded, "team", ann, bob)
	change(t, x, store.MembersAdded, "all", ann, user)
	for _, tt := range []struct {
		client, user string
		want         []Filter
	}{
		{"ann", "", []Filter{{"group/all/#", true, false}, {"group/team/#", true, false}}},
		{"ann", "ann", []Filter{{"group/all/#", true, true}, {"group/team/#", true, false}}},
		{"bob", "", []Filter{{"group/team/#", true, false}}},
		{"phone", "ann", []Filter{{"group/all/#", false, true}}},
		{"phone", "", nil},
	} {
		if d := cmp.Diff(tt.want, x.Filters(tt.client, tt.user)); d != "" {
			t.Errorf("client %q of user %q (-want +got):\n%s", tt.client, tt.user, d)
		}
	}
}

func TestAChangeIsWhatIsNew(t *testing.T) {
	x := New(DefaultLimits())
	change(t, x, store.GroupMade, "team")
	if d := cmp.Diff([]store.Member{ann, bob}, change(t, x, store.MembersAdded, "team", ann, bob, ann)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]store.Member{user}, change(t, x, store.MembersAdded, "team", ann, user)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]store.Member{bob}, change(t, x, store.MembersRemoved, "team", bob, store.Member{Name: "nobody"})); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]store.Member{ann, user}, change(t, x, store.GroupEnded, "team")); d != "" {
		t.Error(d)
	}
	if got := x.Of(ann); len(got) != 0 {
		t.Errorf("a member of %v after its group has ended", got)
	}
}

func TestRefusals(t *testing.T) {
	x := New(Limits{Groups: 1, Members: 2, PerMember: 1})
	change(t, x, store.GroupMade, "team")
	for _, tt := range []struct {
		kind  store.GroupChangeKind
		group string
		want  error
	}{
		{store.GroupMade, "team", ErrExists},
		{store.GroupMade, "other", ErrTooMany},
		{store.GroupEnded, "other", ErrUnknown},
		{store.MembersAdded, "other", ErrUnknown},
		{store.MembersRemoved, "other", ErrUnknown},
	} {
		if _, err := x.Check(store.GroupChange{Kind: tt.kind, Group: tt.group}); !errors.Is(err, tt.want) {
			t.Errorf("change %d of %q: %v, want %v", tt.kind, tt.group, err, tt.want)
		}
	}
	three := []store.Member{ann, bob, user}
	if _, err := x.Check(store.GroupChange{Kind: store.MembersAdded, Group: "team", Members: three}); !errors.Is(err, ErrTooMany) {
		t.Errorf("three members: %v, want ErrTooMany", err)
	}
	x.limits.Groups = 2
	change(t, x, store.GroupMade, "other")
	change(t, x, store.MembersAdded, "team", ann)
	if _, err := x.Check(store.GroupChange{Kind: store.MembersAdded, Group: "other", Members: []store.Member{ann}}); !errors.Is(err, ErrTooMany) {
		t.Errorf("a second group: %v, want ErrTooMany", err)
	}
	if _, err := x.Get("nothing"); !errors.Is(err, ErrUnknown) {
		t.Errorf("get: %v, want ErrUnknown", err)
	}
	if _, _, err := x.Members("nothing", nil, 1); !errors.Is(err, ErrUnknown) {
		t.Errorf("members: %v, want ErrUnknown", err)
	}
}

func TestPagesHaveEverythingOnceAndInOrder(t *testing.T) {
	x := New(DefaultLimits())
	var want []store.Member
	var names []string
	for i := range 25 {
		names = append(names, fmt.Sprintf("g%02d", i))
		change(t, x, store.GroupMade, names[i])
	}
	for _, isUser := range []bool{false, true} {
		for i := range 10 {
			want = append(want, store.Member{User: isUser, Name: fmt.Sprintf("m%d", i)})
		}
	}
	change(t, x, store.MembersAdded, "g00", want...)
	var got []store.Member
	var after *store.Member
	for more := true; more; {
		var page []store.Member
		var err error
		if page, more, err = x.Members("g00", after, 3); err != nil {
			t.Fatal(err)
		}
		got = append(got, page...)
		after = &got[len(got)-1]
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("members (-want +got):\n%s", d)
	}
	var listed []string
	for last := ""; ; last = listed[len(listed)-1] {
		page := x.Groups("g", last, 7)
		if len(page) == 0 {
			break
		}
		for _, g := range page {
			listed = append(listed, g.Name)
		}
	}
	if d := cmp.Diff(names, listed); d != "" {
		t.Errorf("groups (-want +got):\n%s", d)
	}
	if g, err := x.Get("g00"); err != nil || g != (Group{Name: "g00", Created: made, Members: 20}) {
		t.Errorf("group %+v, %v", g, err)
	}
}

// However groups change, both ways of asking agree.
func TestGroupsOfMembersAreMembersOfGroups(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := New(Limits{Groups: 3, Members: 3, PerMember: 2})
		for range rapid.IntRange(0, 60).Draw(t, "changes") {
			c := store.GroupChange{
				Kind:  rapid.SampledFrom([]store.GroupChangeKind{store.GroupMade, store.GroupEnded, store.MembersAdded, store.MembersRemoved}).Draw(t, "kind"),
				Group: rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "group"),
				Members: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) store.Member {
					return store.Member{User: rapid.Bool().Draw(t, "user"), Name: rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "name")}
				}), 0, 4).Draw(t, "members"),
			}
			if c, err := x.Check(c); err == nil {
				x.Apply(c)
				x.Apply(c) // a repetition changes nothing
			}
		}
		memberships := 0
		for _, g := range x.Groups("", "", 10) {
			members, _, err := x.Members(g.Name, nil, 10)
			if err != nil || len(members) != g.Members || g.Members > 3 {
				t.Fatalf("group %+v has %v, %v", g, members, err)
			}
			for _, m := range members {
				if _, is := x.of[m][g.Name]; !is {
					t.Fatalf("%v does not know that it is in %q", m, g.Name)
				}
			}
			memberships += len(members)
		}
		for m, names := range x.of {
			if len(names) == 0 || len(names) > 2 {
				t.Fatalf("%v is in %v", m, names)
			}
			memberships -= len(names)
		}
		if memberships != 0 {
			t.Fatalf("%d memberships are known one way only", memberships)
		}
	})
}

func TestClientsOfUsers(t *testing.T) {
	u := NewUsers()
	u.Here("phone", Seen{"ann", "A", 5})
	u.Here("tablet", Seen{"ann", "B", 6})
	u.Here("sensor", Seen{"", "A", 7})
	u.Here("tablet", Seen{"ann", "A", 4}) // of a gateway that does not know yet that it has lost it
	u.Gone("phone", "B")                  // of a connection before
	u.Living([]string{"A", "B"})
	if d := cmp.Diff([]string{"phone", "tablet"}, u.Clients("ann")); d != "" {
		t.Error(d)
	}
	u.Living([]string{"B"})
	if d := cmp.Diff([]string{"tablet"}, u.Clients("ann")); d != "" {
		t.Error(d)
	}
	u.Here("tablet", Seen{"bob", "A", 8})
	u.Living([]string{"A"})
	if len(u.Clients("ann")) > 0 || len(u.Clients("bob")) != 1 {
		t.Errorf("ann has %v, bob %v", u.Clients("ann"), u.Clients("bob"))
	}
	u.Living(nil)
	if len(u.clients)+len(u.of) != 0 {
		t.Errorf("%d clients are left of gateways that have died", len(u.clients))
	}
}
