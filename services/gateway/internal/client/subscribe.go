package client

import (
	"errors"
	"sync/atomic"

	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/internal/turn"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/auth"
)

// subscribing is one SUBSCRIBE whose filters are on their way into the cluster. SUBACK goes out when the last
// is there, or has been refused.
type subscribing struct {
	c       *Client
	id      uint16
	codes   []packet.Code
	waiting atomic.Int32
}

func (c *Client) onSubscribe(s packet.Subscribe) error {
	if len(s.Filters) > c.limits.FiltersPerPacket {
		return &packet.Error{Code: packet.QuotaExceeded, Detail: "too many filters in one SUBSCRIBE"}
	}
	r := &subscribing{c: c, id: s.PacketID, codes: make([]packet.Code, len(s.Filters))}
	r.waiting.Store(int32(len(s.Filters)) + 1)
	for i, f := range s.Filters {
		code, err := c.admit(f.Filter, f.Options)
		if err != nil {
			return err
		}
		if code.Failure() {
			r.done(i, code)
			continue
		}
		c.deps.Broker.Subscribe(c, f.Filter, f.Options, func(err error) {
			if err != nil {
				c.forget(f.Filter)
				code = packet.UnspecifiedError
				if errors.Is(err, ErrTooManyMembers) {
					code = packet.QuotaExceeded
				}
			}
			r.done(i, code)
		})
	}
	r.finish()
	return nil
}

// admit decides on one filter: the granted QoS as its code, or why not. An error is a protocol error.
func (c *Client) admit(filter string, o subscriptions.Options) (packet.Code, error) {
	shared, isShared, err := topic.ParseShared(filter)
	if isShared && o.NoLocal {
		// MQTT-3.8.3-4.
		return 0, &packet.Error{Code: packet.ProtocolError, Detail: "No Local on a shared subscription"}
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
		return packet.TopicFilterInvalid, nil
	}
	if !c.deps.Authorize(c.Identity, auth.Request{Action: auth.Subscribe, Topic: plain, QoS: o.QoS}) {
		return packet.NotAuthorized, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, has := c.filters[filter]; !has && len(c.filters) >= c.limits.Subscriptions {
		return packet.QuotaExceeded, nil
	}
	if c.filters == nil {
		c.filters = make(map[string]subscriptions.Options, 1)
	}
	c.filters[filter] = o
	return packet.Code(o.QoS), nil
}

func (c *Client) forget(filter string) {
	c.mu.Lock()
	delete(c.filters, filter)
	c.mu.Unlock()
}

func (r *subscribing) done(i int, code packet.Code) {
	r.codes[i] = code
	r.finish()
}

func (r *subscribing) finish() {
	if r.waiting.Add(-1) > 0 {
		return
	}
	// On whatever goroutine brought the last acknowledgement.
	var t turn.Turn
	r.c.send(&t, func(dst []byte) []byte {
		return packet.AppendSuback(dst, r.c.Version, r.id, r.codes)
	})
	t.End()
}

func (c *Client) onUnsubscribe(u packet.Unsubscribe) error {
	if len(u.Filters) > c.limits.FiltersPerPacket {
		return &packet.Error{Code: packet.QuotaExceeded, Detail: "too many filters in one UNSUBSCRIBE"}
	}
	codes := make([]packet.Code, len(u.Filters))
	for i, f := range u.Filters {
		c.mu.Lock()
		_, has := c.filters[f]
		delete(c.filters, f)
		c.mu.Unlock()
		if !has {
			codes[i] = packet.NoSubscriptionExisted
			continue
		}
		c.deps.Broker.Unsubscribe(c, f)
	}
	c.send(&c.turn, func(dst []byte) []byte {
		return packet.AppendUnsuback(dst, c.Version, u.PacketID, codes)
	})
	return nil
}
