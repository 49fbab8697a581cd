package lease

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"

	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/rpc"
)

// maxReceived bounds what one message of the session service may have. The largest is a session's state: 10,000
// subscriptions with filters of 1 KiB and 65,535 messages of the client's that were taken are 14 MiB, which is close to
// what services have in common as their limit.
const maxReceived = 64 << 20

// callOptions of all calls to the session service.
func callOptions() []grpc.CallOption {
	return []grpc.CallOption{grpc.MaxCallRecvMsgSize(maxReceived), grpc.MaxCallSendMsgSize(maxReceived)}
}

// ReadInbox reads a page of the inbox of a session that is held here at this epoch: entries behind the position
// after, in the order of their positions; none when there is nothing behind it. It has at most maxEntries, and about
// maxBytes, but one entry at least if there is one. ErrFenced says that the session has ended or has a newer holder,
// ErrUnavailable that there is no answer now.
func (k *Keeper) ReadInbox(
	ctx context.Context, clientID string, session journal.SessionID, epoch uint64, after journal.Position, maxEntries, maxBytes uint32,
) ([]journal.Entry, error) {
	c, err := k.active()
	if err != nil {
		return nil, fmt.Errorf("read inbox: %w", err)
	}
	page, err := c.ReadInbox(ctx, &sessionv1.ReadInboxRequest{
		ClientId: clientID, SessionId: uint64(session), Epoch: epoch, After: uint64(after),
		MaxEntries: maxEntries, MaxBytes: maxBytes,
	}, callOptions()...)
	if err != nil {
		return nil, fmt.Errorf("read inbox: %w", refusal(err))
	}
	now := time.Now()
	entries := make([]journal.Entry, len(page.GetEntries()))
	for i, w := range page.GetEntries() {
		e, err := journal.EntryFromWire(w, now)
		if err == nil && e.Position <= after {
			err = errors.New("position: out of order")
		}
		if err != nil {
			return nil, fmt.Errorf("read inbox: %w: entries[%d]: %w", ErrUnavailable, i, err)
		}
		entries[i], after = e, e.Position
	}
	return entries, nil
}

// Retained is a retained message. Its version tells a newer one of the same topic from an older one.
type Retained struct {
	Message *message.Message
	Version uint64
}

// ReadRetained reads a page of the retained messages that match a filter, which has no $share. The first page has no
// cursor, the others that which came with the page before; no next cursor: it was the last. A page may be empty.
// ErrUnavailable says that there is no answer now.
func (k *Keeper) ReadRetained(ctx context.Context, filter string, cursor []byte, most uint32) (page []Retained, next []byte, err error) {
	c, err := k.active()
	if err != nil {
		return nil, nil, fmt.Errorf("read retained messages: %w", err)
	}
	got, err := c.ReadRetained(ctx, &sessionv1.ReadRetainedRequest{Filter: filter, Cursor: cursor, MaxMessages: most}, callOptions()...)
	if err != nil {
		return nil, nil, fmt.Errorf("read retained messages: %w", refusal(err))
	}
	now := time.Now()
	page = make([]Retained, len(got.GetMessages()))
	for i, w := range got.GetMessages() {
		m, err := journal.MessageFromWire(w.GetMessage(), now)
		if err != nil {
			return nil, nil, fmt.Errorf("read retained messages: %w: messages[%d]: %w", ErrUnavailable, i, err)
		}
		page[i] = Retained{Message: m, Version: w.GetVersion()}
	}
	if len(got.GetCursor()) > 0 {
		next = got.GetCursor()
	}
	return page, next, nil
}

func (k *Keeper) active() (sessionv1.SessionServiceClient, error) {
	_, conn, _ := k.deps.Sessions.Active()
	if conn == nil {
		return nil, ErrUnavailable
	}
	return sessionv1.NewSessionServiceClient(conn), nil
}

// refusal says in this package's words why a call came back with err.
func refusal(err error) error {
	if rpc.ReasonOf(err) == rpc.Fenced {
		return fmt.Errorf("%w: %w", ErrFenced, err)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}
