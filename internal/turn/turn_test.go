package turn_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-mqtt/beeline/internal/turn"
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

// bomb panics when it is flushed.
type bomb struct{}

func (bomb) Flush(*turn.Turn) { panic("by order of the test") }

func TestAPanicInOneFlushKeepsNobodyElseFromBeingFlushed(t *testing.T) {
	var log []string
	var tn turn.Turn
	tn.Add(&recorder{name: "a", log: &log})
	tn.Add(bomb{})
	tn.Add(&recorder{name: "b", log: &log})
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic is swallowed: its owner would not learn of it")
			}
		}()
		tn.End()
	}()
	tn.End() // by whoever has recovered
	tn.End()
	if diff := cmp.Diff([]string{"a", "b"}, log); diff != "" {
		t.Fatal(diff)
	}
}

func TestALargeFanOutDoesNotStayInMemory(t *testing.T) {
	var log []string
	a := &recorder{name: "a", log: &log}
	var tn turn.Turn
	fan := func(n int) float64 {
		return testing.AllocsPerRun(10, func() {
			log = log[:0]
			for range n {
				tn.Add(a)
			}
			tn.End()
		})
	}
	fan(10_000)
	if n := fan(10_000); n == 0 {
		t.Error("room for 10,000 is kept")
	}
	fan(30)
	if n := fan(30); n != 0 {
		t.Errorf("%v allocations for a small turn: its room is not kept", n)
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
