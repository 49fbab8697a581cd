package book

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"pgregory.net/rapid"
)

const assignedWest = `{"v":1,"cluster":"west"}`

func kv(id, value string, revision int64) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{Key: []byte("p/" + id), Value: []byte(value), ModRevision: revision}
}

func show(t *table[Assignment], kvs ...*mvccpb.KeyValue) *Snapshot[Assignment] {
	t.latest.Store(&listing{kvs: kvs, revision: 7})
	t.rebuild(slog.New(slog.DiscardHandler), newMetrics(nil))
	return t.snapshot.Load()
}

func TestATableFollowsWhatItIsShown(t *testing.T) {
	table := newTable(kindAssignment, "p/", decodeAssignment)
	first := show(table, kv("username/b", assignedWest, 1), kv("client_id/a", assignedWest, 2))
	if len(first.Entries) != 2 || first.Entries[0].Value != "a" || first.Generation != 1 || first.Revision != 7 {
		t.Errorf("first: %+v", first)
	}
	// An etcd that was restored has the same revision with another value.
	second := show(table, kv("username/b", `{"v":1,"cluster":"east"}`, 1), kv("client_id/c", assignedWest, 3))
	if b, ok := second.find("username/b"); !ok || b.Cluster != "east" {
		t.Errorf("changed: %+v", b)
	}
	if _, ok := second.find("client_id/a"); ok || len(table.rows) != 2 {
		t.Errorf("what was deleted is still there: %+v", second)
	}
	if _, ok := first.find("client_id/a"); !ok || first.Entries[1].Cluster != "west" {
		t.Errorf("an old snapshot has changed: %+v", first)
	}
	if table.rebuild(slog.New(slog.DiscardHandler), newMetrics(nil)) {
		t.Error("a snapshot was made although nothing was shown")
	}
}

func TestPagesHaveEverythingOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfNDistinct(rapid.StringN(1, 5, 20), 0, 30, rapid.ID).Draw(t, "values")
		limit := rapid.IntRange(-1, 12).Draw(t, "limit")
		table := newTable(kindAssignment, "p/", decodeAssignment)
		kvs := make([]*mvccpb.KeyValue, len(values))
		for i, v := range values {
			kvs[i] = kv(assignmentID(ClientID, v), assignedWest, int64(i+1))
		}
		s := show(table, kvs...)
		var got []Assignment
		for after, pages := "", 0; ; pages++ {
			page, next := s.Page(after, limit)
			if len(page) > max(limit, 1) || pages > len(values) {
				t.Fatalf("page %d has %d entries", pages, len(page))
			}
			got = append(got, page...)
			if next == "" {
				break
			}
			after = next
		}
		if !slices.Equal(got, s.Entries) || len(got) != len(values) {
			t.Fatalf("pages have %d of %d", len(got), len(values))
		}
	})
}

// A list goes on where it was although the entry at which it stopped has been deleted.
func TestPagesGoOnAfterADeletedEntry(t *testing.T) {
	table := newTable(kindAssignment, "p/", decodeAssignment)
	var kvs []*mvccpb.KeyValue
	for i := range 5 {
		kvs = append(kvs, kv(assignmentID(ClientID, fmt.Sprint(i)), assignedWest, int64(i+1)))
	}
	_, next := show(table, kvs...).Page("", 2)
	page, end := show(table, slices.Delete(kvs, 1, 2)...).Page(next, 10)
	if len(page) != 3 || page[0].Value != "2" || end != "" {
		t.Errorf("after %q: %+v, %q", next, page, end)
	}
}
