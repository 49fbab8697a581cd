package lease

import (
	"log/slog"
	"time"

	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
)

// What is written is kept until it is answered, and repeated, in order, on the next stream. None of it is refused: a
// client that could not write would have to drop what it has taken, or hold it itself. What keeps it within bounds:
//
//   - Most of what has to be written holds somebody up until it is durable. A message that is spilled, or left by a
//     connection that has ended, has its ticket open; its publisher waits for the receipt and stops at its Receive
//     Maximum, or the link that brought it at its bytes. A QoS 2 message is not sent on, in either direction, before
//     the write that precedes it is durable; SUBACK waits likewise.
//   - A change that nobody waits for (Done, Released, Sent) belongs to an entry that was written before.
//   - What does not hold: a receiver that acknowledges, but slowly, settles its tickets itself while the entries
//     pile up here. Those are written early only so that publishers need not wait for it. With the session service
//     away they gain nothing, nor do they with a full disk, so whoever writes them asks Room first and otherwise
//     leaves the message where it is, unwritten and with its ticket open.
const (
	// defaultRoom is 64 MiB.
	defaultRoom = 64 << 20
	// partBytes bounds the changes that go in one frame. It is far below the limit of a gRPC message, and short
	// enough that other clients' frames get in between.
	partBytes = 1 << 20
	// fullPause is how long nothing is written that need not be after the store had no room for an entry.
	fullPause = time.Second
	// changeBytes is what a change is charged beside its message and filter.
	changeBytes = 150
)

// writing is a Write that was asked for in one or more parts.
type writing struct {
	left    int // parts; guarded by Keeper.mu, as are the following two
	fenced  bool
	leftOut []journal.LeftOut
	since   time.Time
	done    func(leftOut []journal.LeftOut, err error)
}

// write is one part.
type write struct {
	journal.Write
	size  int
	whole *writing
}

func (w *write) wire(id uint64, now time.Time) *sessionv1.AttachRequest {
	return &sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Write{Write: journal.WriteToWire(w.Write, id, now)}}
}

type retain struct {
	message *message.Message
	done    func(version uint64, err error)
}

func (r *retain) wire(id uint64, now time.Time) *sessionv1.AttachRequest {
	return &sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Retain{
		Retain: &sessionv1.Retain{RequestId: id, Message: journal.MessageToWire(r.message, now)},
	}}
}

type settled struct {
	client string
	epoch  uint64
}

func (s settled) wire(uint64, time.Time) *sessionv1.AttachRequest {
	return &sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Settled{
		Settled: &sessionv1.Settled{ClientId: s.client, Epoch: s.epoch},
	}}
}

// Write makes changes of a durable session so, in the order of the calls, and before whatever is asked for the same
// client later. It has at least one change. It does not wait, and is never refused; see Room.
//
// done is called once, from the goroutine of Run, and must not block: with nil when all of w is durable, but for the
// entries in leftOut, which the inbox has already or has no room for; with
// ErrFenced when it is refused for good, because the session has ended or has a newer holder; with ErrUnavailable when
// the keeper ends first, and whether w is durable is not known. Those of one session are called in the order of the
// writes. Once Run has returned, nothing is written and done is not called.
//
// A large w is written in parts, the first changes first: with an error, or when the process ends before, its first
// changes may be durable without the others.
func (k *Keeper) Write(w journal.Write, done func(leftOut []journal.LeftOut, err error)) {
	whole := &writing{since: time.Now(), done: done}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ended {
		return
	}
	for rest := w.Changes; len(rest) > 0; {
		n, size := part(rest)
		w.Changes, rest = rest[:n:n], rest[n:]
		whole.left++
		k.backlog(1, size)
		k.ask(&write{Write: w, size: size, whole: whole})
	}
}

// part returns how many of the changes go in one frame, at least one, and their size.
func part(changes []journal.Change) (n, size int) {
	for i := range changes {
		one := changeBytes + len(changes[i].Filter)
		if m := changes[i].Entry.Message; m != nil {
			one += m.Size()
		}
		if i > 0 && size+one > partBytes {
			return i, size
		}
		size += one
	}
	return len(changes), size
}

// Retain stores m as the retained message of its topic, or, when its payload is empty, removes what is there; in the
// order of the calls. It does not wait. done is called like that of Write: with the version that the change has, with
// ErrQuota when the message was not stored because there are as many as there may be, or with ErrUnavailable.
func (k *Keeper) Retain(m *message.Message, done func(version uint64, err error)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ended {
		return
	}
	k.backlog(1, m.Size())
	k.ask(&retain{message: m, done: done})
}

// Settled says that the routes of all subscriptions of a client that was claimed at this epoch are in force at every
// peer. It is repeated until it is certain that the session service has read it.
func (k *Keeper) Settled(clientID string, epoch uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	what := settled{client: clientID, epoch: epoch}
	k.push(k.requests.tell(what), what)
}

// Backlog is the size in bytes of what was to be written or retained and is not answered.
func (k *Keeper) Backlog() int { return int(k.bytes.Load()) }

// Room says whether what need not be written yet may be: there is a stream, Backlog is within Config.Room, and the store
// has not just had no room for an entry.
func (k *Keeper) Room() bool {
	return k.attached.Load() && k.bytes.Load() < int64(k.config.Room) && time.Now().UnixNano() >= k.fullUntil.Load()
}

func (k *Keeper) backlog(n, size int) {
	k.waiting.Add(int64(n))
	k.bytes.Add(int64(size))
}

// written tells those whose writes were answered, without mu.
func (k *Keeper) written(w *sessionv1.Written) {
	var ended []*writing
	k.mu.Lock()
	for _, l := range w.GetLeftOut() {
		if !l.GetDuplicate() {
			k.fullUntil.Store(time.Now().Add(fullPause).UnixNano())
		}
		if part, ok := find[*write](&k.requests, l.GetRequestId()); ok {
			part.whole.leftOut = append(part.whole.leftOut, journal.LeftOut{Position: journal.Position(l.GetPosition()), Duplicate: l.GetDuplicate()})
		}
	}
	for _, id := range w.GetRequestIds() {
		ended = k.endWrite(ended, id, false)
	}
	for _, id := range w.GetFenced() {
		ended = k.endWrite(ended, id, true)
	}
	k.mu.Unlock()
	now := time.Now()
	for _, one := range ended {
		if one.fenced {
			k.metrics.fenced.Inc()
			one.done(nil, ErrFenced)
			continue
		}
		k.metrics.durable.Inc()
		k.metrics.writing.Observe(now.Sub(one.since).Seconds())
		one.done(one.leftOut, nil)
	}
}

// endWrite needs mu. It appends the writing whose last part this was.
func (k *Keeper) endWrite(ended []*writing, id uint64, fenced bool) []*writing {
	k.requests.heard(id)
	w, ok := find[*write](&k.requests, id)
	if !ok {
		return ended
	}
	k.backlog(-1, -w.size)
	k.answered(id)
	w.whole.fenced = w.whole.fenced || fenced
	if w.whole.left--; w.whole.left > 0 {
		return ended
	}
	return append(ended, w.whole)
}

func (k *Keeper) retained(a *sessionv1.Retained) {
	k.mu.Lock()
	k.requests.heard(a.GetRequestId())
	r, ok := find[*retain](&k.requests, a.GetRequestId())
	if ok {
		k.backlog(-1, -r.message.Size())
		k.answered(a.GetRequestId())
	}
	k.mu.Unlock()
	switch {
	case !ok:
	case a.GetQuotaExceeded():
		k.metrics.quota.Inc()
		r.done(0, ErrQuota)
	default:
		k.metrics.retained.Inc()
		r.done(a.GetVersion(), nil)
	}
}

// publish hands a message of the session service on.
func (k *Keeper) publish(s *stream, p *sessionv1.Publish) {
	answer := func(failed bool) {
		k.mu.Lock()
		defer k.mu.Unlock()
		// On another stream nobody knows the number, or it is somebody else's; there it is asked again.
		if k.stream == s {
			s.tell(published{id: p.GetRequestId(), failed: failed})
		}
	}
	m, err := journal.MessageFromWire(p.GetMessage(), time.Now())
	if err != nil {
		k.deps.Logger.Error("message of the session service cannot be read", slog.Any("error", err))
	}
	if err != nil || k.config.OnPublish == nil {
		answer(true)
		return
	}
	k.config.OnPublish(m, answer)
}

type published struct {
	id     uint64
	failed bool
}

func (p published) wire(uint64, time.Time) *sessionv1.AttachRequest {
	return &sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Published{
		Published: &sessionv1.Published{RequestId: p.id, Failed: p.failed},
	}}
}
