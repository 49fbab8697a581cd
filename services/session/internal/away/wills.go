package away

import (
	"errors"
	"strconv"
	"sync"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// publishing bounds the wills that are given to gateways at once.
const publishing = 64

// willOrigin begins the origin of a will's message id: the client id follows, and the sequence is the epoch of the
// connection. So it is the same whoever publishes it, and however often.
const willOrigin = "will/"

// wills are those that are to be published, come what may. Each has a record of its own in the store, so that the
// client can come back and leave another will meanwhile; a successor finds them there.
type wills struct {
	k *Keeper

	mu       sync.Mutex
	waiting  []dueWill
	underWay int
}

type dueWill struct {
	client string
	r      store.Record
}

// fire makes the will of a client's connection at an epoch due, and then does what follows, as work.
func (k *Keeper) fire(client string, epoch uint64, will *journal.Will, then func(error)) {
	due := store.Record{Client: client + dueKey + strconv.FormatUint(epoch, 10), Epoch: epoch, Will: will, WillDue: true}
	k.pump.push(func() {
		k.deps.Store.Put(0, due, func(err error) {
			if errors.Is(err, store.ErrConflict) {
				// It was due before this instance was the active one.
				err = nil
			}
			k.work.push(func() {
				if err = k.check("store will", err); err == nil {
					k.wills.due(client, due)
					k.wills.begin()
				}
				then(err)
			})
		})
	})
}

// due adds a will.
func (w *wills) due(client string, r store.Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting = append(w.waiting, dueWill{client, r})
}

// begin has as many published as may be.
func (w *wills) begin() {
	w.mu.Lock()
	n := min(publishing-w.underWay, len(w.waiting))
	now := w.waiting[:n:n]
	w.waiting = w.waiting[n:]
	w.underWay += n
	w.mu.Unlock()
	for _, d := range now {
		w.k.work.push(func() { w.publish(d) })
	}
}

func (w *wills) publish(d dueWill) {
	m := *d.r.Will.Message
	m.ID = message.ID{Origin: willOrigin + d.client, Seq: d.r.Epoch}
	if d.r.Will.HasExpiry {
		m.Expires = now().Add(d.r.Will.Expiry)
	}
	w.k.deps.Publish(&m, func(failed bool) {
		w.k.work.push(func() { w.published(d, failed) })
	})
}

func (w *wills) published(d dueWill, failed bool) {
	w.mu.Lock()
	w.underWay--
	if failed {
		w.waiting = append(w.waiting, d)
	}
	w.mu.Unlock()
	if failed {
		// Another gateway may do better, in a while.
		w.k.metrics.wills.WithLabelValues("failed").Inc()
		w.k.mu.Lock()
		w.k.after(w.k.cfg.PublishRetry, nil, nil)
		w.k.mu.Unlock()
		return
	}
	w.k.metrics.wills.WithLabelValues("published").Inc()
	w.k.pump.push(func() {
		w.k.deps.Store.Delete(d.r.Client, d.r.Epoch, func(err error) {
			_ = w.k.check("remove will", err)
		})
	})
	w.begin()
}
