package session

import (
	"context"
	"errors"
	"math"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/rpc"
	"github.com/beeline-mqtt/beeline/services/session/internal/away"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

const (
	// pageEntries and pageBytes bound a page, whatever is asked for: it has to fit into one gRPC message.
	pageEntries = 10_000
	pageBytes   = 4 << 20
	// pageRetained bounds a page of retained messages.
	pageRetained = 1000
)

// reading is serving, for calls that read what the present term keeps.
func (s *Session) reading(ctx context.Context, roles ...string) (k kept, done func(), err error) {
	t, done, err := s.serving(ctx, roles...)
	if err != nil {
		return nil, nil, err
	}
	return t.kept, done, nil
}

// serving enters a call to the present term; done has to be called at its end, unless there is an error.
func (s *Session) serving(ctx context.Context, roles ...string) (t *term, done func(), err error) {
	if err := rpc.RequireRole(ctx, roles...); err != nil {
		return nil, nil, err
	}
	if t = s.current(); t == nil {
		return nil, nil, s.refusal()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return nil, nil, s.refusal()
	}
	t.users.Add(1)
	return t, t.users.Done, nil
}

// unread is what a caller is told when the store cannot be read.
func unread(err error) error {
	switch {
	case errors.Is(err, store.ErrFenced):
		return rpc.Refuse(rpc.Fenced, "the session is not held at this epoch")
	case errors.Is(err, store.ErrInvalid):
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return status.Error(codes.Unavailable, "the store cannot be read")
}

// ReadInbox implements the service.
func (s *Session) ReadInbox(ctx context.Context, r *sessionv1.ReadInboxRequest) (*sessionv1.ReadInboxResponse, error) {
	from, done, err := s.reading(ctx, "gateway")
	if err != nil {
		return nil, err
	}
	defer done()
	entries, err := from.Inbox(away.Reading{
		Client: r.GetClientId(), Session: journal.SessionID(r.GetSessionId()), Epoch: r.GetEpoch(),
		After:      journal.Position(r.GetAfter()),
		MaxEntries: bounded(r.GetMaxEntries(), pageEntries), MaxBytes: bounded(r.GetMaxBytes(), pageBytes),
	})
	if err != nil {
		return nil, unread(err)
	}
	now := time.Now()
	page := &sessionv1.ReadInboxResponse{Entries: make([]*sessionv1.Entry, len(entries))}
	for i, e := range entries {
		page.Entries[i] = journal.EntryToWire(e, now)
	}
	return page, nil
}

// ReadRetained implements the service.
func (s *Session) ReadRetained(ctx context.Context, r *sessionv1.ReadRetainedRequest) (*sessionv1.ReadRetainedResponse, error) {
	from, done, err := s.reading(ctx, "gateway", "router")
	if err != nil {
		return nil, err
	}
	defer done()
	page, err := from.Retained(r.GetFilter(), r.GetCursor(), bounded(r.GetMaxMessages(), pageRetained))
	if err != nil {
		return nil, unread(err)
	}
	now := time.Now()
	w := &sessionv1.ReadRetainedResponse{Cursor: page.Cursor, Messages: make([]*sessionv1.RetainedMessage, len(page.Messages))}
	for i, m := range page.Messages {
		w.Messages[i] = &sessionv1.RetainedMessage{Message: journal.MessageToWire(m.Message, now), Version: m.Version}
	}
	return w, nil
}

// bounded is what is asked for within a bound; 0 asks for as much as may be.
func bounded(n uint32, most int) int {
	if n == 0 {
		return most
	}
	return min(int(n), most)
}

// InspectSession implements the service.
func (s *Session) InspectSession(ctx context.Context, r *sessionv1.InspectSessionRequest) (*sessionv1.InspectSessionResponse, error) {
	from, done, err := s.reading(ctx, "gateway", "router")
	if err != nil {
		return nil, err
	}
	defer done()
	i, known, err := from.Inspect(r.GetClientId())
	if err != nil {
		return nil, unread(err)
	}
	if !known {
		return nil, status.Error(codes.NotFound, "the client has no durable session")
	}
	w := inspection(i, time.Now())
	if r.GetInboxEntries() == 0 {
		return w, nil
	}
	entries, err := from.Peek(r.GetClientId(), i.Record.Session, min(int(r.GetInboxEntries()), mostPeeked))
	if err != nil {
		return nil, unread(err)
	}
	w.Inbox = peeked(entries)
	return w, nil
}

func inspection(i away.Inspection, now time.Time) *sessionv1.InspectSessionResponse {
	w := &sessionv1.InspectSessionResponse{
		SessionId: uint64(i.Record.Session), Holder: i.Record.Holder, Epoch: i.Record.Epoch,
		SessionExpirySeconds: i.Record.Expiry,
		InboxMessages:        i.Stats.Messages, InboxBytes: i.Stats.Bytes,
		Groups: i.Groups, InboxDropped: i.Stats.Dropped, LastDropReason: i.Stats.LastDropReason.String(),
	}
	for _, sub := range i.Subscriptions {
		w.Subscriptions = append(w.Subscriptions, journal.SubscriptionToWire(sub))
	}
	if !i.Stats.Oldest.IsZero() {
		w.InboxOldestMs = milliseconds(now.Sub(i.Stats.Oldest))
	}
	if i.Record.Holder == "" && i.Record.Expiry != journal.Never {
		left := milliseconds(i.Record.Away.Add(time.Duration(i.Record.Expiry) * time.Second).Sub(now))
		w.ExpiresInMs = &left
	}
	return w
}

// milliseconds of a duration, 0 if it is negative.
func milliseconds(d time.Duration) uint64 {
	return uint64(min(max(d.Milliseconds(), 0), math.MaxInt64))
}
