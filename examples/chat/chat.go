package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/beeline-mqtt/beeline/api/beeline"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

// said is one thing that somebody said. As JSON it is what phones get under group/<room>/said.
type said struct {
	From string    `json:"from"`
	Text string    `json:"text"`
	Time time.Time `json:"time"`
}

// chat knows who said what. A room is a group of Beeline, whose members are users: whatever phone somebody uses gets the messages.
type chat struct {
	beeline *beeline.Client
	log     *slog.Logger

	mu    sync.Mutex
	rooms map[string][]said
}

func newChat(b *beeline.Client, log *slog.Logger) *chat {
	return &chat{beeline: b, log: log, rooms: map[string][]said{}}
}

// remembered is how many messages of a room are kept here.
const remembered = 100

// listen says to each room what people write to chat/<room>/say, until ctx is over. The subscription is durable: what is written while
// this program is not there is said later.
func (c *chat) listen(ctx context.Context) error {
	s := beeline.Subscription{
		Filters: []string{"chat/+/say"}, DurableName: "chat",
		OnOpen: func(resumed bool) { c.log.LogAttrs(ctx, slog.LevelInfo, "listening", slog.Bool("resumed", resumed)) },
	}
	for {
		err := c.beeline.Subscribe(ctx, s, c.heard)
		if err == nil || !later(err) {
			return err
		}
		// The message was not acknowledged: it comes again.
		c.log.LogAttrs(ctx, slog.LevelWarn, "a message could not be said", slog.Any("error", err))
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

// later reports whether what has failed may go well later.
func later(err error) bool {
	c := status.Code(err)
	return c == codes.Unavailable || c == codes.DeadlineExceeded || c == codes.ResourceExhausted
}

// heard is called for each message that somebody writes. If it returns nil the message is done with.
func (c *chat) heard(ctx context.Context, m *messagingv1.ReceivedMessage) error {
	ctx = context.WithoutCancel(ctx) // what has begun is finished when this program is told to stop; Subscribe waits for it
	room := strings.Split(m.GetMessage().GetTopic(), "/")[1]
	err := c.say(ctx, room, said{From: author(m.GetPublisher()), Text: string(m.GetMessage().GetPayload()), Time: time.Now().UTC()})
	if err != nil && !later(err) {
		c.log.LogAttrs(ctx, slog.LevelWarn, "a message is dropped", slog.String("room", room), slog.Any("error", err))
		return nil // it would be as wrong the next time
	}
	return err
}

// author is the user whose phone has a client id, <user>-<phone>. That nobody takes another one's name is what authentication
// at the gateways is for.
func author(clientID string) string {
	user, _, _ := strings.Cut(clientID, "-")
	return user
}

// say says something to everybody in a room, and remembers it. Whoever is away and has a durable session gets it on return.
func (c *chat) say(ctx context.Context, room string, s said) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	m := &messagingv1.Message{Topic: "said", Payload: text, ContentType: "application/json"}
	r, err := c.beeline.Send(ctx, beeline.ToGroup(room), m, beeline.SendOptions{SummaryOnly: true})
	if err != nil {
		return err
	}
	c.log.LogAttrs(ctx, slog.LevelInfo, "said", slog.String("room", room), slog.String("from", s.From), slog.String("receivers", counts(r)))
	c.remember(room, s)
	return nil
}

func (c *chat) remember(room string, s said) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := append(c.rooms[room], s)
	c.rooms[room] = all[max(0, len(all)-remembered):]
}

// counts is how many receivers there are of each outcome, in words.
func counts(r *messagingv1.SendResponse) string {
	var all []string
	for _, n := range r.GetCounts() {
		all = append(all, fmt.Sprintf("%d %s", n.GetReceivers(), strings.ToLower(strings.TrimPrefix(n.GetOutcome().String(), "OUTCOME_"))))
	}
	return strings.Join(all, ", ")
}

// history is what was said in a room.
func (c *chat) history(room string) []said {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]said{}, c.rooms[room]...)
}

// join lets a user into a room, which is made if it is not there.
func (c *chat) join(ctx context.Context, room, user string) error {
	g := c.beeline.Groups()
	if _, err := g.CreateGroup(ctx, &messagingv1.CreateGroupRequest{Name: room}); err != nil && status.Code(err) != codes.AlreadyExists {
		return err
	}
	_, err := g.AddMembers(ctx, &messagingv1.AddMembersRequest{Group: room, Members: []*messagingv1.Member{member(user)}})
	return err
}

// leave takes a user out of a room.
func (c *chat) leave(ctx context.Context, room, user string) error {
	_, err := c.beeline.Groups().RemoveMembers(ctx, &messagingv1.RemoveMembersRequest{Group: room, Members: []*messagingv1.Member{member(user)}})
	return err
}

func member(user string) *messagingv1.Member {
	return &messagingv1.Member{Member: &messagingv1.Member_User{User: user}}
}
