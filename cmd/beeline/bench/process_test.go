package bench

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestUsageIsReadFromProc(t *testing.T) {
	const stat = "4711 (a ) b (c) S 1 4711 4711 0 -1 4194560 1 2 3 4 250 30 7 8 20 0 9 0 12345 6789 1024 18446744073709551615\n"
	got, err := parseUsage([]byte(stat), []byte("2000 1024 300 4 0 5 0\n"), 4096)
	if err != nil || got.cpu != 2800*time.Millisecond || got.rss != 4<<20 {
		t.Errorf("%+v, %v", got, err)
	}
	for _, tt := range []struct{ stat, statm string }{
		{"", ""},
		{"1 (x) S 1 2 3", "1 2"},
		{stat, "1"},
		{stat, "1 many"},
		{strings.Replace(stat, "250", "?", 1), "1 2"},
	} {
		if got, err := parseUsage([]byte(tt.stat), []byte(tt.statm), 4096); err == nil {
			t.Errorf("%q, %q: %+v", tt.stat, tt.statm, got)
		}
	}
}

func TestAnAccountSeesThisProcessWork(t *testing.T) {
	me := []Process{{"me", os.Getpid()}}
	before, err := takeAccount(me)
	if err != nil {
		t.Fatal(err)
	}
	after, memory := before, [][]byte{}
	for after.of[0].cpu-before.of[0].cpu < 3*clockTick || after.of[0].rss-before.of[0].rss < 1<<20 {
		memory = append(memory, blank(1<<20))
		if after, err = takeAccount(me); err != nil {
			t.Fatal(err)
		}
	}
	used, mine := after.of[0].cpu-before.of[0].cpu, after.myself-before.myself
	if mine < used-2*clockTick || mine > used+2*clockTick || !after.at.After(before.at) || len(memory) == 0 {
		t.Errorf("%v by /proc, %v by getrusage", used, mine)
	}
}

func TestWhatWasUsedIsDividedByOperations(t *testing.T) {
	processes := []Process{{"a", 1}, {"a", 2}}
	begin := account{of: []usage{{0, 10}, {0, 20}}}
	before := account{of: []usage{{time.Second, 0}, {0, 0}}, myself: time.Second}
	after := account{of: []usage{{3 * time.Second, 110}, {time.Second, 220}}, myself: 2 * time.Second}
	var r Result
	r.charge(processes, begin, before, after, 1000)
	r.remember(begin, after, account{of: []usage{{0, 60}, {0, 70}}}, time.Second, 10)
	thirty, ten := 30.0, 10.0
	want := Result{
		CPU: CPU{Total: 3000, Generator: 1000},
		Processes: []ProcessResult{
			{Name: "a", PID: 1, CPU: 2000, RSSBefore: 10, RSSAfter: 110, RSSHeld: 60},
			{Name: "a", PID: 2, CPU: 1000, RSSBefore: 20, RSSAfter: 220, RSSHeld: 70},
		},
		MemoryPerConnection: &thirty, MemoryPerConnectionHeld: &ten,
	}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	r.charge(nil, account{}, account{}, account{}, 0)
	if r.CPU != (CPU{}) || r.Processes == nil {
		t.Errorf("of nothing: %+v", r)
	}
}
