package bench

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestAWindowIsFullUntilSomethingIsAcknowledged(t *testing.T) {
	w := newWindow(2)
	if a, b := w.take(1), w.take(1); a != 1 || b != 2 || w.open() != 2 {
		t.Fatalf("took %d and %d, %d open", a, b, w.open())
	}
	if wanted, err := w.ack(puback, 1); wanted || err != nil {
		t.Errorf("nobody was refused: %v, %v", wanted, err)
	}
	if id := w.take(1); id != 1 {
		t.Errorf("took %d", id)
	}
	if id := w.take(1); id != 0 {
		t.Errorf("a full window gave %d", id)
	}
	if wanted, err := w.ack(puback, 2); !wanted || err != nil {
		t.Errorf("somebody was refused: %v, %v", wanted, err)
	}
	if wanted, err := w.ack(puback, 1); wanted || err != nil {
		t.Errorf("that is over: %v, %v", wanted, err)
	}
}

func TestAQoS2MessageIsOpenUntilItsPubcomp(t *testing.T) {
	w := newWindow(1)
	id := w.take(2)
	if _, err := w.ack(pubrec, id); err != nil || w.open() != 1 {
		t.Errorf("PUBREC: %v, %d open", err, w.open())
	}
	if _, err := w.ack(pubcomp, id); err != nil || w.open() != 0 {
		t.Errorf("PUBCOMP: %v, %d open", err, w.open())
	}
}

func TestAcknowledgementsThatNobodyAwaitsAreErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		qos  byte
		acks []byte // the last of them is the bad one
		id   uint16
	}{
		{"of an identifier that is free", 1, []byte{puback}, 2},
		{"of one that there is not", 1, []byte{puback}, 3},
		{"of 0", 1, []byte{puback}, 0},
		{"twice", 1, []byte{puback, puback}, 1},
		{"PUBREC of QoS 1", 1, []byte{pubrec}, 1},
		{"PUBACK of QoS 2", 2, []byte{puback}, 1},
		{"PUBCOMP before PUBREC", 2, []byte{pubcomp}, 1},
		{"PUBREC twice", 2, []byte{pubrec, pubrec}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWindow(2)
			w.take(tt.qos)
			for i, first := range tt.acks {
				_, err := w.ack(first, tt.id)
				if last := i == len(tt.acks)-1; (err != nil) != last {
					t.Errorf("packet %d: %v", i, err)
				}
			}
		})
	}
}

func TestNoIdentifierIsGivenTwiceAtATime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1, 5).Draw(t, "size")
		w := newWindow(size)
		var open []uint16
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				id := w.take(1)
				if (id == 0) != (len(open) == size) || slices.Contains(open, id) || int(id) > size {
					t.Fatalf("took %d with %v open", id, open)
				}
				if id != 0 {
					open = append(open, id)
				}
			},
			"ack": func(t *rapid.T) {
				if len(open) == 0 {
					t.Skip("nothing is open")
				}
				i := rapid.IntRange(0, len(open)-1).Draw(t, "i")
				if _, err := w.ack(puback, open[i]); err != nil {
					t.Fatal(err)
				}
				open = slices.Delete(open, i, i+1)
			},
			"": func(t *rapid.T) {
				if w.open() != len(open) {
					t.Fatalf("%d open, want %v", w.open(), open)
				}
			},
		})
	})
}
