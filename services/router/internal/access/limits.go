package access

import (
	"fmt"
	"slices"
	"strings"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/internal/topic"
)

// Limits bound what a caller may publish and read. What no list names is not allowed. The methods of a nil Limits allow
// everything.
type Limits struct {
	// Publish are topic filters: topics that match one of them may be published to. Topics that are the address of a client, a
	// user or a group are a matter of the lists below.
	Publish []string `json:"publish" yaml:"publish,omitempty"`
	// Subscribe are topic filters: what is subscribed to, or read of retained messages, has to be within one of them.
	Subscribe []string `json:"subscribe" yaml:"subscribe,omitempty"`
	// ClientPrefixes, UserPrefixes and GroupPrefixes: messages may go to whom one of them begins the name of; an empty one
	// begins all.
	ClientPrefixes []string `json:"client_prefixes" yaml:"client_prefixes,omitempty"`
	UserPrefixes   []string `json:"user_prefixes" yaml:"user_prefixes,omitempty"`
	GroupPrefixes  []string `json:"group_prefixes" yaml:"group_prefixes,omitempty"`
}

// Validate reports the first filter that is none.
func (l *Limits) Validate() error {
	if l == nil {
		return nil
	}
	for _, f := range slices.Concat(l.Publish, l.Subscribe) {
		if err := topic.ValidateFilter(f, topic.Limits{Bytes: 65535, Levels: 1000, LevelBytes: 65535}); err != nil {
			return fmt.Errorf("topic filter %q: %w", f, err)
		}
	}
	return nil
}

// MayPublish reports whether messages on a topic may be published.
func (l *Limits) MayPublish(name string) bool {
	if l == nil {
		return true
	}
	switch {
	case topic.IsDirect(name):
		id, err := topic.ParseDirect(name)
		return err == nil && begins(l.ClientPrefixes, id)
	case topic.IsUser(name):
		// It is escaped as a client id is.
		user, err := topic.ParseDirect(topic.DirectPrefix + strings.TrimPrefix(name, topic.UserPrefix))
		return err == nil && begins(l.UserPrefixes, user)
	case topic.IsGroup(name):
		group, err := topic.ParseGroup(name)
		return err == nil && begins(l.GroupPrefixes, group)
	}
	return slices.ContainsFunc(l.Publish, func(f string) bool { return topic.Covers(f, name) })
}

// MaySubscribe reports whether everything that matches a filter may be read.
func (l *Limits) MaySubscribe(filter string) bool {
	return l == nil || slices.ContainsFunc(l.Subscribe, func(f string) bool { return topic.Covers(f, filter) })
}

// MaySend reports whether messages may be sent to a receiver.
func (l *Limits) MaySend(r *messagingv1.Receiver) bool {
	if l == nil {
		return true
	}
	switch r.GetReceiver().(type) {
	case *messagingv1.Receiver_ClientId:
		return l.MayCommand(r.GetClientId())
	case *messagingv1.Receiver_User:
		return begins(l.UserPrefixes, r.GetUser())
	case *messagingv1.Receiver_Group:
		return l.MayUseGroup(r.GetGroup())
	}
	return false
}

// MayCommand reports whether messages may be sent to a client.
func (l *Limits) MayCommand(clientID string) bool {
	return l == nil || begins(l.ClientPrefixes, clientID)
}

// MayUseGroup reports whether messages may be sent to a group, and the group be changed.
func (l *Limits) MayUseGroup(name string) bool { return l == nil || begins(l.GroupPrefixes, name) }

func begins(prefixes []string, name string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}
