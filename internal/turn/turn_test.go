package turn_test

import (
	"testing"

	"github.com/beeline-mqtt/beeline/internal/turn"
	"github.com/google/go-cmp/cmp"
)

type recorder struct {
	name string
	log  *[]string
	next []turn.Flusher
}

func (r *recorder) Flush(t *turn.Turn) {
	*r.log = append(*r.log, r.name)
	for _, n := range r.next {
		t.Add(n)
	}
}

func TestEndFlushesInOrderIncludingWhatIsAddedMeanwhile(t *testing.T) {
	var log []string
	c := &recorder{name: "c", log: &log}
	a := &recorder{name: "a", log: &log, next: []turn.Flusher{c}}
	b := &recorder{name: "b", log: &log}
	var tn turn.Turn
	tn.Add(a)
	tn.Add(b)
	tn.End()
	if diff := cmp.Diff([]string{"a", "b", "c"}, log); diff != "" {
		t.Fatal(diff)
	}
}

func TestATurnIsReadyAgainAfterItsEnd(t *testing.T) {
	var log []string
	a := &recorder{name: "a", log: &log}
	var tn turn.Turn
	tn.Add(a)
	tn.End()
	tn.End()
	tn.Add(a)
	tn.End()
	if diff := cmp.Diff([]string{"a", "a"}, log); diff != "" {
		t.Fatal(diff)
	}
}

func BenchmarkTurn(b *testing.B) {
	var log []string
	a := &recorder{name: "a", log: &log}
	var tn turn.Turn
	b.ReportAllocs()
	for b.Loop() {
		log = log[:0]
		tn.Add(a)
		tn.End()
	}
}
