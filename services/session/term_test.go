package session

import (
	"context"
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/services/session/internal/groups"
)

// A view is behind at times. A gateway that joined and died between two views is in neither.
func TestAViewEndsTheStreamsOfThoseThatHaveDied(t *testing.T) {
	tests := []struct {
		name    string
		aliveAt int64 // when it attached
		views   []cluster.View
		ended   bool
	}{
		{"it lives", 5, []cluster.View{view(6, "g")}, false},
		{"the view is from before it was born", 5, []cluster.View{view(4)}, false},
		{"the view is from before, the next one has it", 5, []cluster.View{view(4), view(6, "g")}, false},
		{"it was in the view and is not any more", 5, []cluster.View{view(6, "g"), view(7)}, true},
		{"no view ever had it", 5, []cluster.View{view(4), view(7)}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tm := newTestTerm(t)
			ctx, cancel := context.WithCancelCause(t.Context())
			st := &stream{term: tm, gateway: "g", number: 1, aliveAt: tt.aliveAt, cancel: cancel}
			tm.setView(view(3), func(*term) {})
			<-tm.sweep // the first view asks for one
			if err := tm.attach(st); err != nil {
				t.Fatal(err)
			}
			for _, v := range tt.views {
				tm.setView(v, func(*term) {})
			}
			if got := len(tm.sweep) == 1; got != tt.ended {
				t.Errorf("its records are to be swept: %v, want %v", got, tt.ended)
			}
			if got := errors.Is(context.Cause(ctx), errDead); got != tt.ended {
				t.Errorf("ended: %v, want %v", got, tt.ended)
			}
		})
	}
}

func TestAGatewayThatHasDiedSinceItWasLookedUpIsRefused(t *testing.T) {
	tm := newTestTerm(t)
	tm.setView(view(7), func(*term) {})
	if err := tm.attach(&stream{term: tm, gateway: "g", aliveAt: 5}); !errors.Is(err, errDead) {
		t.Errorf("attached with %v", err)
	}
	if err := tm.attach(&stream{term: tm, gateway: "g", aliveAt: 8}); err != nil {
		t.Errorf("one that is younger than the view is refused: %v", err)
	}
}

func view(revision int64, ids ...string) cluster.View {
	v := cluster.View{Revision: revision}
	for _, id := range ids {
		v.Members = append(v.Members, cluster.Member{ID: id})
	}
	return v
}

// newTestTerm makes a term that nothing runs in.
func newTestTerm(t *testing.T) *term {
	t.Helper()
	m, err := newMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return &term{
		session: &Session{config: DefaultConfig(), metrics: m, outbox: outboxFrames},
		sweep:   make(chan struct{}, 1), wake: make(chan struct{}, 1), bury: make(chan struct{}, 1),
		presence: newBoard("instance", 1000, m.presence), recovered: make(chan struct{}), streams: map[string]*stream{},
		userNames: groups.NewUsers(), over: make(chan struct{}),
	}
}
