package pebble

import (
	"testing"

	"github.com/beeline-mqtt/beeline/internal/journal"
)

func TestWhatWasReadIsKnownUntilItIsGone(t *testing.T) {
	var r lately
	if _, known := r.get(1, 7); known {
		t.Error("known before it was read")
	}
	r.add(1, 7, entry{size: 100, ids: []uint32{1}, inline: reader{b: []byte("message")}})
	e, known := r.get(1, 7)
	if !known || e == nil || e.size != 100 {
		t.Fatalf("%v, known: %v", e, known)
	}
	if e.ids != nil || e.inline.b != nil {
		t.Error("the message is kept")
	}
	if _, known := r.get(2, 7); known {
		t.Error("known of another session")
	}
	r.gone(1, 7)
	r.add(1, 7, entry{size: 100}) // by a page that was read before
	if e, known := r.get(1, 7); !known || e != nil {
		t.Errorf("%v, known: %v, after it was removed", e, known)
	}
}

func TestAnEntryThatWasNeverReadCanBeGone(t *testing.T) {
	var r lately
	r.gone(1, 7)
	if e, known := r.get(1, 7); !known || e != nil {
		t.Errorf("%v, known: %v", e, known)
	}
}

func TestOnlySoMuchIsRemembered(t *testing.T) {
	var r lately
	for at := range journal.Position(latelyRead + 10) {
		r.add(1, at, entry{size: uint64(at)})
	}
	if len(r.known) != latelyRead || len(r.order) != latelyRead {
		t.Errorf("%d known, %d in order", len(r.known), len(r.order))
	}
	if _, known := r.get(1, 9); known {
		t.Error("the oldest is known still")
	}
	if e, known := r.get(1, 10); !known || e.size != 10 {
		t.Error("the oldest but ten is not known any more")
	}
}
