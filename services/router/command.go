package router

import (
	"context"
	"math/rand/v2"
	"time"

	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/services/router/internal/book"
	"github.com/beeline-mqtt/beeline/services/router/internal/command"
	"github.com/beeline-mqtt/beeline/services/router/internal/envelope"
	"github.com/beeline-mqtt/beeline/services/router/internal/foreign"
	"github.com/beeline-mqtt/beeline/services/router/internal/placement"
)

// commanding is the part of MessagingService that sends commands.
type commanding struct {
	commander *command.Commander
}

func newCommanding(r *Router) *commanding {
	return &commanding{commander: command.New(command.Deps{
		Connect: r.session, Send: r.messaging.hand, Place: r.placer.abroad, Metrics: command.NewMetrics(r.deps.Metrics), Logger: r.deps.Logger,
	})}
}

// Command implements MessagingService.
func (x *commanding) Command(ctx context.Context, r *messagingv1.CommandRequest) (*messagingv1.CommandResponse, error) {
	return x.commander.Do(ctx, r)
}

// CommandStream implements MessagingService.
func (x *commanding) CommandStream(s messagingv1.MessagingService_CommandStreamServer) error {
	return x.commander.Serve(s)
}

// hand is command.Send: it says where the device was found, and whether its connection has the command.
func (m *messaging) hand(ctx context.Context, clientID string, x *message.Message) (*messagingv1.Receipt, error) {
	until, _ := ctx.Deadline() // a command has one
	p := &gatewayv1.Publication{Message: envelope.Wire(x, time.Now()), Report: &gatewayv1.Report{
		Wait: gatewayv1.Report_WAIT_DELIVERED, WithinMs: uint32(max(time.Until(until).Milliseconds(), 1)),
	}}
	result, err := m.desk.Publish(ctx, p)
	if err != nil {
		return nil, statusOf(err)
	}
	if receipts := result.GetReceipts(); len(receipts) > 0 {
		r := receiptOf(receipts[0])
		if _, err := m.fleet.Gateway(r.GetHolder()); err == nil && r.GetOutcome() == messagingv1.Outcome_OUTCOME_QUEUED {
			// Stored beside being sent: the device is connected, and may answer.
			r.Outcome = messagingv1.Outcome_OUTCOME_ACCEPTED
		}
		return r, nil
	}
	code := packet.Code(result.GetReasonCode())
	r := &messagingv1.Receipt{ClientId: clientID, Outcome: messagingv1.Outcome_OUTCOME_TIMED_OUT, Reason: explain(code)}
	if code.Failure() && code != packet.UnspecifiedError {
		r.Outcome = messagingv1.Outcome_OUTCOME_REFUSED
	}
	return r, nil
}

// abroad is the foreign cluster that a client belongs to, of which nothing is known but its id. Assignments by user name or by
// all that a client presents cannot be seen from that: then the cluster counts where the client was last, unless it is
// connected to the own one.
func (p *placer) abroad(ctx context.Context, clientID string) command.Foreign {
	clusters := p.book.Clusters().Entries
	if len(clusters) == 0 {
		return command.Foreign{}
	}
	t := placement.Triple{ClientID: clientID}
	key := p.secret.Key(t)
	name := p.name
	if a, ok := p.assignments.Load().Lookup(t, key, 0); ok {
		name = a.Cluster
	}
	if name == p.name {
		for _, c := range clusters {
			if _, was := p.book.Recorded(ctx, c.Name, key.String()); !was {
				continue
			}
			if holder, err := p.own.holder(ctx, clientID); err == nil && holder == "" {
				name = c.Name
			}
			break
		}
	}
	for _, c := range clusters {
		if c.Name == name {
			return p.channelOf(c)
		}
	}
	return command.Foreign{}
}

// channelOf is a foreign cluster of the book as commands need it.
func (p *placer) channelOf(c book.Cluster) command.Foreign {
	f := command.Foreign{Cluster: c.Name, Revision: c.Revision, Nodes: func() []string { return p.activeNodes(c.Name) }}
	if d, err := foreign.Decode(c.Definition); err == nil {
		f.Channel = d.Channel
	}
	return f
}

// activeNodes are the addresses of the nodes of a foreign cluster that take clients, in an order by chance.
func (p *placer) activeNodes(cluster string) (addresses []string) {
	v, _, _ := p.foreign.find(cluster)
	for _, n := range v.Nodes {
		if n.Active {
			addresses = append(addresses, n.Address)
		}
	}
	rand.Shuffle(len(addresses), func(i, j int) { addresses[i], addresses[j] = addresses[j], addresses[i] })
	return addresses
}

// follow gives up channels to clusters that are not as they were.
func (x *commanding) follow(p *placer) {
	x.commander.Follow(func(name string, revision int64) bool {
		c, ok := p.book.Cluster(name)
		return ok && c.Revision == revision
	})
}
