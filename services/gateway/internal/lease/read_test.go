package lease

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/rpc"
)

func wireEntry(at journal.Position, bytes int) *sessionv1.Entry {
	return journal.EntryToWire(journal.Entry{Position: at, Message: sized(bytes), QoS: 1}, time.Now())
}

func TestAPageOfAnInboxIsRead(t *testing.T) {
	s := newStage(t, nil)
	v := s.become()
	s.attach()
	asked := make(chan *sessionv1.ReadInboxRequest, 1)
	v.inbox = func(r *sessionv1.ReadInboxRequest) (*sessionv1.ReadInboxResponse, error) {
		asked <- r
		// More than gRPC takes unless it is told to.
		return &sessionv1.ReadInboxResponse{Entries: []*sessionv1.Entry{wireEntry(8, 1), wireEntry(11, 20<<20)}}, nil
	}
	got, err := s.keeper.ReadInbox(t.Context(), "x", 3, 5, 7, 100, 1000)
	if err != nil {
		t.Fatal(err)
	}
	want := &sessionv1.ReadInboxRequest{ClientId: "x", SessionId: 3, Epoch: 5, After: 7, MaxEntries: 100, MaxBytes: 1000}
	if d := cmp.Diff(want, <-asked, protocmp.Transform()); d != "" {
		t.Error(d)
	}
	if len(got) != 2 || got[0].Position != 8 || got[1].Position != 11 || len(got[1].Message.Payload) != 20<<20 {
		t.Errorf("%d entries", len(got))
	}
	v.inbox = func(*sessionv1.ReadInboxRequest) (*sessionv1.ReadInboxResponse, error) {
		return &sessionv1.ReadInboxResponse{}, nil
	}
	if got, err := s.keeper.ReadInbox(t.Context(), "x", 3, 5, 11, 100, 1000); len(got) != 0 || err != nil {
		t.Errorf("%d entries, %v behind the last", len(got), err)
	}
}

func TestAPageThatIsNotReadSaysWhy(t *testing.T) {
	s := newStage(t, nil)
	if _, err := s.keeper.ReadInbox(t.Context(), "x", 3, 5, 0, 1, 1); !errors.Is(err, ErrUnavailable) {
		t.Errorf("without a session service: %v", err)
	}
	if _, _, err := s.keeper.ReadRetained(t.Context(), "#", nil, 1); !errors.Is(err, ErrUnavailable) {
		t.Errorf("without a session service: %v", err)
	}
	v := s.become()
	s.attach()
	for _, tt := range []struct {
		name         string
		err          error
		want, wanted error
	}{
		{name: "a newer holder", err: rpc.Refuse(rpc.Fenced, "held by another"), want: ErrFenced, wanted: ErrUnavailable},
		{name: "another instance is active", err: rpc.Refuse(rpc.NotActive, "not active"), want: ErrUnavailable, wanted: ErrFenced},
		{name: "a word that we do not know", err: status.Error(codes.FailedPrecondition, ""), want: ErrUnavailable, wanted: ErrFenced},
		{name: "the store is away", err: status.Error(codes.Unavailable, ""), want: ErrUnavailable, wanted: ErrFenced},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v.inbox = func(*sessionv1.ReadInboxRequest) (*sessionv1.ReadInboxResponse, error) { return nil, tt.err }
			v.retained = func(*sessionv1.ReadRetainedRequest) (*sessionv1.ReadRetainedResponse, error) { return nil, tt.err }
			_, err := s.keeper.ReadInbox(t.Context(), "x", 3, 5, 0, 1, 1)
			if !errors.Is(err, tt.want) || errors.Is(err, tt.wanted) {
				t.Errorf("inbox: %v", err)
			}
			if _, _, err = s.keeper.ReadRetained(t.Context(), "#", nil, 1); !errors.Is(err, tt.want) {
				t.Errorf("retained: %v", err)
			}
		})
	}
	t.Run("the caller has gone", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.keeper.ReadInbox(ctx, "x", 3, 5, 0, 1, 1); !errors.Is(err, ErrUnavailable) {
			t.Error(err)
		}
	})
}

func TestAPageThatCannotBeIsNotTaken(t *testing.T) {
	s := newStage(t, nil)
	v := s.become()
	s.attach()
	for name, page := range map[string][]*sessionv1.Entry{
		"not behind":   {wireEntry(7, 1)},
		"out of order": {wireEntry(9, 1), wireEntry(8, 1)},
		"twice":        {wireEntry(9, 1), wireEntry(9, 1)},
		"unreadable":   {wireEntry(8, 1), {}},
	} {
		t.Run(name, func(t *testing.T) {
			v.inbox = func(*sessionv1.ReadInboxRequest) (*sessionv1.ReadInboxResponse, error) {
				return &sessionv1.ReadInboxResponse{Entries: page}, nil
			}
			if got, err := s.keeper.ReadInbox(t.Context(), "x", 3, 5, 7, 10, 1); !errors.Is(err, ErrUnavailable) || got != nil {
				t.Errorf("read %v, %v", got, err)
			}
		})
	}
}

func TestRetainedMessagesAreReadPageByPage(t *testing.T) {
	s := newStage(t, nil)
	v := s.become()
	s.attach()
	kept := func(version uint64) *sessionv1.RetainedMessage {
		return &sessionv1.RetainedMessage{Message: journal.MessageToWire(sized(2), time.Now()), Version: version}
	}
	pages := map[string]*sessionv1.ReadRetainedResponse{
		"":  {Messages: []*sessionv1.RetainedMessage{kept(4), kept(2)}, Cursor: []byte("b")},
		"b": {Cursor: []byte("c")}, // nothing there, but something follows
		"c": {Messages: []*sessionv1.RetainedMessage{kept(9)}},
	}
	v.retained = func(r *sessionv1.ReadRetainedRequest) (*sessionv1.ReadRetainedResponse, error) {
		if r.GetFilter() != "a/#" || r.GetMaxMessages() != 2 {
			t.Errorf("asked %v", r)
		}
		return pages[string(r.GetCursor())], nil
	}
	var versions []uint64
	var cursor []byte
	for n := range len(pages) {
		page, next, err := s.keeper.ReadRetained(t.Context(), "a/#", cursor, 2)
		if err != nil || (next == nil) != (n == len(pages)-1) {
			t.Fatalf("page %d: next %q, %v", n, next, err)
		}
		for _, one := range page {
			if one.Message.Topic != "a/b" || len(one.Message.Payload) != 2 {
				t.Errorf("read %+v", one.Message)
			}
			versions = append(versions, one.Version)
		}
		cursor = next
	}
	if d := cmp.Diff([]uint64{4, 2, 9}, versions); d != "" {
		t.Error(d)
	}
	pages[""].Messages[1].Message.ExpiresInMs = proto.Uint64(1 << 60)
	if page, _, err := s.keeper.ReadRetained(t.Context(), "a/#", nil, 2); !errors.Is(err, ErrUnavailable) || page != nil {
		t.Errorf("read %v, %v", page, err)
	}
}
