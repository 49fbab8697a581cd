package client

import (
	"errors"
	"strings"
	"sync/atomic"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/internal/turn"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/rules"
)

// subscribing are filters of one SUBSCRIBE, or of one that somebody makes for the client, on their way into the cluster.
// The answer is given when the last is there, or has been refused.
type subscribing struct {
	c       *Client
	answer  func(codes []packet.Code) // on whatever goroutine brought the last acknowledgement
	codes   []packet.Code
	waiting atomic.Int32
	// retained are the filters whose retained messages follow the answer.
	retained []retainedRead
}

// record makes changes of the subscriptions durable. done is not called when the session is not ours any more.
func (c *Client) record(changes []journal.Change, done func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deps.Journal.Write(c.writing(changes...), func(_ []journal.LeftOut, err error) {
		if err != nil {
			c.fenced()
			return
		}
		done()
	})
}

func (c *Client) onSubscribe(s packet.Subscribe) error {
	if len(s.Filters) > c.limits.FiltersPerPacket {
		return &packet.Error{Code: packet.QuotaExceeded, Detail: "too many filters in one SUBSCRIBE"}
	}
	c.mu.Lock()
	c.awaited++
	c.mu.Unlock()
	r := c.subscribing(s.Filters, func(codes []packet.Code) { c.suback(s.PacketID, codes) })
	if err := r.begin(s.Filters); err != nil {
		return err
	}
	r.finish()
	c.waitForRoom()
	return nil
}

// suback answers a SUBSCRIBE of the client's own.
func (c *Client) suback(id uint16, codes []packet.Code) {
	c.mu.Lock()
	c.awaited--
	c.wakeReader()
	c.mu.Unlock()
	var t turn.Turn
	c.send(&t, func(dst []byte) []byte { return packet.AppendSuback(dst, c.Version, id, codes) })
	t.End()
}

// subscribing waits for filters, and for finish.
func (c *Client) subscribing(filters []packet.Filter, answer func([]packet.Code)) *subscribing {
	r := &subscribing{c: c, answer: answer, codes: make([]packet.Code, len(filters))}
	r.waiting.Store(int32(len(filters)) + 1)
	return r
}

// begin has the broker and the journal told of filters; an error is a protocol error.
func (r *subscribing) begin(filters []packet.Filter) error {
	r.c.changing.Lock()
	defer r.c.changing.Unlock()
	return r.beginLocked(filters)
}

// beginLocked is begin with c.changing held.
func (r *subscribing) beginLocked(filters []packet.Filter) error {
	c := r.c
	var admitted []admission
	var changes []journal.Change
	for i, f := range filters {
		code, number, isNew, err := c.admit(f.Filter, f.Options)
		if err != nil {
			return err
		}
		if code.Failure() {
			r.done(i, code)
			continue
		}
		r.retained = c.wantsRetained(r.retained, f.Filter, f.Options, isNew)
		admitted = append(admitted, admission{at: i, filter: f.Filter, options: f.Options, code: code, number: number})
		changes = append(changes, journal.Change{Kind: journal.Subscribed, Filter: f.Filter, Options: f.Options})
	}
	if c.durable != nil && len(changes) > 0 {
		// Before anything of it can be withdrawn.
		r.waiting.Add(1)
		c.record(changes, r.finish)
	}
	for _, a := range admitted {
		r.subscribe(a)
	}
	return nil
}

// admission is a filter of a SUBSCRIBE that may be subscribed to.
type admission struct {
	at      int
	filter  string
	options subscriptions.Options
	code    packet.Code
	number  uint64
}

func (r *subscribing) subscribe(a admission) {
	r.c.deps.Broker.Subscribe(r.c, a.filter, a.options, func(err error) (withdraw bool) {
		code := a.code
		if err != nil {
			withdraw = r.c.forget(a.filter, a.number)
			code = packet.UnspecifiedError
			if errors.Is(err, ErrTooManyMembers) {
				code = packet.QuotaExceeded
			}
		}
		r.done(a.at, code)
		return withdraw
	})
}

// admit decides on one filter: the granted QoS as its code, or why not; number tells this request for it from later
// ones; isNew says that the client did not have it. An error is a protocol error.
func (c *Client) admit(filter string, o subscriptions.Options) (code packet.Code, number uint64, isNew bool, err error) {
	shared, isShared, err := topic.ParseShared(filter)
	if isShared && o.NoLocal {
		// MQTT-3.8.3-4.
		return 0, 0, false, &packet.Error{Code: packet.ProtocolError, Detail: "No Local on a shared subscription"}
	}
	plain := filter
	if isShared {
		plain = shared.Filter
		if err == nil {
			err = shared.Validate(c.limits.Topic())
		}
	} else if err == nil {
		err = topic.ValidateFilter(plain, c.limits.Topic())
	}
	if err != nil {
		return packet.TopicFilterInvalid, 0, false, nil
	}
	if strings.Count(plain, "+") > c.limits.FilterWildcards {
		return packet.QuotaExceeded, 0, false, nil
	}
	if !c.deps.Authorize(c.Identity, rules.Request{Action: rules.Subscribe, Topic: plain, QoS: o.QoS}) {
		return packet.NotAuthorized, 0, false, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, has := c.filters[filter]
	if !has && len(c.filters) >= c.limits.Subscriptions {
		return packet.QuotaExceeded, 0, false, nil
	}
	if c.filters == nil {
		c.filters = make(map[string]uint64, 1)
	}
	c.asked++
	c.filters[filter] = c.asked
	return packet.Code(o.QoS), c.asked, !has, nil
}

// maySubscribe reports whether a filter of the session, which was valid when it came, may be subscribed to now.
func (c *Client) maySubscribe(filter string, qos byte) bool {
	if s, is, err := topic.ParseShared(filter); is && err == nil {
		filter = s.Filter
	}
	return c.deps.Authorize(c.Identity, rules.Request{Action: rules.Subscribe, Topic: filter, QoS: qos})
}

// forget drops a filter, unless it has been asked for again since, and reports whether it has dropped it. What the
// connection has left behind it is not changed any more: the session goes on with all of it, or has ended.
func (c *Client) forget(filter string, number uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == ended || c.filters[filter] != number {
		return false
	}
	delete(c.filters, filter)
	if c.durable != nil {
		c.deps.Journal.Write(c.writing(journal.Change{Kind: journal.Unsubscribed, Filter: filter}),
			func([]journal.LeftOut, error) {})
	}
	return true
}

func (r *subscribing) done(i int, code packet.Code) {
	r.codes[i] = code
	r.finish()
}

func (r *subscribing) finish() {
	if r.waiting.Add(-1) > 0 {
		return
	}
	r.answer(r.codes)
	r.c.readRetained(r.retained)
}

func (c *Client) onUnsubscribe(u packet.Unsubscribe) error {
	if len(u.Filters) > c.limits.FiltersPerPacket {
		return &packet.Error{Code: packet.QuotaExceeded, Detail: "too many filters in one UNSUBSCRIBE"}
	}
	var codes []packet.Code
	unsuback := func(t *turn.Turn) {
		c.send(t, func(dst []byte) []byte {
			return packet.AppendUnsuback(dst, c.Version, u.PacketID, codes)
		})
	}
	c.changing.Lock()
	defer c.changing.Unlock()
	var changes []journal.Change
	codes, changes = c.unsubscribe(u.Filters)
	if c.durable == nil || len(changes) == 0 {
		unsuback(&c.turn)
		return nil
	}
	c.record(changes, func() {
		var t turn.Turn
		unsuback(&t)
		t.End()
	})
	return nil
}

// unsubscribe drops filters, and returns what UNSUBACK says about each, and what a durable session has to record. With
// c.changing held.
func (c *Client) unsubscribe(filters []string) (codes []packet.Code, changes []journal.Change) {
	codes = make([]packet.Code, len(filters))
	for i, f := range filters {
		c.mu.Lock()
		_, has := c.filters[f]
		if _, kept := c.managed[f]; kept {
			has = false // it has not subscribed
		} else {
			delete(c.filters, f)
		}
		c.mu.Unlock()
		if !has {
			codes[i] = packet.NoSubscriptionExisted
			continue
		}
		c.deps.Broker.Unsubscribe(c, f)
		changes = append(changes, journal.Change{Kind: journal.Unsubscribed, Filter: f})
	}
	return codes, changes
}
