package session

import (
	"context"
	"errors"
	"math"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/pages"
	"github.com/beeline-mqtt/beeline/internal/rpc"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/services/session/internal/away"
)

const (
	// Bounds of what operators are shown at once.
	defaultPage   = 100
	mostSessions  = 1000
	mostReceivers = 10_000
	mostPeeked    = 100
	// operateTimeout bounds what operators have changed, whatever the caller's patience.
	operateTimeout = 10 * time.Second
)

// paged is how many are asked for within a bound; 0 is a page.
func paged(n uint32, most int) int {
	if n == 0 {
		return defaultPage
	}
	return min(int(n), most)
}

// peeked shows entries of an inbox without their payloads.
func peeked(entries []journal.Entry) (all []*adminv1.InboxEntry) {
	for _, e := range entries {
		if e.Message == nil {
			continue // the client has it
		}
		all = append(all, &adminv1.InboxEntry{
			Position: uint64(e.Position), Topic: e.Message.Topic, Qos: messagev1.Qos(e.QoS + 1),
			PayloadBytes: uint64(len(e.Message.Payload)), Publisher: e.Message.Publisher,
		})
	}
	return all
}

// ListSessions implements the service.
func (s *Session) ListSessions(ctx context.Context, r *sessionv1.ListSessionsRequest) (*sessionv1.ListSessionsResponse, error) {
	from, done, err := s.reading(ctx, "router")
	if err != nil {
		return nil, err
	}
	defer done()
	absent, complete := from.List(pages.Range{Prefix: r.GetClientIdPrefix(), After: r.GetAfter()}, paged(r.GetPageSize(), mostSessions))
	w := &sessionv1.ListSessionsResponse{NextAfter: complete}
	for _, a := range absent {
		w.Clients = append(w.Clients, &adminv1.ClientSummary{
			ClientId: a.Client, Presence: adminv1.Presence_PRESENCE_AWAY, Durable: true, Subscriptions: uint32(a.Subscriptions),
		})
	}
	return w, nil
}

// MatchSessions implements the service.
func (s *Session) MatchSessions(ctx context.Context, r *sessionv1.MatchSessionsRequest) (*sessionv1.MatchSessionsResponse, error) {
	from, done, err := s.reading(ctx, "router")
	if err != nil {
		return nil, err
	}
	defer done()
	if err := validName(r.GetTopic()); err != nil {
		return nil, err
	}
	receivers, total := from.Receivers(r.GetTopic(), paged(r.GetMaxReceivers(), mostReceivers))
	w := &sessionv1.MatchSessionsResponse{ReceiversTotal: uint64(total)}
	for _, x := range receivers {
		w.Receivers = append(w.Receivers, &adminv1.TopicReceiver{
			ClientId: x.Client, Holder: s.tap.Incarnation(), Filters: x.Filters, Qos: messagev1.Qos(x.QoS + 1), Away: true,
		})
	}
	return w, nil
}

// validName refuses what no message can be published to. Gateways may have narrower bounds.
func validName(name string) error {
	if err := topic.ValidateName(name, topic.Limits{Bytes: math.MaxUint16, Levels: math.MaxUint16 + 1, LevelBytes: math.MaxUint16}); err != nil {
		return status.Errorf(codes.InvalidArgument, "topic: %v", err)
	}
	return nil
}

// RemoveSession implements the service.
func (s *Session) RemoveSession(ctx context.Context, r *sessionv1.RemoveSessionRequest) (*sessionv1.RemoveSessionResponse, error) {
	in, done, err := s.reading(ctx, "router")
	if err != nil {
		return nil, err
	}
	removed := make(chan error, 1)
	in.Remove(r.GetClientId(), func(err error) { removed <- err })
	done() // a term that ends has not to wait for what will not be answered any more
	switch err := answered(ctx, removed); {
	case errors.Is(err, away.ErrNoSession):
		return nil, status.Error(codes.NotFound, err.Error())
	case errors.Is(err, away.ErrHeld):
		return nil, rpc.Refuse(rpc.Held, err.Error())
	case err != nil:
		return nil, undone(err)
	}
	return &sessionv1.RemoveSessionResponse{}, nil
}

// DeleteRetained implements the service.
func (s *Session) DeleteRetained(ctx context.Context, r *sessionv1.DeleteRetainedRequest) (*sessionv1.DeleteRetainedResponse, error) {
	in, done, err := s.reading(ctx, "router")
	if err != nil {
		return nil, err
	}
	defer done()
	if err := validName(r.GetTopic()); err != nil {
		return nil, err
	}
	page, err := in.Retained(r.GetTopic(), nil, 1)
	if err != nil {
		return nil, unread(err)
	}
	if len(page.Messages) == 0 {
		return nil, status.Error(codes.NotFound, "the topic has no retained message")
	}
	deleted := make(chan error, 1)
	in.Retain(&message.Message{Topic: r.GetTopic(), Retain: true}, func(_ uint64, err error) { deleted <- err })
	if err := answered(ctx, deleted); err != nil {
		return nil, undone(err)
	}
	return &sessionv1.DeleteRetainedResponse{}, nil
}

// answered waits for an answer, within a bound.
func answered(ctx context.Context, answer <-chan error) error {
	ctx, cancel := context.WithTimeout(ctx, operateTimeout)
	defer cancel()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// undone is what a caller is told when something could not be changed, or it is not known whether it was.
func undone(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(err).Err()
	}
	return status.Error(codes.Unavailable, "the store cannot be written")
}
