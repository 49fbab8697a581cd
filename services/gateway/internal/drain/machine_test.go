package drain

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const tick = 20 * time.Millisecond

// hall is a gateway with its clients, and a clock. Whoever is told goes, a while after.
type hall struct {
	Machine
	now, began time.Time
	lingers    time.Duration
	here       int
	gone       []time.Time // when those who were told are gone
	told       []time.Duration
	nowhere    bool
	hidden     bool
	come       func(h *hall) int // how many come in a tick; may be nil
}

func newHall(c Config, clients int) *hall {
	began := time.Unix(1000, 0)
	return &hall{Machine: New(c), now: began, began: began, here: clients}
}

func (h *hall) order(t *testing.T, o Order) {
	t.Helper()
	if err := h.Begin(h.now, o); err != nil {
		t.Fatal(err)
	}
}

// tick is what happens at one moment.
func (h *hall) tick() {
	if h.come != nil {
		h.here += h.come(h)
	}
	for len(h.gone) > 0 && !h.now.Before(h.gone[0]) {
		h.gone = h.gone[1:]
		h.here--
	}
	n := min(h.Step(h.now, Scene{Left: h.here, Somewhere: !h.nowhere, Shown: !h.hidden}), h.here-len(h.gone))
	if n > 0 && h.Phase() != Moving {
		panic("clients are to be told when the order is over already")
	}
	for range n {
		h.gone = append(h.gone, h.now.Add(h.lingers))
		h.told = append(h.told, h.now.Sub(h.began))
	}
	h.Told(n)
}

// run lets time pass until the machine has nothing to do, and returns how long that took.
func (h *hall) run(t *testing.T) time.Duration {
	t.Helper()
	began := h.now
	for h.tick(); h.Busy(); h.tick() {
		if h.now.Sub(began) > time.Hour {
			t.Fatal("it does not end")
		}
		h.now = h.now.Add(tick)
	}
	return h.now.Sub(began)
}

// pass lets some time pass.
func (h *hall) pass(d time.Duration) {
	for end := h.now.Add(d); h.now.Before(end); h.now = h.now.Add(tick) {
		h.tick()
	}
	h.tick()
}

func (h *hall) want(t *testing.T, p Phase, told int) {
	t.Helper()
	if got := h.Progress(); got.Phase != p || got.Told != told {
		t.Errorf("phase %d, %d told; want phase %d, %d told", got.Phase, got.Told, p, told)
	}
}

func TestNobodyIsToldBeforeTheRateAllowsItAndAllAreInTime(t *testing.T) {
	tests := []struct {
		name    string
		rate    int
		timeout time.Duration
		order   Order
		clients int
		lingers time.Duration
		told    int
		most    float64 // a second
		takes   time.Duration
	}{
		{"one", 1000, 30 * time.Second, Order{}, 1, 0, 1, 1000, 40 * time.Millisecond},
		{"at the rate", 1000, 31 * time.Second, Order{}, 3000, 0, 3000, 1000, 3 * time.Second},
		{"to the end of the process", 1000, 31 * time.Second, Order{Then: End}, 3000, 0, 3000, 1000, 3 * time.Second},
		{"slowly", 5, 31 * time.Second, Order{}, 20, 100 * time.Millisecond, 20, 5, 4*time.Second + 100*time.Millisecond},
		{"faster than the rate, because there are too many", 1000, 11 * time.Second, Order{}, 50_000, 0, 50_000, 5000, 10 * time.Second},
		{"they are told in time, and do not go", 1000, 3 * time.Second, Order{}, 100, time.Hour, 100, 1000, 2 * time.Second},
		{"at the rate of the order, however long that takes", 1000, 3 * time.Second, Order{Rate: 10}, 100, 0, 100, 10, 10 * time.Second},
		{"at the rate of the order, but in its time", 1000, time.Hour, Order{Rate: 10, Timeout: 6 * time.Second}, 100, 0, 100, 20, 5 * time.Second},
		{"in the time of the order", 10, time.Hour, Order{Timeout: 3 * time.Second}, 100, 0, 100, 50, 2 * time.Second},
		{"without a configured time", 1, 0, Order{}, 290, 0, 290, 10, 29 * time.Second},
		{"in less than the grace: at once", 1, time.Hour, Order{Timeout: time.Millisecond}, 100, 0, 100, 1e9, tick},
		{"some, and then it settles", 100, time.Hour, Order{Keep: 900, Then: Resume}, 1000, 0, 100, 100, 11 * time.Second},
		{"some, and it stays drained", 100, time.Hour, Order{Keep: 900}, 1000, 0, 100, 100, time.Second},
		{"some, in time", 1, 6 * time.Second, Order{Keep: 900, Then: Resume}, 1000, time.Hour, 100, 20, 15 * time.Second},
		{"all, and it resumes", 100, time.Hour, Order{Then: Resume}, 100, 0, 100, 100, 11 * time.Second},
		{"none: there are fewer", 1, time.Hour, Order{Keep: 1000, Then: Resume}, 999, 0, 0, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHall(Config{Rate: tt.rate, Timeout: tt.timeout, Grace: time.Second, Settle: 10 * time.Second}, tt.clients)
			h.lingers = tt.lingers
			h.order(t, tt.order)
			if h.Phase() != Grace || !h.Draining() || h.Refuses() {
				t.Errorf("it begins with phase %d, draining %v, refusing %v", h.Phase(), h.Draining(), h.Refuses())
			}
			if h.here > tt.order.Keep {
				tt.takes += time.Second
			}
			if took := h.run(t); took < tt.takes-tick || took > tt.takes+2*tick {
				t.Errorf("it took %v, want %v", took, tt.takes)
			}
			end := Drained
			if tt.order.Then == Resume {
				end = Serving
			}
			h.want(t, end, tt.told)
			for i, at := range h.told {
				after := at - time.Second
				if after < 0 || after < h.pace.time && float64(i+1) > tt.most*after.Seconds()+1e-6 {
					t.Fatalf("number %d was told after %v already", i+1, at)
				}
			}
		})
	}
}

// Phase is that of the machine.
func (h *hall) Phase() Phase { return h.Progress().Phase }

func TestWhatIsOrderedInEachPhase(t *testing.T) {
	cfg := Config{Rate: 10, Timeout: time.Hour, Grace: time.Second, Settle: 10 * time.Second}
	some, all, end := Order{Keep: 50, Then: Resume}, Order{}, Order{Then: End}
	reach := map[string]func(t *testing.T, h *hall){
		"serving":          func(*testing.T, *hall) {},
		"some, in grace":   func(t *testing.T, h *hall) { h.order(t, some); h.pass(500 * time.Millisecond) },
		"some are moving":  func(t *testing.T, h *hall) { h.order(t, some); h.pass(2 * time.Second) },
		"some have gone":   func(t *testing.T, h *hall) { h.order(t, some); h.pass(8 * time.Second) },
		"all, in grace":    func(t *testing.T, h *hall) { h.order(t, all); h.pass(500 * time.Millisecond) },
		"all are moving":   func(t *testing.T, h *hall) { h.order(t, all); h.pass(2 * time.Second) },
		"all have gone":    func(t *testing.T, h *hall) { h.order(t, all); h.run(t) },
		"the end, in time": func(t *testing.T, h *hall) { h.order(t, end); h.pass(2 * time.Second) },
		"the end has come": func(t *testing.T, h *hall) { h.order(t, end); h.run(t) },
	}
	tests := []struct {
		phase             string
		is                Phase
		refuses           bool
		some, all, resume error
	}{
		{"serving", Serving, false, nil, nil, nil},
		{"some, in grace", Grace, false, nil, nil, nil},
		{"some are moving", Moving, false, nil, nil, nil},
		{"some have gone", Settling, false, nil, nil, nil},
		{"all, in grace", Grace, false, ErrDraining, nil, nil},
		{"all are moving", Moving, true, ErrDraining, nil, nil},
		{"all have gone", Drained, true, ErrDraining, nil, nil},
		{"the end, in time", Moving, true, ErrEnding, ErrEnding, ErrEnding},
		{"the end has come", Drained, true, ErrEnding, ErrEnding, ErrEnding},
	}
	for _, tt := range tests {
		t.Run(tt.phase, func(t *testing.T) {
			at := func() *hall {
				h := newHall(cfg, 100)
				reach[tt.phase](t, h)
				return h
			}
			h := at()
			if h.Phase() != tt.is || h.Refuses() != tt.refuses || h.Draining() != (tt.is != Serving) {
				t.Errorf("phase %d, refuses %v, draining %v", h.Phase(), h.Refuses(), h.Draining())
			}
			for what, o := range map[string]struct {
				order Order
				want  error
			}{"some": {some, tt.some}, "all": {all, tt.all}, "end": {end, nil}} {
				h := at()
				before := h.Progress()
				if err := h.Begin(h.now, o.order); !errors.Is(err, o.want) {
					t.Errorf("%s: Begin = %v, want %v", what, err, o.want)
				}
				if o.want != nil {
					if diff := cmp.Diff(before, h.Progress()); diff != "" {
						t.Errorf("%s is refused, and changes (-before +after)\n%s", what, diff)
					}
					continue
				}
				if got := h.Progress(); got.Order != o.order || got.Told != 0 || got.Err != nil {
					t.Errorf("%s: %+v", what, got)
				}
				h.tick()
				if graceIsOver := tt.is != Serving && tt.is != Grace; graceIsOver && h.Phase() == Grace {
					t.Errorf("%s: the grace is given twice", what)
				}
				h.run(t)
				if kept := max(h.here, 0); kept != min(o.order.Keep, kept) {
					t.Errorf("%s: %d are left", what, kept)
				}
			}
			h = at()
			if err := h.Resume(h.now); !errors.Is(err, tt.resume) {
				t.Errorf("Resume = %v, want %v", err, tt.resume)
			}
			if is := h.Phase(); tt.resume == nil && (is != Serving || h.Draining() || h.Refuses() || h.Busy()) {
				t.Errorf("resumed: phase %d", is)
			}
			left := h.here - len(h.gone)
			if h.pass(5 * time.Second); tt.resume == nil && h.here != left {
				t.Errorf("%d go after it has resumed", left-h.here)
			}
		})
	}
}

func TestWithNowhereToGoTheyStay(t *testing.T) {
	tests := []struct {
		name  string
		order Order
		after time.Duration // when there is nowhere to go
		ends  Phase
		told  int
	}{
		{"from the beginning", Order{}, 0, Drained, 0},
		{"from the beginning, of a rebalance", Order{Keep: 10, Then: Resume}, 0, Serving, 0},
		{"meanwhile", Order{}, 2 * time.Second, Drained, 10},
		{"meanwhile, at the end", Order{Then: End}, 2 * time.Second, Drained, 10},
		{"meanwhile, of a rebalance", Order{Keep: 10, Then: Resume}, 2 * time.Second, Serving, 10},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHall(Config{Rate: 10, Timeout: time.Hour, Grace: time.Second, Settle: time.Second}, 100)
			h.order(t, tt.order)
			if tt.after > 0 {
				h.pass(tt.after)
			}
			h.nowhere = true
			h.run(t)
			h.want(t, tt.ends, tt.told)
			if err := h.Progress().Err; !errors.Is(err, ErrNowhere) {
				t.Errorf("Err = %v, want %v", err, ErrNowhere)
			}
			if tt.order.Then == Stay {
				h.nowhere = false
				h.order(t, tt.order)
				h.run(t)
				if h.here != 0 {
					t.Errorf("%d are left after another order", h.here)
				}
			}
		})
	}
}

func TestNobodyIsMovedByCommandBeforeTheOthersAreShown(t *testing.T) {
	cfg := Config{Rate: 10, Timeout: time.Hour, Grace: time.Second, Settle: time.Second}
	for name, tt := range map[string]struct {
		order Order
		shown time.Duration // when; 0: never
		takes time.Duration
		ends  Phase
		told  int
		err   error
	}{
		"late":                     {Order{}, 3 * time.Second, 13 * time.Second, Drained, 100, nil},
		"never":                    {Order{}, 0, 11 * time.Second, Drained, 0, ErrUnseen},
		"never, of a rebalance":    {Order{Keep: 10, Then: Resume}, 0, 11 * time.Second, Serving, 0, ErrUnseen},
		"the end waits for no one": {Order{Then: End}, 0, 11 * time.Second, Drained, 100, nil},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHall(cfg, 100)
			h.hidden = true
			h.come = func(h *hall) int {
				h.hidden = tt.shown == 0 || h.now.Sub(h.began) < tt.shown
				return 0
			}
			h.order(t, tt.order)
			if took := h.run(t); took < tt.takes || took > tt.takes+3*tick {
				t.Errorf("it took %v, want %v", took, tt.takes)
			}
			h.want(t, tt.ends, tt.told)
			if err := h.Progress().Err; !errors.Is(err, tt.err) {
				t.Errorf("Err = %v, want %v", err, tt.err)
			}
			if h.Refuses() && tt.err != nil {
				t.Error("new clients are refused, and sent back by those who do not know")
			}
		})
	}
}

func TestWhoComesMeanwhile(t *testing.T) {
	tests := []struct {
		name       string
		order      Order
		told, left int
	}{
		{"goes too, when all go", Order{}, 120, 0},
		{"stays, when some go", Order{Keep: 50, Then: Resume}, 50, 70},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHall(Config{Rate: 50, Timeout: time.Hour, Grace: time.Second}, 100)
			coming := 20
			h.come = func(h *hall) int {
				if coming == 0 || h.Phase() != Moving || len(h.told) == 0 {
					return 0
				}
				coming--
				return 1
			}
			h.order(t, tt.order)
			h.run(t)
			if len(h.told) != tt.told || h.here != tt.left {
				t.Errorf("%d were told, %d are left; want %d, %d", len(h.told), h.here, tt.told, tt.left)
			}
		})
	}
}

func TestTheGraceIsForThoseWhoAreThere(t *testing.T) {
	for clients, want := range map[int]time.Duration{0: 0, 1: time.Second} {
		h := newHall(Config{Rate: 1000, Timeout: time.Minute, Grace: time.Second}, clients)
		h.order(t, Order{})
		if took := h.run(t); took < want || took > want+3*tick {
			t.Errorf("with %d clients it took %v, want %v", clients, took, want)
		}
	}
}

func TestHowManyAreLeftToGo(t *testing.T) {
	h := newHall(Config{Rate: 10, Timeout: time.Hour, Grace: time.Second, Settle: time.Minute}, 100)
	h.order(t, Order{Keep: 80, Then: Resume})
	for _, step := range []struct {
		pass time.Duration
		here int
		want int
	}{
		{500 * time.Millisecond, 100, 20}, // in the grace
		{1500 * time.Millisecond, 90, 10}, // ten have gone
		{0, 95, 10},                       // and five came by themselves
		{0, 82, 2},                        // others went
		{5 * time.Second, 95, 0},          // it settles
	} {
		h.pass(step.pass)
		if got := h.Left(step.here); got != step.want {
			t.Errorf("after %v, with %d: %d are left to go, want %d", h.now.Sub(h.began), step.here, got, step.want)
		}
	}
}

// Whatever is ordered: a gateway that shares its clients keeps those who are to stay, one that is told to end never takes
// clients again, and everything comes to an end.
func TestOrdersInAnyOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h := newHall(Config{Rate: 50, Timeout: 5 * time.Second, Grace: 100 * time.Millisecond, Settle: time.Second}, rapid.IntRange(0, 300).Draw(rt, "clients"))
		least, ending := h.here, false
		for range rapid.IntRange(1, 8).Draw(rt, "orders") {
			if rapid.Bool().Draw(rt, "resume") {
				_ = h.Resume(h.now)
			} else {
				o := Order{Then: rapid.SampledFrom([]Then{Stay, Resume, Resume, Resume, End}).Draw(rt, "then")}
				if o.Then == Resume {
					o.Keep = rapid.IntRange(0, 300).Draw(rt, "keep")
				}
				if h.Begin(h.now, o) == nil {
					least = min(least, o.Keep)
					ending = ending || o.Then == End
				}
			}
			h.pass(time.Duration(rapid.IntRange(0, 2000).Draw(rt, "ms")) * time.Millisecond)
			h.nowhere = rapid.IntRange(0, 9).Draw(rt, "nowhere") == 0
			if h.here < least {
				rt.Fatalf("%d are left, %d were to stay", h.here, least)
			}
			if ending && !h.Draining() {
				rt.Fatal("it takes clients again, and was to end")
			}
		}
		h.pass(10 * time.Second)
		if h.Busy() {
			rt.Fatalf("it is still in phase %d", h.Phase())
		}
	})
}
