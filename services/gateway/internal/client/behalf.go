package client

import (
	"errors"

	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
)

// What somebody else does for a client whose connection is open, as its own packets would, but that nothing of it is
// written to the client.

// ErrNotOpen says that the connection is not open yet, or is ending.
var ErrNotOpen = errors.New("the connection is not open")

// SubscribeFor is a SUBSCRIBE to one filter. done is called once with the code that SUBACK would have, on any goroutine
// and possibly before SubscribeFor returns, unless the connection ends before: see Gone. The error is ErrNotOpen, or a
// *packet.Error where a client's own SUBSCRIBE would end its connection.
func (c *Client) SubscribeFor(filter string, o subscriptions.Options, done func(packet.Code)) error {
	one := []packet.Filter{{Filter: filter, Options: o}}
	r := c.subscribing(one, func(codes []packet.Code) { done(codes[0]) })
	if err := c.whileOpen(func() error { return r.beginLocked(one) }); err != nil {
		return err
	}
	r.finish()
	return nil
}

// UnsubscribeFor is an UNSUBSCRIBE from one filter. done is as with SubscribeFor. The error is ErrNotOpen.
func (c *Client) UnsubscribeFor(filter string, done func(packet.Code)) error {
	var code packet.Code
	recording := false
	err := c.whileOpen(func() error {
		codes, changes := c.unsubscribe([]string{filter})
		code = codes[0]
		if recording = c.durable != nil && len(changes) > 0; recording {
			c.record(changes, func() { done(packet.Success) })
		}
		return nil
	})
	if err == nil && !recording {
		done(code)
	}
	return err
}

// whileOpen runs f, which the end of the session waits for.
func (c *Client) whileOpen(f func() error) error {
	c.changing.Lock()
	defer c.changing.Unlock()
	c.mu.Lock()
	is := c.state == open && c.cause == nil
	c.mu.Unlock()
	if !is {
		return ErrNotOpen
	}
	return f()
}
