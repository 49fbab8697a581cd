package engine

import (
	"testing"

	"pgregory.net/rapid"
)

func TestRingIsAQueue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r ring[int]
		var want []int
		pushed := 0
		push := func(*rapid.T) {
			pushed++
			r.push(pushed)
			want = append(want, pushed)
		}
		t.Repeat(map[string]func(*rapid.T){
			"push":  push,
			"push2": push,
			"pop": func(t *rapid.T) {
				if len(want) == 0 {
					t.Skip("empty")
				}
				if got := r.pop(); got != want[0] {
					t.Fatalf("popped %d, want %d", got, want[0])
				}
				want = want[1:]
			},
			"": func(t *rapid.T) {
				if r.n != len(want) {
					t.Fatalf("%d elements, want %d", r.n, len(want))
				}
				for i, w := range want {
					if got := *r.at(i); got != w {
						t.Fatalf("element %d is %d, want %d", i, got, w)
					}
				}
			},
		})
	})
}

func TestRingKeepsNoPopped(t *testing.T) {
	var r ring[*int]
	for range 3 {
		r.push(new(int))
	}
	for range 3 {
		r.pop()
	}
	for i, p := range r.buf {
		if p != nil {
			t.Errorf("slot %d of an empty ring is not empty", i)
		}
	}
}

func TestRingKeepsASmallBufferAndLetsGoOfALargeOne(t *testing.T) {
	for _, c := range []struct {
		name            string
		elements, slots int
	}{
		{"one element", 1, smallest},
		{"as many as are kept", keep, keep},
		{"more", keep + 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r ring[int]
			for i := range c.elements {
				r.push(i)
			}
			for range c.elements {
				r.pop()
			}
			if len(r.buf) != c.slots {
				t.Errorf("an empty ring holds on to %d slots, want %d", len(r.buf), c.slots)
			}
		})
	}
}
