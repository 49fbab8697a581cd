package lease

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/journal"
)

const (
	perRound = 40 // writes of a client under one epoch
	lastOnes = 3  // of its epochs
)

// ledger is a session service that carries out what comes, in order, loses streams at random with the answers that are
// still to be given, and sees whether everything comes in order.
type ledger struct {
	t    *testing.T
	rand *rand.Rand
	// applied is the last position of each client; ended its last released epoch.
	applied, ended map[string]uint64
	streams        int
}

// serve answers what comes on p until it cuts it or the other side ends it.
func (l *ledger) serve(p *peer, most int) {
	l.streams++
	// What this stream has brought of each client: behind the first write, one follows the other.
	here := map[string]uint64{}
	var durable, refused []uint64
	answer := func() {
		if len(durable)+len(refused) > 0 {
			p.send(&sessionv1.AttachResponse{Frame: &sessionv1.AttachResponse_Written{
				Written: &sessionv1.Written{RequestIds: durable, Fenced: refused},
			}})
			durable, refused = nil, nil
		}
	}
	for range most {
		r, ok := <-p.in
		if !ok {
			return
		}
		switch f := r.GetFrame().(type) {
		case *sessionv1.AttachRequest_Write:
			if l.write(f.Write, here) {
				durable = append(durable, f.Write.GetRequestId())
			} else {
				refused = append(refused, f.Write.GetRequestId())
			}
			if len(p.in) == 0 || l.rand.IntN(4) == 0 {
				answer()
			}
		case *sessionv1.AttachRequest_Release:
			id, epoch := f.Release.GetClientId(), f.Release.GetEpoch()
			if want := epoch * perRound; l.applied[id] < want {
				l.t.Errorf("%s is released at %d with %d of %d writes", id, epoch, l.applied[id], want)
			}
			l.ended[id] = max(l.ended[id], epoch)
			answer()
			p.released(f.Release.GetRequestId())
		case *sessionv1.AttachRequest_Retain:
			p.retained(f.Retain.GetRequestId(), 1, false)
		}
	}
	// Something that has been carried out is not answered.
	p.cut()
	for range p.in {
		continue
	}
}

// write carries w out and says whether it has: not what comes after the release.
func (l *ledger) write(w *sessionv1.Write, here map[string]uint64) bool {
	id, at := w.GetClientId(), w.GetChanges()[0].GetDone()
	if before := here[id]; before > 0 && at != before+1 {
		l.t.Errorf("%s: position %d comes behind %d", id, at, before)
	}
	here[id] = at
	if at > l.applied[id]+1 {
		l.t.Errorf("%s: position %d comes when %d is the last that was carried out", id, at, l.applied[id])
	}
	l.applied[id] = max(l.applied[id], at)
	return w.GetEpoch() > l.ended[id]
}

func TestWhateverBreaksEachWriteIsCarriedOutInOrderAndAnsweredOnce(t *testing.T) {
	s := newStage(t, nil)
	v := s.become()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	l := &ledger{t: t, rand: rand.New(rand.NewPCG(seed, 0)), applied: map[string]uint64{}, ended: map[string]uint64{}}
	over := make(chan struct{})
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			select {
			case p := <-v.attached:
				select {
				case <-over:
					l.serve(p, 1<<30)
				default:
					l.serve(p, 1+l.rand.IntN(150))
				}
			case <-over:
				return
			}
		}
	}()

	const clients = 8
	var answered atomic.Int64
	var wg sync.WaitGroup
	for n := range clients {
		id := fmt.Sprintf("client-%d", n)
		wg.Go(func() {
			var last atomic.Uint64
			for epoch := uint64(1); epoch <= lastOnes; epoch++ {
				var open sync.WaitGroup
				for i := range uint64(perRound) {
					at := (epoch-1)*perRound + i + 1
					var once atomic.Bool
					open.Add(1)
					s.keeper.Write(journal.Write{
						Client: id, Session: 1, Epoch: epoch, Changes: []journal.Change{{Kind: journal.Done, Position: journal.Position(at)}},
					}, func(_ []journal.LeftOut, err error) {
						if once.Swap(true) {
							t.Errorf("%s: position %d is answered twice", id, at)
							return
						}
						defer open.Done()
						answered.Add(1)
						if before := last.Swap(at); before != at-1 {
							t.Errorf("%s: position %d is answered behind %d", id, at, before)
						}
						// Carried out and released, but the answers were lost: it may come once more.
						if err != nil && !errors.Is(err, ErrFenced) {
							t.Errorf("%s: position %d: %v", id, at, err)
						}
					})
					if i%10 == 0 {
						s.keeper.Retain(sized(1), func(uint64, error) {})
					}
				}
				s.keeper.Release(id, epoch, Ending{})
				open.Wait()
			}
		})
	}
	wg.Wait()
	if got := answered.Load(); got != clients*perRound*lastOnes {
		t.Errorf("%d answers, want %d", got, clients*perRound*lastOnes)
	}
	s.stop()
	close(over)
	<-served
	if l.streams < 3 {
		t.Errorf("only %d streams", l.streams)
	}
}
