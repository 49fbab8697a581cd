package broker

import (
	"slices"
	"strings"
	"time"

	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/internal/turn"
)

// Wait is how far a reported message has to have come at a client before nothing more is waited for there.
type Wait byte

const (
	// UntilAccepted: it is known where the message goes.
	UntilAccepted Wait = iota
	// UntilDelivered: it is in the queue of the client's session, or kept for a client that is away.
	UntilDelivered
	// UntilAcknowledged: the client has acknowledged it, or it is stored for its durable session.
	UntilAcknowledged
)

// Terms say what a report waits for, and for how long.
type Terms struct {
	Wait   Wait
	Within time.Duration
	// Clients are those that the message is for, under a topic of a user, each once; nil: the topic says whom it is for.
	Clients []string
}

// Receipt is what became of a reported message at one client.
type Receipt struct {
	mesh.ClientReceipt

	// Holder is the incarnation that holds, or held, the client; empty when it was not found. Epoch is 0 then.
	Holder string
}

// Report is what became of a reported message.
type Report struct {
	// Code is what a client that had published the message would be told by now.
	Code packet.Code
	// Receipts has every client that is known to be a receiver, once. The slice is the caller's.
	Receipts []Receipt
	// Unanswered are the holders of which it is not known what became of the message at their clients.
	Unanswered []string
}

// report is a publication's, at the gateway where it enters the cluster. Its tally has the clients of this gateway.
type report struct {
	tally

	b        *Broker
	terms    Terms
	deadline time.Time
	tell     func(Report)

	// guarded by tally.mu
	receipts []Receipt
	// named are the clients that the message is sent to by name and whose receipts are to come.
	named map[string]addressee
	// asked counts the deliveries that holders have not answered; lost are those that will not.
	asked map[*mesh.Link]int
	lost  []string
	// resent says that a client may have got the message by two ways.
	resent bool
	// sent says that whoever matches has been found.
	sent bool
}

// addressee is where a client was found that the message is sent to by name; handed says that the message may have been
// handed to a connection that is gone.
type addressee struct {
	holder string
	epoch  uint64
	handed bool
}

// PublishFrom sends m to everybody it is for, as Publish does for a client. done is called once, possibly before
// it returns and possibly never, when the gateway ends; it must not block, nor call the broker.
func (b *Broker) PublishFrom(m *message.Message, done func(packet.Code), t *turn.Turn) {
	if m.QoS == message.AtMostOnce {
		b.send(nil, m, nil, t)
		done(packet.Success)
		return
	}
	p := &publication{b: b, m: m}
	p.Begin(nil, 0, m.QoS, m.Size(), t.Now)
	p.Tell(done)
	b.send(nil, m, p, t)
}

// PublishReported is PublishFrom, and tells what became of the message at each receiver, at the end of the terms' time at
// the latest. Members of shared subscriptions are reported at QoS 1 and 2 only. What is not settled by then goes on.
func (b *Broker) PublishReported(m *message.Message, terms Terms, tell func(Report), t *turn.Turn) {
	p := &publication{b: b, m: m}
	p.Begin(nil, 0, m.QoS, m.Size(), t.Now)
	r := &report{b: b, terms: terms, deadline: t.Now.Add(terms.Within), tell: tell}
	r.acked = terms.Wait == UntilAcknowledged
	p.report, p.clients = r, terms.Clients
	p.Tell(r.finish)
	b.send(nil, m, p, t)
	if terms.Wait == UntilAccepted {
		r.mu.Lock()
		r.sent = true
		r.mu.Unlock()
		r.accepted()
	}
	r.arm(terms.Within, func() { r.finish(packet.UnspecifiedError) })
}

// within is how long other holders may take for their receipts: they are to be here before the time is over.
func (r *report) within(now time.Time) uint32 {
	left := r.deadline.Sub(now)
	left -= min(left/10, 250*time.Millisecond)
	return uint32(max(left/time.Millisecond, 1))
}

// reportOn has the holder of d report on it, if p is reported.
func (p *publication) reportOn(l *mesh.Link, d *mesh.Delivery, now time.Time) {
	r := p.report
	if r == nil || r.terms.Wait == UntilAccepted {
		return
	}
	d.ReportWithinMs, d.UntilAcked = r.within(now), r.acked
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.asked == nil {
		r.asked = make(map[*mesh.Link]int)
	}
	r.asked[l]++
}

// await says that a client is sent the message by name.
func (r *report) await(id string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.named == nil {
		r.named = make(map[string]addressee)
	}
	if _, known := r.named[id]; !known {
		r.named[id] = addressee{}
	}
}

// again says that a client is sent the message once more.
func (r *report) again(id string) {
	if r == nil {
		return
	}
	r.await(id)
	r.mu.Lock()
	r.resent = true
	r.mu.Unlock()
}

// unwanted says that a client that is sent the message by name is no receiver of it.
func (r *report) unwanted(id string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	delete(r.named, id)
	r.mu.Unlock()
	r.accepted()
}

// here is what has the tickets of a reported message's deliveries on this gateway, nil when it is not reported.
func (p *publication) here() *tally {
	if p.report == nil {
		return nil
	}
	return &p.report.tally
}

// hand has the ticket x tell what becomes of the message at a client that is waited for by name; take back undoes it.
func (r *report) hand(x *reported) (takeBack func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	former := r.named[x.c.ID]
	delete(r.named, x.c.ID)
	r.waiting = append(r.waiting, x)
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		x.settled = true
		if r.named != nil {
			r.named[x.c.ID] = former
		}
	}
}

// sentTo says that the message for a client is on its way to where it was found.
func (r *report) sentTo(id, holder string, epoch uint64) {
	switch {
	case r == nil:
	case r.terms.Wait == UntilAccepted:
		r.note(id, mesh.ClientAccepted, holder, epoch)
	default:
		r.mu.Lock()
		defer r.mu.Unlock()
		if at, awaited := r.named[id]; awaited {
			r.named[id] = addressee{holder, epoch, at.handed}
		}
	}
}

// lostFor says that a client does not get the message, or nobody knows, with the code that the publisher is told.
func (r *report) lostFor(id string, code packet.Code) {
	if r == nil {
		return
	}
	o := mesh.ClientTimedOut
	switch code {
	case packet.QuotaExceeded:
		o = mesh.ClientNoRoom
	case packet.Success:
		o = mesh.ClientExpired
	case packet.NoMatchingSubscribers:
		o = mesh.ClientUnknown
	}
	r.note(id, o, "", 0)
}

// absent says that nobody holds a client, nor a session of it.
func (r *report) absent(id string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	o := mesh.ClientUnknown
	if r.named[id].handed {
		o = mesh.ClientEnded
	}
	r.mu.Unlock()
	r.note(id, o, "", 0)
}

// note is the receipt of a client that is waited for by name.
func (r *report) note(id string, o mesh.ClientOutcome, holder string, epoch uint64) {
	r.mu.Lock()
	if _, awaited := r.named[id]; awaited && !r.closed {
		delete(r.named, id)
		r.receipts = append(r.receipts, receiptOf(mesh.ClientReceipt{ClientID: id, Outcome: o, Epoch: epoch}, holder))
	}
	r.mu.Unlock()
	r.accepted()
}

func receiptOf(c mesh.ClientReceipt, holder string) Receipt {
	return Receipt{ClientReceipt: c, Holder: holder}
}

// answered takes the receipt of another holder.
func (r *report) answered(l *mesh.Link, d *mesh.Delivery, x *mesh.Receipt) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.notAsked(l)
	holder := l.Peer().ID
	for _, c := range x.Clients {
		r.receipts = append(r.receipts, receiptOf(c, holder))
	}
	if d.Target.Kind != mesh.TargetClient {
		if len(x.Clients) == 0 && (x.Outcome == mesh.Gone || x.Outcome == mesh.Overloaded || x.Outcome == mesh.Refused) {
			r.lost = append(r.lost, holder)
		}
		return
	}
	id := d.Target.ClientID
	switch x.Outcome {
	case mesh.Moved, mesh.NotHolder:
		return // it is sent after the client
	case mesh.Gone:
		r.named[id] = addressee{handed: true}
		return
	}
	delete(r.named, id)
	if o := clientOutcomeOf(x.Outcome); len(x.Clients) == 0 && (o > mesh.ClientStored || topic.IsAddressed(d.Message.Topic)) {
		// The holder does not know of reports. Where the message is not addressed to the client, it may not want it.
		r.receipts = append(r.receipts, receiptOf(mesh.ClientReceipt{ClientID: id, Outcome: o, Epoch: d.Target.Epoch}, holder))
	}
}

// clientOutcomeOf is what the receipt of a delivery to one client says of it.
func clientOutcomeOf(o mesh.Outcome) mesh.ClientOutcome {
	switch o {
	case mesh.Acked:
		return mesh.ClientAcked
	case mesh.Stored:
		return mesh.ClientStored
	case mesh.Queued:
		return mesh.ClientQueued
	case mesh.Overloaded:
		return mesh.ClientNoRoom
	case mesh.Refused:
		return mesh.ClientTooLarge
	}
	return mesh.ClientTimedOut
}

// notAsked undoes what reportOn has counted. With mu held.
func (r *report) notAsked(l *mesh.Link) {
	if r.asked[l]--; r.asked[l] <= 0 {
		delete(r.asked, l)
	}
}

// unasked says that a delivery could not be sent to a holder. lost: nobody else reports on its clients.
func (r *report) unasked(l *mesh.Link, lost bool) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.notAsked(l)
	if lost {
		r.lost = append(r.lost, l.Peer().ID)
	}
}

// accepted ends a report that waits for no more than that it is known where the message goes.
func (r *report) accepted() {
	if r.terms.Wait != UntilAccepted {
		return
	}
	r.mu.Lock()
	found := r.sent && len(r.named) == 0
	r.mu.Unlock()
	if found {
		r.finish(packet.Success)
	}
}

// finish tells what is known, once.
func (r *report) finish(code packet.Code) {
	unsettled := mesh.ClientTimedOut
	if r.terms.Wait == UntilAccepted {
		unsettled = mesh.ClientAccepted
	}
	here, first := r.close(unsettled)
	if !first {
		return
	}
	// Nobody else changes what is guarded from here on: the tally is closed.
	r.mu.Lock()
	out := Report{Code: code, Receipts: r.receipts, Unanswered: r.lost}
	for id, at := range r.named {
		c := mesh.ClientReceipt{ClientID: id, Outcome: mesh.ClientTimedOut, Epoch: at.epoch}
		out.Receipts = append(out.Receipts, receiptOf(c, at.holder))
	}
	for l := range r.asked {
		out.Unanswered = append(out.Unanswered, l.Peer().ID)
	}
	resent := r.resent
	r.receipts, r.named, r.asked = nil, nil, nil
	r.mu.Unlock()
	out.Receipts = slices.Grow(out.Receipts, len(here))
	for _, c := range here {
		out.Receipts = append(out.Receipts, receiptOf(c, r.b.cfg.Incarnation))
	}
	if resent {
		out.Receipts = strongest(out.Receipts)
	}
	slices.Sort(out.Unanswered)
	out.Unanswered = slices.Compact(out.Unanswered)
	r.tell(out)
}

// strength orders the outcomes: of two that a client has, because the message came to it by two ways, the stronger holds.
func strength(o mesh.ClientOutcome) int {
	switch o {
	case mesh.ClientAcked:
		return 5
	case mesh.ClientStored:
		return 4
	case mesh.ClientQueued:
		return 3
	case mesh.ClientTimedOut, mesh.ClientAccepted:
		return 2
	case mesh.ClientUnknown, mesh.ClientEnded:
		return 0
	}
	return 1
}

// strongest keeps one receipt for each client.
func strongest(all []Receipt) []Receipt {
	slices.SortFunc(all, func(a, b Receipt) int {
		if c := strings.Compare(a.ClientID, b.ClientID); c != 0 {
			return c
		}
		return strength(b.Outcome) - strength(a.Outcome)
	})
	return slices.CompactFunc(all, func(a, b Receipt) bool { return a.ClientID == b.ClientID })
}
