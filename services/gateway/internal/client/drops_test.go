package client

import (
	"fmt"
	"strings"
	"testing"
)

func TestTheLastDropsAreKept(t *testing.T) {
	for many, want := range map[int]string{0: "", 1: "1", 8: "8 7 6 5 4 3 2 1", 9: "9 8 7 6 5 4 3 2", 20: "20 19 18 17 16 15 14 13"} {
		var d *drops
		if many > 0 {
			d = &drops{}
		}
		for n := range many {
			d.note(Drop{Topic: fmt.Sprint(n + 1)})
		}
		var got []string
		for _, x := range d.newest() {
			got = append(got, x.Topic)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("of %d: %v, want %s", many, got, want)
		}
	}
}
