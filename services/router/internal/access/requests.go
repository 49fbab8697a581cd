package access

import (
	"fmt"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

// OutsideError says what of a request the caller's limits leave out.
type OutsideError struct {
	// Field is the path of the field in the request.
	Field string
	// Asked is what cannot be, in words.
	Asked string
}

// Error implements error.
func (e *OutsideError) Error() string {
	return e.Field + ": " + e.Asked + " is outside of the caller's limits"
}

// Check says whether a request is within the limits: a unary one, or one of a stream. The error is an OutsideError. What
// neither publishes nor reads messages is.
func (l *Limits) Check(request any) error {
	if l == nil {
		return nil
	}
	switch r := request.(type) {
	case *messagingv1.PublishRequest:
		return l.publish("message.topic", r.GetMessage())
	case *messagingv1.PublishStreamRequest:
		for i, m := range r.GetMessages() {
			if !l.MayPublish(m.GetTopic()) {
				return l.publish(fmt.Sprintf("messages[%d].topic", i), m)
			}
		}
	case *messagingv1.SendRequest:
		if !l.MaySend(r.GetReceiver()) {
			return &OutsideError{"receiver", "the receiver"}
		}
	case *messagingv1.CommandRequest:
		return l.command("", r)
	case *messagingv1.CommandStreamRequest:
		return l.command("command.", r.GetCommand())
	case *messagingv1.SubscribeRequest:
		for i, f := range r.GetOpen().GetFilters() {
			if err := l.read(fmt.Sprintf("open.filters[%d].filter", i), f.GetFilter()); err != nil {
				return err
			}
		}
	case *adminv1.ListRetainedRequest:
		if r.GetFilter() == "" {
			return l.read("filter", "#")
		}
		return l.read("filter", r.GetFilter())
	case *messagingv1.CreateGroupRequest:
		return l.group("name", r.GetName())
	case *messagingv1.DeleteGroupRequest:
		return l.group("name", r.GetName())
	case *messagingv1.RemoveMembersRequest:
		return l.group("group", r.GetGroup())
	case *messagingv1.AddMembersRequest:
		return l.join(r)
	}
	return nil
}

func (l *Limits) publish(field string, m *messagingv1.Message) error {
	if !l.MayPublish(m.GetTopic()) {
		return &OutsideError{field, fmt.Sprintf("the topic %q", m.GetTopic())}
	}
	return nil
}

// command looks at the topic of the answer, too: the answer is whatever is published to it.
func (l *Limits) command(path string, r *messagingv1.CommandRequest) error {
	if !l.MayCommand(r.GetClientId()) {
		return &OutsideError{path + "client_id", fmt.Sprintf("the client %q", r.GetClientId())}
	}
	if r.GetReplyTopic() == "" {
		return nil
	}
	return l.read(path+"reply_topic", r.GetReplyTopic())
}

func (l *Limits) read(field, filter string) error {
	if !l.MaySubscribe(filter) {
		return &OutsideError{field, fmt.Sprintf("the topic filter %q", filter)}
	}
	return nil
}

func (l *Limits) group(field, name string) error {
	if !l.MayUseGroup(name) {
		return &OutsideError{field, fmt.Sprintf("the group %q", name)}
	}
	return nil
}

// join looks at the members, too: what is sent to the group reaches them.
func (l *Limits) join(r *messagingv1.AddMembersRequest) error {
	for i, m := range r.GetMembers() {
		who := &messagingv1.Receiver{}
		switch m.GetMember().(type) {
		case *messagingv1.Member_ClientId:
			who.Receiver = &messagingv1.Receiver_ClientId{ClientId: m.GetClientId()}
		case *messagingv1.Member_User:
			who.Receiver = &messagingv1.Receiver_User{User: m.GetUser()}
		}
		if !l.MaySend(who) {
			return &OutsideError{fmt.Sprintf("members[%d]", i), "the member"}
		}
	}
	return l.group("group", r.GetGroup())
}
