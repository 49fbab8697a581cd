package administration

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
)

func partOf(complete string, ids ...string) part {
	p := part{complete: complete}
	for _, id := range ids {
		p.clients = append(p.clients, &adminv1.ClientSummary{ClientId: id})
	}
	return p
}

func TestPartsBecomeOnePageInOrder(t *testing.T) {
	for name, c := range map[string]struct {
		parts []part
		most  int
		want  []string
		next  string
	}{
		"nobody":                            {nil, 10, nil, ""},
		"one part":                          {[]part{partOf("", "a", "b")}, 10, []string{"a", "b"}, ""},
		"two parts":                         {[]part{partOf("", "a", "c"), partOf("", "b")}, 10, []string{"a", "b", "c"}, ""},
		"more than a page":                  {[]part{partOf("", "a", "c"), partOf("", "b")}, 2, []string{"a", "b"}, "b"},
		"just a page":                       {[]part{partOf("", "a"), partOf("", "b")}, 2, []string{"a", "b"}, ""},
		"one has more":                      {[]part{partOf("b", "a", "b"), partOf("", "c")}, 10, []string{"a", "b"}, "b"},
		"both have more":                    {[]part{partOf("d", "a", "d"), partOf("c", "b", "c")}, 10, []string{"a", "b", "c"}, "c"},
		"one has more that have gone since": {[]part{partOf("d"), partOf("", "b", "e")}, 10, []string{"b"}, "d"},
		"a client in both":                  {[]part{partOf("", "a"), partOf("", "a")}, 10, []string{"a"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, next := merge(c.parts, c.most)
			if ids := idsOf(got); !slices.Equal(ids, c.want) || next != c.next {
				t.Errorf("page %v, next %q, want %v, %q", ids, next, c.want, c.next)
			}
		})
	}
}

func idsOf(page []*adminv1.ClientSummary) (ids []string) {
	for _, c := range page {
		ids = append(ids, c.GetClientId())
	}
	return ids
}

func TestAClientThatMovesIsShownWhereItCameLast(t *testing.T) {
	at := func(gateway string, since int64) part {
		return part{clients: []*adminv1.ClientSummary{{ClientId: "a", Gateway: gateway, ConnectedSince: timestamppb.New(time.Unix(since, 0))}}}
	}
	away := part{clients: []*adminv1.ClientSummary{{ClientId: "a", Presence: adminv1.Presence_PRESENCE_AWAY}}}
	for _, parts := range [][]part{{at("old", 1), at("new", 2), away}, {away, at("new", 2), at("old", 1)}} {
		if got, _ := merge(parts, 10); len(got) != 1 || got[0].GetGateway() != "new" {
			t.Errorf("shown at %v", got)
		}
	}
}

// TestPagesOfPartsAreEverybodyOnce: whatever the parts, whoever is in one of them all the time is on one page.
func TestPagesOfPartsAreEverybodyOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		holders := rapid.IntRange(1, 4).Draw(t, "holders")
		where := rapid.SliceOfN(rapid.IntRange(0, holders-1), 0, 40).Draw(t, "where")
		size := rapid.IntRange(1, 7).Draw(t, "page size")
		var want []string
		for i := range where {
			want = append(want, fmt.Sprintf("c%03d", i))
		}
		var got []string
		for token := ""; ; {
			parts := make([]part, holders)
			for h := range parts {
				for i, id := range want {
					if where[i] != h || id <= token {
						continue
					}
					if len(parts[h].clients) == size {
						parts[h].complete = parts[h].clients[size-1].GetClientId()
						break
					}
					parts[h].clients = append(parts[h].clients, &adminv1.ClientSummary{ClientId: id})
				}
			}
			var p []*adminv1.ClientSummary
			if p, token = merge(parts, size); len(p) > size {
				t.Fatalf("%d on a page of %d", len(p), size)
			}
			got = append(got, idsOf(p)...)
			if token == "" {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("pages have %v, want %v", got, want)
		}
	})
}
