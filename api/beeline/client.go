package beeline

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

// Client talks to a router. It may be used by any number of goroutines.
type Client struct {
	conn  grpc.ClientConnInterface
	close func() error

	messaging messagingv1.MessagingServiceClient
}

// New returns a client that uses a connection, which stays the caller's: Close does not close it. What [Dial] sets up
// (retries, pings, reconnecting) is up to the connection then.
func New(conn grpc.ClientConnInterface) *Client {
	return &Client{conn: conn, close: func() error { return nil }, messaging: messagingv1.NewMessagingServiceClient(conn)}
}

// Close ends the connection, and with it whatever uses it. Close publishers first.
func (c *Client) Close() error { return c.close() }

// Messaging is the generated client of MessagingService, for what Client has no method for.
func (c *Client) Messaging() messagingv1.MessagingServiceClient { return c.messaging }

// Groups is the generated client of GroupService.
func (c *Client) Groups() messagingv1.GroupServiceClient {
	return messagingv1.NewGroupServiceClient(c.conn)
}

// Admin is the generated client of AdminService, for operators.
func (c *Client) Admin() adminv1.AdminServiceClient { return adminv1.NewAdminServiceClient(c.conn) }

// Gateways is the generated client of GatewayService, for operators.
func (c *Client) Gateways() adminv1.GatewayServiceClient {
	return adminv1.NewGatewayServiceClient(c.conn)
}

// Placement is the generated client of PlacementService, for operators.
func (c *Client) Placement() adminv1.PlacementServiceClient {
	return adminv1.NewPlacementServiceClient(c.conn)
}

// Publish publishes one message and returns when every receiver's holder has it: whether anybody matched. Whoever publishes
// many uses a [Publisher]. It is not repeated: of an error with the code UNAVAILABLE, DEADLINE_EXCEEDED or CANCELED it is not
// known whether the message was published.
func (c *Client) Publish(ctx context.Context, m *messagingv1.Message) (matched bool, err error) {
	r, err := c.messaging.Publish(ctx, &messagingv1.PublishRequest{Message: m})
	if err != nil {
		return false, fmt.Errorf("publish to %q: %w", m.GetTopic(), err)
	}
	return r.GetMatched(), nil
}

// ToClient is the client with an id, as a receiver.
func ToClient(id string) *messagingv1.Receiver {
	return &messagingv1.Receiver{Receiver: &messagingv1.Receiver_ClientId{ClientId: id}}
}

// ToUser is all clients of a user, as a receiver.
func ToUser(name string) *messagingv1.Receiver {
	return &messagingv1.Receiver{Receiver: &messagingv1.Receiver_User{User: name}}
}

// ToGroup is all members of a group, as a receiver.
func ToGroup(name string) *messagingv1.Receiver {
	return &messagingv1.Receiver{Receiver: &messagingv1.Receiver_Group{Group: name}}
}

// SendOptions say what is waited for. The zero value waits, at most 5 s, until the message is delivered or stored.
type SendOptions struct {
	// Wait is how far the message has to have come.
	Wait messagingv1.Wait
	// Timeout is after what time the answer is given with what is known; 5 s when 0, at most 10 min. A deadline of the
	// context should be later: when it is over first there is no answer.
	Timeout time.Duration
	// SummaryOnly leaves the receipts out: there are counts only.
	SummaryOnly bool
}

// Send sends a message to a client, a user or a group, and returns what is known to have become of it at each receiver. The
// message's topic is what follows the receiver's address. It is not repeated.
func (c *Client) Send(ctx context.Context, to *messagingv1.Receiver, m *messagingv1.Message, o SendOptions) (*messagingv1.SendResponse, error) {
	r, err := c.messaging.Send(ctx, &messagingv1.SendRequest{
		Receiver: to, Message: m, Wait: o.Wait, TimeoutMs: milliseconds(o.Timeout), SummaryOnly: o.SummaryOnly,
	})
	if err != nil {
		return nil, fmt.Errorf("send %q: %w", m.GetTopic(), err)
	}
	return r, nil
}

// CommandOptions say how a device answers. The zero value is for devices of MQTT 5 that answer within 5 s.
type CommandOptions struct {
	// Timeout is how long the answer may take; 5 s when 0, at most 10 min. A deadline of the context should be later.
	Timeout time.Duration
	// ReplyTopic is the topic to which a device of MQTT 3.1.1 answers; empty: it is of MQTT 5.
	ReplyTopic string
}

// Command sends a message to a client and returns what it answers. The message's topic is what follows p2p/<client id>/. It
// is not repeated. The error has the code NOT_FOUND when the client is not known, FAILED_PRECONDITION when it is away,
// DEADLINE_EXCEEDED when it has not answered.
func (c *Client) Command(ctx context.Context, clientID string, m *messagingv1.Message, o CommandOptions) (*messagingv1.CommandResponse, error) {
	r, err := c.messaging.Command(ctx, &messagingv1.CommandRequest{
		ClientId: clientID, Message: m, TimeoutMs: milliseconds(o.Timeout), ReplyTopic: o.ReplyTopic,
	})
	if err != nil {
		return nil, fmt.Errorf("command %q for client %q: %w", m.GetTopic(), clientID, err)
	}
	return r, nil
}

// milliseconds rounds up: a short time is not none.
func milliseconds(d time.Duration) uint32 {
	ms := (d + time.Millisecond - 1) / time.Millisecond
	return uint32(min(max(ms, 0), 1<<32-1)) // the router says what is too long
}
