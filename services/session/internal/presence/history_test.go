package presence

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// all is a page that has everything.
func all() Page { return Page{Looked: 1 << 30, Events: 1 << 30, Bytes: 1 << 30} }

func filled(capacity, events int) *History {
	h := NewHistory("i", capacity)
	for n := range events {
		h.add(Event{Client: fmt.Sprintf("%c%d", "ab"[n%2], n+1)})
	}
	return h
}

func clients(events []Event) string {
	var ids []string
	for _, e := range events {
		ids = append(ids, e.Client)
	}
	return strings.Join(ids, " ")
}

func TestEventsAfterACursor(t *testing.T) {
	small := all()
	small.Events = 2
	narrow := all()
	narrow.Looked = 3
	full := all()
	full.Bytes = 3
	tests := []struct {
		name    string
		events  int
		cursor  string
		prefix  string
		page    Page
		want    string
		through uint64
	}{
		{"all", 4, "i/0", "", all(), "a1 b2 a3 b4", 4},
		{"some", 4, "i/2", "", all(), "a3 b4", 4},
		{"none behind the newest", 4, "i/4", "", all(), "", 4},
		{"none at all", 0, "i/0", "", all(), "", 0},
		{"the oldest are gone, these are not", 14, "i/4", "", all(), "a5 b6 a7 b8 a9 b10 a11 b12 a13 b14", 14},
		{"by prefix", 5, "i/0", "b", all(), "b2 b4", 5},
		{"by a prefix that nobody has", 5, "i/1", "c", all(), "", 5},
		{"the page has as many as it may", 5, "i/1", "", small, "b2 a3", 3},
		{"the page has looked at as many as it may", 5, "i/0", "b", narrow, "b2", 3},
		{"the page is full", 5, "i/0", "", full, "a1 b2", 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := filled(10, tt.events)
			at, err := h.Find(tt.cursor)
			if err != nil {
				t.Fatal(err)
			}
			events, through, err := h.After(at, tt.prefix, tt.page)
			if err != nil || through != tt.through {
				t.Errorf("looked up to %d, %v, want %d", through, err, tt.through)
			}
			if diff := cmp.Diff(tt.want, clients(events)); diff != "" {
				t.Error(diff)
			}
			for _, e := range events {
				if !strings.HasSuffix(e.Client, fmt.Sprint(e.Sequence)) {
					t.Errorf("%s has sequence %d", e.Client, e.Sequence)
				}
			}
		})
	}
}

func TestCursorsThatLeadNowhere(t *testing.T) {
	for cursor, want := range map[string]error{
		"i/3":                    ErrGone,
		"i/0":                    ErrGone,
		"other/14":               ErrGone,
		"other/1000":             ErrGone,
		"i/15":                   ErrCursor,
		"i/18446744073709551615": ErrCursor,
		"i/18446744073709551616": ErrCursor,
		"i/":                     ErrCursor,
		"i/-1":                   ErrCursor,
		"i/4/5":                  ErrCursor,
		"/4":                     ErrCursor,
		"i":                      ErrCursor,
		"4":                      ErrCursor,
		"\x00":                   ErrCursor,
	} {
		if _, err := filled(10, 14).Find(cursor); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", cursor, err, want)
		}
	}
	h := filled(10, 14)
	if at, err := h.Find(h.Cursor(h.Last())); err != nil || at != 14 {
		t.Errorf("its own cursor leads to %d, %v", at, err)
	}
}

func TestWhoReadsTooLateHearsThatEventsAreGone(t *testing.T) {
	h := filled(10, 10)
	h.add(Event{Client: "next"})
	if events, _, err := h.After(1, "", all()); err != nil || len(events) != 10 {
		t.Errorf("%d events, %v, want all 10 that are kept", len(events), err)
	}
	if _, _, err := h.After(0, "", all()); !errors.Is(err, ErrGone) {
		t.Errorf("got %v, want %v", err, ErrGone)
	}
}

func TestLongClientIdsCrowdOutMoreThanOneEvent(t *testing.T) {
	h := filled(10, 10) // room for 2,560 bytes
	h.add(Event{Client: strings.Repeat("x", 2547)})
	if h.first != 5 {
		t.Errorf("the oldest kept is %d, want 5", h.first)
	}
	h.add(Event{Client: strings.Repeat("y", 65_535)})
	if events, _, err := h.After(h.last-1, "", all()); err != nil || len(events) != 1 {
		t.Errorf("%d events, %v: the newest is always kept", len(events), err)
	}
	h.add(Event{Client: "z"})
	if h.first != h.last || h.bytes != 1 {
		t.Errorf("keeps %d to %d with %d bytes", h.first, h.last, h.bytes)
	}
}

func TestTheLastEventsOfOneClient(t *testing.T) {
	h := NewHistory("i", 10)
	for n := range 14 {
		h.add(Event{Client: "ab"[n%2 : n%2+1]})
	}
	for _, tt := range []struct {
		name   string
		before uint64
		client string
		page   Page
		want   []uint64
		next   uint64
	}{
		{"all that are kept", math.MaxUint64, "a", all(), []uint64{13, 11, 9, 7, 5}, 1},
		{"some", math.MaxUint64, "b", Page{Looked: 100, Events: 2}, []uint64{14, 12}, 12},
		{"the next ones", 12, "b", Page{Looked: 100, Events: 2}, []uint64{10, 8}, 8},
		{"nobody", math.MaxUint64, "c", all(), nil, 1},
		{"as far as it may look", math.MaxUint64, "a", Page{Looked: 3, Events: 9}, []uint64{13}, 12},
		{"up to the oldest, exactly", 7, "b", Page{Looked: 2, Events: 9}, []uint64{6}, 1},
		{"before the oldest", 3, "a", all(), nil, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			events, next := h.Before(tt.before, tt.client, tt.page)
			var got []uint64
			for _, e := range events {
				got = append(got, e.Sequence)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" || next != tt.next {
				t.Errorf("next %d, want %d\n%s", next, tt.next, diff)
			}
		})
	}
	if events, next := NewHistory("i", 10).Before(math.MaxUint64, "a", all()); len(events) > 0 || next != 1 {
		t.Errorf("of an empty one: %v, next %d", events, next)
	}
}
