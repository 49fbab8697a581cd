package client

import (
	"maps"
	"strings"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/topic"
)

// Membership is because of what a client is in a group: one or both of these.
type Membership byte

// The two ways.
const (
	// ByClient: the client itself is a member.
	ByClient Membership = 1 << iota
	// ByUser: its user is.
	ByUser
)

// Join notes a managed filter, by which the client gets messages without having subscribed. It reports whether it is new,
// and has to be entered into the index: with the lock held under which Detach takes it out.
func (c *Client) Join(filter string, by Membership) (isNew bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == ended {
		return false
	}
	if c.managed == nil {
		c.managed = make(map[string]Membership, 1)
	}
	was := c.managed[filter]
	c.managed[filter] = was | by
	if was != 0 {
		return false
	}
	if c.filters == nil {
		c.filters = make(map[string]uint64, 1)
	}
	c.asked++
	c.filters[filter] = c.asked
	return true
}

// Part takes one or both reasons for a managed filter back, and reports whether it is gone with that. A client that has
// ended keeps what it had.
func (c *Client) Part(filter string, by Membership) (gone bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	was, is := c.managed[filter]
	if !is || c.state == ended {
		return false
	}
	if left := was &^ by; left != 0 {
		c.managed[filter] = left
		return false
	}
	delete(c.managed, filter)
	delete(c.filters, filter)
	return true
}

// Memberships returns the managed filters, and what each comes from. The map is the caller's.
func (c *Client) Memberships() map[string]Membership {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.managed)
}

// mayAddress reports whether the client may publish to a topic as far as addresses are concerned: members may write to their
// groups, nobody but services writes to users, and nobody to the sessions of services but to answer commands.
func (c *Client) mayAddress(name string) bool {
	switch {
	case topic.IsGroup(name):
		group, _ := topic.ParseGroup(name) // valid: the name has been checked
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.managed[topic.GroupFilter(group)] != 0
	case topic.IsUser(name):
		return false
	case topic.IsDirect(name):
		// Of the cluster's own services those take messages from devices that wait for answers to commands.
		id, _ := topic.ParseDirect(name) // valid, likewise
		return !strings.HasPrefix(id, message.ServicePrefix) || strings.HasPrefix(id, message.AnswerPrefix) || c.Identity.Service
	}
	return true
}
