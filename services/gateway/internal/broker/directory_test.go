package broker

import (
	"strconv"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
)

func newDirectory() *directory {
	d := new(directory)
	d.init()
	return d
}

func (d *directory) ids() map[string]*client.Client {
	all := make(map[string]*client.Client)
	for i := range shards {
		d.each(i, func(e entry) { all[e.current.ID] = e.current })
	}
	return all
}

func TestTheNewestConnectionHasTheEntry(t *testing.T) {
	d := newDirectory()
	a, b := &client.Client{ID: "x"}, &client.Client{ID: "x"}
	if former, ok := d.put(a, 1); former != nil || !ok {
		t.Errorf("put = %v, %v", former, ok)
	}
	if former, ok := d.put(b, 1); former != a || !ok {
		t.Errorf("put = %v, %v: want the one before", former, ok)
	}
	if e := d.get("x"); e.current != b || e.former != a {
		t.Errorf("entry %+v", e)
	}
	if _, was := d.remove(a); was {
		t.Error("one that has been replaced was removed")
	}
	d.ended(a)
	if e := d.get("x"); e.current != b || e.former != nil {
		t.Errorf("entry %+v: it holds on to one that is gone", e)
	}
	if _, was := d.remove(b); !was {
		t.Error("the newest was not removed")
	}
	if d.get("x").current != nil || d.count.Load() != 0 {
		t.Error("something is left")
	}
}

// A model: the connections of a few ids come, go and get leases; what is released in the end is the newest lease.
func TestTheLeaseToGiveUpIsTheNewestThatWasGranted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := newDirectory()
		const most = 3
		waiting := map[string][]*client.Client{} // the last one is current, the others are being waited for
		newest := map[string]uint64{}
		epoch := uint64(0)
		id := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"})
		t.Repeat(map[string]func(*rapid.T){
			"connect": func(t *rapid.T) {
				c := &client.Client{ID: id.Draw(t, "id")}
				all := waiting[c.ID]
				former, ok := d.put(c, most)
				if want := len(all) > 0 || len(waiting) < most; ok != want {
					t.Fatalf("put of %s = %v with %d clients", c.ID, ok, len(waiting))
				}
				if !ok {
					return
				}
				if len(all) > 0 && former != all[len(all)-1] || len(all) == 0 && former != nil {
					t.Fatalf("former of %s", c.ID)
				}
				waiting[c.ID] = append(all, c)
			},
			"grant": func(t *rapid.T) { // to the oldest: the others wait for it
				all := waiting[id.Draw(t, "id")]
				if len(all) == 0 || all[0].Epoch() > 0 {
					t.Skip()
				}
				epoch++
				all[0].Granted(epoch)
				newest[all[0].ID] = epoch
			},
			"end": func(t *rapid.T) {
				id := id.Draw(t, "id")
				all := waiting[id]
				if len(all) == 0 {
					t.Skip()
				}
				got, was := d.remove(all[0])
				if was != (len(all) == 1) {
					t.Fatalf("remove of %s = %v with %d connections", id, was, len(all))
				}
				if !was {
					d.ended(all[0])
					waiting[id] = all[1:]
					return
				}
				if got != newest[id] {
					t.Fatalf("lease of %s to give up: %d, want %d", id, got, newest[id])
				}
				delete(waiting, id)
				delete(newest, id)
			},
			"": func(t *rapid.T) {
				if int(d.count.Load()) != len(waiting) || len(d.ids()) != len(waiting) {
					t.Fatalf("%d counted, %d listed, want %d", d.count.Load(), len(d.ids()), len(waiting))
				}
				for id, all := range waiting {
					e := d.get(id)
					// Of three that follow each other, the second tells the third when the first is gone.
					known := e.epoch() == newest[id] || len(all) > 2 && e.epoch() < newest[id]
					if e.current != all[len(all)-1] || !known {
						t.Fatalf("entry of %s: %+v at %d, want epoch %d", id, e, e.epoch(), newest[id])
					}
					if e.former != nil && (len(all) < 2 || e.former != all[len(all)-2]) {
						t.Fatalf("former of %s is held and gone", id)
					}
				}
			},
		})
	})
}

func TestTheDirectoryIsUsedByManyAtOnce(t *testing.T) {
	d := newDirectory()
	const workers, rounds = 8, 200
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range rounds {
				own, common := &client.Client{ID: strconv.Itoa(w)}, &client.Client{ID: "common"}
				if _, ok := d.put(own, workers+1); !ok {
					t.Error("no room for its own client")
				}
				if former, ok := d.put(common, workers+1); !ok {
					t.Error("no room for the client of all")
				} else if former != nil && former.ID != "common" {
					t.Errorf("former %q", former.ID)
				}
				if d.get(own.ID).current != own {
					t.Error("not found")
				}
				d.each(i%shards, func(e entry) {
					if e.current == nil {
						t.Error("an empty entry")
					}
				})
				d.remove(common)
				if _, was := d.remove(own); !was {
					t.Error("not removed")
				}
			}
		})
	}
	wg.Wait()
	if n, left := d.count.Load(), len(d.ids()); int(n) != left || left > 1 {
		t.Errorf("%d counted, %d listed", n, left)
	}
}
