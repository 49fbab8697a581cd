package away

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/services/session/internal/claims"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// What MQTT 5 says about wills and sessions when a client connects (3.1.2.4, 3.1.2.5, 3.1.3.2.2, 3.1.4-3).
func TestWhatAConnectMakesOfARecord(t *testing.T) {
	at := time.Unix(1000, 0)
	held := store.Record{Client: "x", Session: 1, Epoch: 5, Holder: "g1", Expiry: 60}
	absent := store.Record{Client: "x", Session: 1, Epoch: 5, Expiry: 60, Away: at.Add(-10 * time.Second)}
	withWill := func(r store.Record, delay time.Duration) store.Record {
		r.Will = will("w", delay)
		return r
	}
	expiry := func(r store.Record, seconds uint32) store.Record {
		r.Expiry = seconds
		return r
	}
	onlyWill := store.Record{Client: "x", Epoch: 5, Holder: "g1", Will: will("w", time.Minute)}
	again := claims.Terms{Expiry: 60}
	clean := claims.Terms{Expiry: 60, CleanStart: true}
	goodbye := &claims.Ending{WithoutWill: true}
	tests := []struct {
		name   string
		r      store.Record
		terms  claims.Terms
		ending *claims.Ending

		stored, present, fire bool
		session               journal.SessionID
	}{
		{"nobody knows it, and it is transient", store.Record{}, claims.Terms{CleanStart: true}, nil, false, false, false, 0},
		{"nobody knows it, and it is durable", store.Record{}, again, nil, true, false, false, 9},
		{"nobody knows it, and it has a will", store.Record{}, claims.Terms{Will: will("v", 0)}, nil, true, false, false, 0},
		{"it is away", absent, again, nil, true, true, false, 1},
		{"it is away, and goes on until its connection ends", absent, claims.Terms{}, nil, true, true, false, 1},
		{"it is away: clean start", absent, clean, nil, true, false, false, 9},
		{"it is away: clean start, transient", absent, claims.Terms{CleanStart: true}, nil, false, false, false, 0},
		{"it has been away for too long", expiry(absent, 10), again, nil, true, false, false, 9},
		{"it never expires", expiry(absent, journal.Never), again, nil, true, true, false, 1},
		{"its will was to come later", withWill(absent, time.Minute), again, nil, true, true, false, 1},
		{"its will is due", withWill(absent, 10*time.Second), again, nil, true, true, true, 1},
		{"its will was to come later: clean start", withWill(absent, time.Minute), clean, nil, true, false, true, 9},
		{"it is taken over", held, again, nil, true, true, false, 1},
		{"it is taken over, its will has no delay", withWill(held, 0), again, nil, true, true, true, 1},
		{"it is taken over, its will has a delay", withWill(held, time.Second), again, nil, true, true, false, 1},
		{"it is taken over, its will has a delay: clean start", withWill(held, time.Second), clean, nil, true, false, true, 9},
		{"it is taken over after goodbye", withWill(held, 0), again, goodbye, true, true, false, 1},
		{"it is taken over after goodbye: clean start", withWill(held, 0), clean, goodbye, true, false, false, 9},
		{
			"it is taken over, and its session had ended", withWill(held, time.Second), again, &claims.Ending{HasExpiry: true},
			true, false, true, 9,
		},
		{"it is taken over, and its session ends with the connection", expiry(withWill(held, time.Second), 0), again, nil, true, false, true, 9},
		{"a transient one with a will is taken over", onlyWill, claims.Terms{}, nil, false, false, true, 0},
		{"a transient one with a will is taken over after goodbye", onlyWill, again, goodbye, true, false, false, 9},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := opening("x", "g2", 7, tt.terms)
			e.Ending = tt.ending
			got := open(tt.r, e, 9, at)
			if got.stored != tt.stored || got.present != tt.present || got.fire != tt.fire || got.next.Session != tt.session {
				t.Errorf("stored %v, present %v, fire %v, session %d", got.stored, got.present, got.fire, got.next.Session)
			}
			want := store.Record{
				Client: "x", Session: tt.session, Epoch: 7, Holder: "g2", Expiry: tt.terms.Expiry, Will: tt.terms.Will,
			}
			if diff := cmp.Diff(want, got.next); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWhenSomethingIsDue(t *testing.T) {
	at := time.Unix(1000, 0)
	second := func(n int) time.Time { return at.Add(time.Duration(n) * time.Second) }
	tests := []struct {
		name string
		r    store.Record
		due  time.Time // zero: never
	}{
		{"it never expires", store.Record{Session: 1, Expiry: journal.Never}, time.Time{}},
		{"it expires", store.Record{Session: 1, Expiry: 10}, second(10)},
		{"its session ends at once", store.Record{Session: 1}, at},
		{"its will comes first", store.Record{Session: 1, Expiry: 10, Will: will("w", 3*time.Second)}, second(3)},
		{"its will comes with the end of the session", store.Record{Session: 1, Expiry: 10, Will: will("w", time.Minute)}, second(10)},
		{"its will comes, it never expires", store.Record{Session: 1, Expiry: journal.Never, Will: will("w", time.Minute)}, second(60)},
		{"it has no session", store.Record{Will: will("w", time.Minute)}, at},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.r.Client, tt.r.Away = "x", at
			got, due := dueAt(tt.r)
			if !got.Equal(tt.due) || due == tt.due.IsZero() {
				t.Fatalf("due at %v, %v; want %v", got, due, tt.due)
			}
			if !due {
				return
			}
			if f := fateOf(tt.r, got.Add(-1)); f.over || f.fire {
				t.Errorf("before: %+v", f)
			}
			if f := fateOf(tt.r, got); !f.over && !f.fire {
				t.Errorf("then: %+v", f)
			}
		})
	}
}

// However a connection ends and whenever the client comes back: its will is published or dropped, and not both; a
// session that continues is the one that there was.
func TestAWillIsPublishedOnceOrNotAtAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := time.Unix(1000, 0)
		seconds := func(name string) int { return rapid.IntRange(0, 5).Draw(t, name) }
		r := store.Record{
			Client: "x", Session: 1, Epoch: 5, Holder: "g1", Expiry: uint32(seconds("expiry")),
			Will: will("w", time.Duration(seconds("delay"))*time.Second),
		}
		bye := rapid.Bool().Draw(t, "goodbye")
		left, over := end(r, &claims.Ending{WithoutWill: bye}, at)
		f := fateOf(left, at)
		if over != f.over {
			t.Fatalf("over: %v and %v", over, f.over)
		}
		fired := 0
		if f.fire {
			fired, left.Will = fired+1, nil
		}
		if over {
			if bye == (fired == 1) {
				t.Fatalf("the session ends, goodbye %v, fired %d", bye, fired)
			}
			return
		}
		back := at.Add(time.Duration(seconds("back")) * time.Second)
		clean := rapid.Bool().Draw(t, "clean start")
		p := open(left, opening("x", "g2", 7, claims.Terms{CleanStart: clean, Expiry: 60}), 9, back)
		if p.fire {
			fired++
		}
		expired := back.Sub(at) >= time.Duration(r.Expiry)*time.Second
		delayed := back.Sub(at) >= r.Will.Delay
		want := 0
		if !bye && (clean || expired || delayed) {
			want = 1
		}
		if fired != want || p.present != (!clean && !expired) || p.present && p.next.Session != 1 {
			t.Fatalf("fired %d, want %d; %+v", fired, want, p)
		}
	})
}
