package topic

import (
	"errors"
	"strings"
)

const (
	// GroupPrefix begins every topic of a group: group/<group>/<rest>. Such a message reaches the members of the group,
	// by a subscription that the cluster keeps for them (GroupFilter), and no other subscription reaches the message.
	GroupPrefix = "group/"
	// UserPrefix begins every topic of a user: user/<user name>/<rest>. Such a message is addressed to each of the user's
	// clients, and no subscription reaches it.
	UserPrefix = "user/"
)

// ErrManaged says that it is not group/<group>/<rest> or user/<user name>/<rest>, or a filter that reaches for such topics.
var ErrManaged = errors.New("topic is not group/<group>/<rest> or user/<user name>/<rest>, or is used as a filter")

// IsGroup reports whether name lies under GroupPrefix.
func IsGroup(name string) bool { return strings.HasPrefix(name, GroupPrefix) }

// IsUser reports whether name lies under UserPrefix.
func IsUser(name string) bool { return strings.HasPrefix(name, UserPrefix) }

// IsAddressed reports whether a message on name goes to clients by their ids alone, whatever anybody subscribes to.
func IsAddressed(name string) bool { return IsDirect(name) || IsUser(name) }

// IsRetained reports whether a topic may keep a message: there is nobody who could subscribe to the others.
func IsRetained(name string) bool { return !IsAddressed(name) && !IsGroup(name) }

// Group returns the topic that reaches the members of a group. The group has to be a valid name of one.
func Group(group, rest string) string { return GroupPrefix + group + "/" + rest }

// GroupFilter returns the filter by which members of a group get its messages.
func GroupFilter(group string) string { return GroupPrefix + group + "/#" }

// ParseGroup returns the group of group/<group>/<rest>, or ErrManaged when name is not of that form.
func ParseGroup(name string) (group string, err error) {
	after, ok := strings.CutPrefix(name, GroupPrefix)
	group, rest, _ := strings.Cut(after, "/")
	if !ok || group == "" || rest == "" {
		return "", ErrManaged
	}
	return group, nil
}

// User returns the topic under which the clients of a user get a message. Like a client id, the user name is one level, in
// which / + # % are escaped.
func User(user, rest string) string { return UserPrefix + escape(user) + "/" + rest }

// ParseUser returns the user of user/<user name>/<rest>, or ErrManaged when name is not of that form.
func ParseUser(name string) (user string, err error) {
	after, ok := strings.CutPrefix(name, UserPrefix)
	level, rest, _ := strings.Cut(after, "/")
	if !ok || level == "" || rest == "" {
		return "", ErrManaged
	}
	if user, err = unescape(level); err != nil {
		return "", ErrManaged
	}
	return user, nil
}
