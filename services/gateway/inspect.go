package gateway

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/pages"
	"github.com/beeline-mqtt/beeline/internal/rpc"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/broker"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
)

// Bounds of what is shown at once.
const (
	defaultPage   = 100
	mostClients   = 1000
	mostReceivers = 10_000
	mostRoutes    = 1000
)

// inspector is the InspectService of a gateway, for whichever incarnation is in force.
type inspector struct {
	gatewayv1.UnimplementedInspectServiceServer

	gateway *Gateway
}

// broker of the incarnation that is in force, for a router.
func (i *inspector) broker(ctx context.Context) (*broker.Broker, error) {
	if err := rpc.RequireRole(ctx, "router"); err != nil {
		return nil, err
	}
	l := i.gateway.life.Load()
	if l == nil {
		return nil, status.Error(codes.Unavailable, "no incarnation is in force")
	}
	return l.broker, nil
}

// find returns a client that is connected.
func (i *inspector) find(ctx context.Context, id string) (*broker.Broker, *client.Client, error) {
	b, err := i.broker(ctx)
	if err != nil {
		return nil, nil, err
	}
	c := b.Find(id)
	if c == nil {
		return nil, nil, errNotHere()
	}
	return b, c, nil
}

func errNotHere() error { return status.Error(codes.NotFound, "the client is not connected here") }

// bounded is how many are asked for within a bound; 0 is a page.
func bounded(n uint32, most int) int {
	if n == 0 {
		return defaultPage
	}
	return min(int(n), most)
}

// ListClients implements the service.
func (i *inspector) ListClients(ctx context.Context, r *gatewayv1.ListClientsRequest) (*gatewayv1.ListClientsResponse, error) {
	b, err := i.broker(ctx)
	if err != nil {
		return nil, err
	}
	clients, complete := b.List(pages.Range{Prefix: r.GetClientIdPrefix(), After: r.GetAfter()}, r.GetUsername(), bounded(r.GetPageSize(), mostClients))
	w := &gatewayv1.ListClientsResponse{NextAfter: complete}
	now := time.Now()
	for _, c := range clients {
		if x, open := c.Inspect(now); open {
			w.Clients = append(w.Clients, summary(b, c, x))
		}
	}
	return w, nil
}

// GetClient implements the service.
func (i *inspector) GetClient(ctx context.Context, r *gatewayv1.GetClientRequest) (*gatewayv1.GetClientResponse, error) {
	b, c, err := i.find(ctx, r.GetClientId())
	if err != nil {
		return nil, err
	}
	x, open := c.Inspect(time.Now())
	if !open {
		return nil, errNotHere()
	}
	w := &gatewayv1.GetClientResponse{
		Client: summary(b, c, x), Epoch: c.Epoch(), Connection: connectionOf(x), Session: sessionOf(x),
	}
	subs, groups := b.Subscriptions(c)
	w.Groups = groups
	for _, s := range subs {
		w.Subscriptions = append(w.Subscriptions, &adminv1.Subscription{
			Filter: s.Filter, Qos: qosToWire(s.Options.QoS), NoLocal: s.Options.NoLocal, RetainAsPublished: s.Options.RetainAsPublished,
			RetainHandling: uint32(s.Options.RetainHandling), SubscriptionId: s.Options.ID,
		})
	}
	return w, nil
}

func summary(b *broker.Broker, c *client.Client, x client.Inspection) *adminv1.ClientSummary {
	return &adminv1.ClientSummary{
		ClientId: c.ID, Username: x.Username, Presence: adminv1.Presence_PRESENCE_CONNECTED, Gateway: b.Incarnation(),
		RemoteAddress: x.Remote, Version: versionOf(c.Version), ConnectedSince: timestamppb.New(x.Since),
		Durable: x.Durable, Subscriptions: uint32(x.Subscriptions),
	}
}

func versionOf(v packet.Version) string {
	switch v {
	case packet.V5:
		return "5"
	case packet.V311:
		return "3.1.1"
	}
	return "3.1"
}

func connectionOf(x client.Inspection) *adminv1.Connection {
	return &adminv1.Connection{
		Listener: x.Listener, KeepAliveSeconds: uint32(x.KeepAlive / time.Second), IdleMs: uint64(max(x.Idle.Milliseconds(), 0)),
		ReceiveMaximum: uint32(x.ReceiveMaximum), MaximumPacketSize: uint32(x.MaximumPacketSize), CleanStart: x.CleanStart,
		OutputBytes: uint64(x.OutputBytes), Paused: x.Paused, Will: x.Will,
	}
}

func sessionOf(x client.Inspection) *adminv1.Session {
	n := x.Counters
	w := &adminv1.Session{
		Durable: x.Durable, ExpirySeconds: x.Expiry, QueuedMessages: uint64(x.Queued), QueuedBytes: uint64(x.QueuedBytes),
		InFlight: uint64(x.InFlight), Unsettled: uint64(x.Unsettled),
		Counters: map[string]uint64{
			"sent": n.Sent, "acknowledged": n.Acknowledged, "refused": n.Refused, "dropped": n.Dropped + n.Shed, "expired": n.Expired,
			"received": n.Received, "duplicates": n.Duplicates, "spilled": n.Spilled, "stored": n.Stored,
		},
	}
	for _, d := range x.Drops {
		w.Drops = append(w.Drops, &adminv1.Drop{
			Time: timestamppb.New(d.Time), Topic: d.Topic, Qos: qosToWire(d.QoS), Publisher: d.Publisher, Reason: d.Reason,
		})
	}
	return w
}

func qosToWire(qos byte) messagev1.Qos { return messagev1.Qos(qos + 1) }

// Disconnect implements the service.
func (i *inspector) Disconnect(ctx context.Context, r *gatewayv1.DisconnectRequest) (*gatewayv1.DisconnectResponse, error) {
	return &gatewayv1.DisconnectResponse{}, i.end(ctx, r.GetClientId(), client.ByOperator(false))
}

// EndSession implements the service.
func (i *inspector) EndSession(ctx context.Context, r *gatewayv1.EndSessionRequest) (*gatewayv1.EndSessionResponse, error) {
	return &gatewayv1.EndSessionResponse{}, i.end(ctx, r.GetClientId(), client.ByOperator(true))
}

// end ends a client's connection and waits until it is gone.
func (i *inspector) end(ctx context.Context, id string, why client.Cause) error {
	_, c, err := i.find(ctx, id)
	if err != nil {
		return err
	}
	first := c.Stop(why)
	select {
	case <-c.Gone():
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
	if !first {
		return errNotHere()
	}
	return nil
}

// Subscribe implements the service.
func (i *inspector) Subscribe(ctx context.Context, r *gatewayv1.SubscribeRequest) (*gatewayv1.SubscribeResponse, error) {
	s := r.GetSubscription()
	o, err := optionsOf(s)
	if err != nil {
		return nil, err
	}
	_, c, err := i.find(ctx, r.GetClientId())
	if err != nil {
		return nil, err
	}
	code, err := outcome(ctx, c, func(done func(packet.Code)) error { return c.SubscribeFor(s.GetFilter(), o, done) })
	if err != nil {
		return nil, err
	}
	switch {
	case !code.Failure():
		return &gatewayv1.SubscribeResponse{}, nil
	case code == packet.TopicFilterInvalid:
		return nil, status.Error(codes.InvalidArgument, "subscription.filter: not valid, or too long")
	case code == packet.NotAuthorized:
		return nil, status.Error(codes.FailedPrecondition, "the client may not subscribe to this filter")
	case code == packet.QuotaExceeded:
		return nil, status.Error(codes.ResourceExhausted, "the client has too many subscriptions, or the filter too many wildcards or members")
	}
	return nil, status.Error(codes.Unavailable, "not every process has acknowledged the route in time: the subscription was withdrawn")
}

// Unsubscribe implements the service.
func (i *inspector) Unsubscribe(ctx context.Context, r *gatewayv1.UnsubscribeRequest) (*gatewayv1.UnsubscribeResponse, error) {
	_, c, err := i.find(ctx, r.GetClientId())
	if err != nil {
		return nil, err
	}
	code, err := outcome(ctx, c, func(done func(packet.Code)) error { return c.UnsubscribeFor(r.GetFilter(), done) })
	switch {
	case err != nil:
		return nil, err
	case code == packet.NoSubscriptionExisted:
		return nil, status.Error(codes.NotFound, "the client has no such subscription")
	}
	return &gatewayv1.UnsubscribeResponse{}, nil
}

// outcome waits for the code of what is done on behalf of a client, for as long as its connection lasts.
func outcome(ctx context.Context, c *client.Client, begin func(done func(packet.Code)) error) (packet.Code, error) {
	answered := make(chan packet.Code, 1)
	err := begin(func(code packet.Code) { answered <- code })
	var refused *packet.Error
	switch {
	case errors.As(err, &refused):
		return 0, status.Error(codes.InvalidArgument, "subscription: "+refused.Detail)
	case err != nil:
		return 0, errNotHere()
	}
	select {
	case code := <-answered:
		return code, nil
	case <-c.Gone():
		return 0, errNotHere()
	case <-ctx.Done():
		return 0, status.FromContextError(ctx.Err()).Err()
	}
}

// optionsOf checks what MQTT itself could not write.
func optionsOf(s *adminv1.Subscription) (subscriptions.Options, error) {
	const (
		mostRetainHandling = 2           // 3.8.3.1
		mostID             = 268_435_455 // 3.8.2.1.2
	)
	o := subscriptions.Options{
		NoLocal: s.GetNoLocal(), RetainAsPublished: s.GetRetainAsPublished(), RetainHandling: byte(s.GetRetainHandling()), ID: s.GetSubscriptionId(),
	}
	switch {
	case s.GetFilter() == "":
		return o, status.Error(codes.InvalidArgument, "subscription.filter: is missing")
	case s.GetRetainHandling() > mostRetainHandling:
		return o, status.Error(codes.InvalidArgument, "subscription.retain_handling: must be 0, 1 or 2")
	case s.GetSubscriptionId() > mostID:
		return o, status.Error(codes.InvalidArgument, "subscription.subscription_id: too large")
	}
	switch s.GetQos() {
	case messagev1.Qos_QOS_AT_MOST_ONCE, messagev1.Qos_QOS_AT_LEAST_ONCE, messagev1.Qos_QOS_EXACTLY_ONCE:
		o.QoS = byte(s.GetQos() - 1)
		return o, nil
	}
	return o, status.Error(codes.InvalidArgument, "subscription.qos: must be given")
}

// Match implements the service.
func (i *inspector) Match(ctx context.Context, r *gatewayv1.MatchRequest) (*gatewayv1.MatchResponse, error) {
	b, err := i.broker(ctx)
	if err != nil {
		return nil, err
	}
	if err := topic.ValidateName(r.GetTopic(), i.gateway.cfg.Limits.Topic()); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "topic: %v", err)
	}
	receivers, total := b.Receivers(r.GetTopic(), bounded(r.GetMaxReceivers(), mostReceivers))
	w := &gatewayv1.MatchResponse{ReceiversTotal: uint64(total)}
	for _, x := range receivers {
		w.Receivers = append(w.Receivers, &adminv1.TopicReceiver{
			ClientId: x.ClientID, Holder: b.Incarnation(), Filters: x.Filters, Qos: qosToWire(x.QoS), OneOfMany: x.OneOfMany,
		})
	}
	for _, x := range b.Routes(r.GetTopic(), mostRoutes) {
		w.Routes = append(w.Routes, &adminv1.RouteMatch{
			Incarnation: x.Incarnation, Filter: x.Filter, ShareGroup: x.Group, Members: x.Members, Durable: x.Durable,
		})
	}
	return w, nil
}
