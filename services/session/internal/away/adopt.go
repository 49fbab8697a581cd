package away

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
)

const (
	// ownPrefix marks session instances among the incarnations that are still to be adopted.
	ownPrefix = "session/"
	// live stands for the way by which messages come that are no orphans.
	live = ""
	// page is how many sessions are taken over at once.
	page = 500
	// maxIDs bounds the message ids that an adoption remembers.
	maxIDs = 200_000
	// orphansAtMost is how long orphans are taken of a peer that does not answer.
	orphansAtMost = time.Minute
)

// adoption is one taking over of the sessions of holders that have died. The Keeper's mu guards it, once it has begun.
type adoption struct {
	// incarnations have died: session instances, with ownPrefix, come first.
	incarnations []string
	// sessions are or were held by them; those that are locked wait for the end.
	sessions []*session
	locked   []*session
	// answers counts those of a peer, answered are the peers that have answered for all incarnations.
	answers  map[string]int
	answered map[string]bool
	// index has what the sessions of an incarnation subscribe to, wherever they are now.
	index map[string]*subscriptions.Index[*session]
	// had says by which way the sessions have been given a message.
	had map[message.ID][]string
}

func newAdoption(incarnations []string, sessions []*session) *adoption {
	a := &adoption{
		incarnations: incarnations, sessions: sessions, answers: map[string]int{}, answered: map[string]bool{},
		index: map[string]*subscriptions.Index[*session]{}, had: map[message.ID][]string{},
	}
	return a
}

// gave says whether s has been given a message, by whichever way.
func (a *adoption) gave(s *session, id message.ID) bool {
	for _, way := range a.had[id] {
		if way == live || slices.Contains(s.from, way) {
			return true
		}
	}
	return false
}

// note remembers the way by which the sessions have been given a message.
func (a *adoption) note(id message.ID, way string) {
	ways, known := a.had[id]
	if !known && len(a.had) >= maxIDs || slices.Contains(ways, way) {
		return
	}
	a.had[id] = append(ways, way)
}

// formers is what has to be adopted at the start: absent sessions were the former active instances', and some of them
// a gateway's before, whose adoption was not brought to its end.
func formers(absent []*session, unadopted []string) *adoption {
	var incarnations, gateways []string
	for _, id := range unadopted {
		if strings.HasPrefix(id, ownPrefix) {
			incarnations = append(incarnations, id)
		} else {
			gateways = append(gateways, id)
		}
	}
	own := incarnations[:len(incarnations):len(incarnations)]
	for _, s := range absent {
		s.from = own
		if slices.Contains(gateways, s.rec.Former) {
			s.from = append(s.from, s.rec.Former)
		}
	}
	return newAdoption(append(incarnations, gateways...), absent)
}

// dead: whoever was recorded at an epoch was alive then. With mu held.
func (k *Keeper) dead(gateway string, epoch uint64) bool {
	return k.view.known && !k.view.alive[gateway] && epoch <= k.view.epoch
}

// View is the list of living gateways, complete up to an epoch. The sessions of those that have died are adopted; what
// comes of claims for them waits for that in Open. It has to be called before claims hears of the view.
func (k *Keeper) View(gateways []string, epoch uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	first, before := !k.view.known, k.view.alive
	k.view = view{known: true, epoch: epoch, alive: make(map[string]bool, len(gateways))}
	for _, g := range gateways {
		k.view.alive[g] = true
	}
	k.note(gateways)
	dead := map[string][]*session{}
	for h := range before {
		// Also one that holds nobody any more: the peers keep its routes, and what matches them, until it is adopted.
		if !k.view.alive[h] && len(k.orphans[h]) == 0 {
			dead[h] = k.left.take(h, now())
		}
	}
	for h, held := range k.holders {
		if k.view.alive[h] || len(k.orphans[h]) > 0 {
			continue
		}
		for s := range held {
			if k.dead(h, s.rec.Epoch) {
				s.from = nil
				dead[h] = append(dead[h], s)
			}
		}
	}
	for h, sessions := range dead {
		for _, s := range sessions {
			if !slices.Contains(s.from, h) {
				s.from = append(slices.Clone(s.from), h)
			}
		}
	}
	a := k.boot
	k.boot = nil
	if first {
		// Of those that were noted some live.
		a.incarnations = slices.DeleteFunc(a.incarnations, func(h string) bool { return k.view.alive[h] })
	}
	for h, sessions := range dead {
		switch {
		case !first:
			k.begin(newAdoption([]string{h}, sessions))
		default:
			a.sessions = append(a.sessions, sessions...)
			if !slices.Contains(a.incarnations, h) {
				a.incarnations = append(a.incarnations, h)
			}
		}
	}
	if first {
		k.begin(a)
	}
}

// note has the store remember gateways, so that a successor of this instance has those adopted that died meanwhile, even
// if they held nobody when they did. With mu held.
func (k *Keeper) note(gateways []string) {
	for _, g := range gateways {
		if k.noted[g] {
			continue
		}
		k.noted[g] = true
		k.pump.push(func() {
			k.deps.Store.AddUnadopted(g, func(err error) { _ = k.check("note gateway", err) })
		})
	}
}

// begin has Run adopt. With mu held.
func (k *Keeper) begin(a *adoption) {
	for _, h := range a.incarnations {
		a.index[h] = subscriptions.New[*session]()
		k.orphans[strings.TrimPrefix(h, ownPrefix)] = append(k.orphans[strings.TrimPrefix(h, ownPrefix)], a)
	}
	k.starting = append(k.starting, a)
	signal(k.begun)
}

// adopt takes sessions over, from the first to the last step.
func (k *Keeper) adopt(ctx context.Context, a *adoption) {
	began := time.Now()
	k.remember(ctx, a)
	var subs []taken
	for sessions := range slices.Chunk(a.sessions, page) {
		subs = append(subs, k.takeOver(ctx, a, sessions)...)
	}
	if ctx.Err() != nil {
		return
	}
	k.mu.Lock()
	k.adopting = append(k.adopting, a)
	k.mu.Unlock()
	for sessions := range slices.Chunk(subs, page) {
		k.show(a, sessions)
	}
	answered := k.ask(a)
	if !wait(ctx, answered, k.cfg.AdoptTimeout) {
		k.metrics.unordered.Inc()
	}
	k.finish(a)
	k.metrics.adoptions.Inc()
	k.metrics.adopted.Add(float64(len(a.locked)))
	k.deps.Logger.InfoContext(ctx, "adopted sessions", slog.Int("sessions", len(a.locked)), slog.Any("of", a.incarnations),
		slog.Duration("took", time.Since(began)))
	wait(ctx, answered, orphansAtMost)
	wait(ctx, nil, k.cfg.Late)
	k.over(ctx, a)
}

// wait returns when done is closed, or after a while, or when the context is done; false after a while.
func wait(ctx context.Context, done <-chan struct{}, most time.Duration) bool {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-done:
	case <-timer.C:
		return false
	}
	return true
}
