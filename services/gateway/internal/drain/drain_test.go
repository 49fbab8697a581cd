package drain

import (
	"context"
	"errors"
	"iter"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/beeline-mqtt/beeline/internal/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWrongConfigurationNamesTheKey(t *testing.T) {
	type file struct {
		Drain Config `koanf:"drain"`
	}
	tests := []struct {
		name   string
		change func(*Config)
		want   string // "": valid
	}{
		{"defaults", func(*Config) {}, ""},
		{"no rate", func(c *Config) { c.Rate = 0 }, "drain.rate: "},
		{"no time: nobody is moved", func(c *Config) { c.Timeout = 0 }, ""},
		{"no time and no grace", func(c *Config) { c.Timeout, c.Grace = 0, 0 }, ""},
		{"less than no time", func(c *Config) { c.Timeout = -1 }, "drain.timeout: "},
		{"less than no grace", func(c *Config) { c.Grace = -1 }, "drain.grace: "},
		{"nothing but grace", func(c *Config) { c.Grace = c.Timeout }, "drain.grace: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := DefaultConfig()
			tt.change(&c)
			_, err := config.Load(file{c}, config.Source{Program: "gateway"})
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v, want %q in it", err, tt.want)
			}
		})
	}
}

func TestHowManyAreDue(t *testing.T) {
	tests := []struct {
		name           string
		rate, clients  int
		within, passed time.Duration
		want           int
	}{
		{"at the beginning", 1000, 5000, 30 * time.Second, 0, 0},
		{"before the first is", 10, 50, 30 * time.Second, 99 * time.Millisecond, 0},
		{"the first", 10, 50, 30 * time.Second, 100 * time.Millisecond, 1},
		{"at the rate", 1000, 5000, 30 * time.Second, 2500 * time.Millisecond, 2500},
		{"just as many as the rate is good for", 1000, 30_000, 30 * time.Second, 15 * time.Second, 15_000},
		{"more than the rate is good for", 1000, 90_000, 30 * time.Second, 15 * time.Second, 45_000},
		{"just before the end", 1, 1000, 10 * time.Second, 9_999 * time.Millisecond, 999},
		{"at the end", 1, 1000, 10 * time.Second, 10 * time.Second, math.MaxInt},
		{"nobody is there", 1, 0, 10 * time.Second, time.Second, 1},
		{"no time", 1, 1000, 0, 0, math.MaxInt},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := paceOf(tt.rate, tt.clients, tt.within).due(tt.passed); got != tt.want {
				t.Errorf("%d are due, want %d", got, tt.want)
			}
		})
	}
}

// hall is a crowd that goes a while after it has been told. All of it runs on the goroutine of the test: those who go do
// so when they are counted.
type hall struct {
	lingers time.Duration
	here    map[int]bool // whether it has been told
	told    []time.Time
	next    int
	nowhere bool
}

func newHall(n int) *hall {
	h := &hall{here: make(map[int]bool)}
	h.come(n)
	return h
}

func (h *hall) come(n int) {
	for range n {
		h.here[h.next] = false
		h.next++
	}
}

func (h *hall) crowd() Crowd[int] {
	gone := make(map[int]time.Time)
	left := func() int {
		for i, at := range gone {
			if !time.Now().Before(at) {
				delete(h.here, i)
				delete(gone, i)
			}
		}
		return len(h.here)
	}
	return Crowd[int]{
		Left: left,
		All: func() iter.Seq[int] {
			all := make([]int, 0, len(h.here))
			for i := range h.here {
				all = append(all, i)
			}
			return slices.Values(all)
		},
		Tell: func(i int) bool {
			if h.here[i] {
				return false
			}
			h.here[i] = true
			h.told = append(h.told, time.Now())
			gone[i] = time.Now().Add(h.lingers)
			return true
		},
		Somewhere: func() bool { return !h.nowhere },
	}
}

func TestNobodyIsToldBeforeTheRateAllowsItAndAllAreInTime(t *testing.T) {
	tests := []struct {
		name          string
		rate, clients int
		timeout       time.Duration
		lingers       time.Duration
		most          float64 // a second
		takes         time.Duration
	}{
		{"one", 1000, 1, 30 * time.Second, 0, 1000, 20 * time.Millisecond},
		{"at the rate", 1000, 3000, 31 * time.Second, 0, 1000, 3 * time.Second},
		{"slowly", 5, 20, 31 * time.Second, 100 * time.Millisecond, 5, 4*time.Second + 100*time.Millisecond},
		{"faster than the rate, because there are too many", 1000, 50_000, 11 * time.Second, 0, 5000, 10 * time.Second},
		{"they are told in time, and do not go", 1000, 100, 3 * time.Second, time.Hour, 1000, 2 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHall(tt.clients)
				h.lingers = tt.lingers
				began := time.Now()
				c := Config{Rate: tt.rate, Timeout: tt.timeout, Grace: time.Second}
				if err := Move(t.Context(), c, h.crowd()); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); took < tt.takes || took > tt.takes+2*step {
					t.Errorf("it took %v, want %v", took, tt.takes)
				}
				if len(h.told) != tt.clients {
					t.Fatalf("%d of %d have been told", len(h.told), tt.clients)
				}
				for i, at := range h.told {
					if after := at.Sub(began); after < c.Timeout-c.Grace && float64(i+1) > tt.most*after.Seconds()+1e-6 {
						t.Fatalf("number %d was told after %v already", i+1, after)
					}
				}
			})
		})
	}
}

func TestThoseWhoComeMeanwhileAreToldToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHall(10)
		crowd := h.crowd()
		tell := crowd.Tell
		crowd.Tell = func(i int) bool {
			if i < 10 && len(h.told) < 10 {
				h.come(1)
			}
			return tell(i)
		}
		if err := Move(t.Context(), DefaultConfig(), crowd); err != nil {
			t.Fatal(err)
		}
		if len(h.told) != 20 || len(h.here) != 0 {
			t.Errorf("%d were told, %d are left", len(h.told), len(h.here))
		}
	})
}

func TestOneThatHasLeftByItselfDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHall(10)
		for i := range 9 {
			h.here[i] = true // is going
		}
		crowd := h.crowd()
		began := time.Now()
		crowd.Left = func() int { return 10 - 10*len(h.told) }
		if err := Move(t.Context(), Config{Rate: 1, Timeout: time.Minute}, crowd); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > time.Second+2*step {
			t.Errorf("the tenth was told after %v", took)
		}
	})
}

func TestWithNowhereToGoTheyStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHall(100)
		crowd := h.crowd()
		tell := crowd.Tell
		crowd.Tell = func(i int) bool {
			h.nowhere = len(h.told) == 9 // from the tenth on
			return tell(i)
		}
		if err := Move(t.Context(), Config{Rate: 50, Timeout: time.Minute}, crowd); !errors.Is(err, ErrNowhere) {
			t.Errorf("Move = %v, want %v", err, ErrNowhere)
		}
		if len(h.told) != 10 {
			t.Errorf("%d have been told, want 10", len(h.told))
		}
	})
}

func TestNobodyIsToldWhenTheContextHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		h := newHall(100)
		time.AfterFunc(time.Second, cancel)
		if err := Move(ctx, Config{Rate: 10, Timeout: time.Minute}, h.crowd()); !errors.Is(err, context.Canceled) {
			t.Errorf("Move = %v", err)
		}
		if n := len(h.told); n < 9 || n > 10 {
			t.Errorf("%d have been told, want 10", n)
		}
	})
}

func TestTheGraceIsForThoseWhoAreThere(t *testing.T) {
	tests := []struct {
		name    string
		clients int
		leave   time.Duration // when all go by themselves
		want    time.Duration
	}{
		{"nobody", 0, time.Hour, 0},
		{"somebody", 1, time.Hour, 3 * time.Second},
		{"somebody who goes", 1, time.Second, time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHall(tt.clients)
				crowd, began := h.crowd(), time.Now()
				crowd.Left = func() int {
					if time.Since(began) >= tt.leave {
						return 0
					}
					return tt.clients
				}
				if err := Wait(t.Context(), Config{Grace: 3 * time.Second}, crowd); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); took < tt.want || took > tt.want+2*step {
					t.Errorf("it took %v, want %v", took, tt.want)
				}
				if len(h.told) > 0 {
					t.Error("somebody has been told")
				}
			})
		})
	}
}
