package beeline

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

func TestCallsSayWhatTheyAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, c := start(t)
		var asked any
		f.unary = func(r any) (any, error) {
			asked = r
			switch r.(type) {
			case *messagingv1.PublishRequest:
				return &messagingv1.PublishResponse{Matched: true}, nil
			case *messagingv1.SendRequest:
				return &messagingv1.SendResponse{}, nil
			}
			return &messagingv1.CommandResponse{RoundTripUs: 7}, nil
		}
		if matched, err := c.Publish(t.Context(), message("a")); !matched || err != nil {
			t.Errorf("publish: %v, %v", matched, err)
		}
		for _, to := range []*messagingv1.Receiver{ToClient("x"), ToUser("x"), ToGroup("x")} {
			o := SendOptions{Wait: messagingv1.Wait_WAIT_ACKNOWLEDGED, Timeout: 1500 * time.Microsecond, SummaryOnly: true}
			_, err := c.Send(t.Context(), to, message("a"), o)
			r := asked.(*messagingv1.SendRequest)
			if err != nil || r.GetTimeoutMs() != 2 || !r.GetSummaryOnly() || r.GetWait() != o.Wait || r.GetReceiver().String() != to.String() {
				t.Errorf("send %v: asked for %v, %v", to, r, err)
			}
		}
		r, err := c.Command(t.Context(), "d", message("a"), CommandOptions{Timeout: time.Second, ReplyTopic: "r"})
		if a := asked.(*messagingv1.CommandRequest); err != nil || r.GetRoundTripUs() != 7 || a.GetTimeoutMs() != 1000 || a.GetReplyTopic() != "r" || a.GetClientId() != "d" {
			t.Errorf("command: %v, %v", r, err)
		}
		f.unary = func(any) (any, error) { return nil, status.Error(codes.NotFound, "not there") }
		_, err1 := c.Publish(t.Context(), message("a"))
		_, err2 := c.Send(t.Context(), ToUser("x"), message("a"), SendOptions{})
		_, err3 := c.Command(t.Context(), "d", message("a"), CommandOptions{})
		for _, err := range []error{err1, err2, err3} {
			if status.Code(err) != codes.NotFound {
				t.Errorf("the code is lost: %v", err)
			}
		}
	})
}

func TestPresenceGoesOnBehindTheLastEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, c := start(t)
		ctx, cancel := context.WithCancel(t.Context())
		var cursors []string
		script := func(end error, answers ...string) {
			f.presence <- func(r *messagingv1.WatchPresenceRequest, s presenceServer) error {
				cursors = append(cursors, r.GetClientIdPrefix()+r.GetCursor())
				for _, cursor := range answers {
					if err := s.Send(&messagingv1.WatchPresenceResponse{Cursor: cursor}); err != nil {
						return err
					}
				}
				if end == nil {
					<-s.Context().Done()
				}
				return end
			}
		}
		script(status.Error(codes.Unavailable, "by order of the test"), "1", "2")
		script(status.Error(codes.ResourceExhausted, "slow"))
		script(nil, "3")
		var seen []string
		err := c.WatchPresence(ctx, PresenceOptions{ClientIDPrefix: "p-"}, func(_ []*messagingv1.PresenceEvent, cursor string) error {
			if seen = append(seen, cursor); cursor == "3" {
				cancel()
			}
			return nil
		})
		if err != nil || !slices.Equal(cursors, []string{"p-", "p-2", "p-2"}) || !slices.Equal(seen, []string{"1", "2", "3"}) {
			t.Errorf("%v: asked %v, saw %v", err, cursors, seen)
		}
		script(status.Error(codes.OutOfRange, "gone"))
		if err := c.WatchPresence(t.Context(), PresenceOptions{Cursor: "0"}, nil); !errors.Is(err, ErrMissedEvents) {
			t.Errorf("events that are gone: %v", err)
		}
		script(status.Error(codes.PermissionDenied, "no"))
		if err := c.WatchPresence(t.Context(), PresenceOptions{}, nil); status.Code(err) != codes.PermissionDenied {
			t.Errorf("not allowed: %v", err)
		}
		script(nil, "1")
		bad := errors.New("by order of the test")
		if err := c.WatchPresence(t.Context(), PresenceOptions{}, func([]*messagingv1.PresenceEvent, string) error { return bad }); !errors.Is(err, bad) {
			t.Errorf("the handler's error: %v", err)
		}
	})
}

// groups counts calls, and is not there at first.
type groups struct {
	messagingv1.UnimplementedGroupServiceServer

	lists, adds   int
	authorization []string
}

func (g *groups) ListGroups(ctx context.Context, _ *messagingv1.ListGroupsRequest) (*messagingv1.ListGroupsResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	g.authorization = md.Get("authorization")
	if g.lists++; g.lists == 1 {
		return nil, status.Error(codes.Unavailable, "by order of the test")
	}
	return &messagingv1.ListGroupsResponse{}, nil
}

func (g *groups) AddMembers(context.Context, *messagingv1.AddMembersRequest) (*messagingv1.AddMembersResponse, error) {
	g.adds++
	return nil, status.Error(codes.Unavailable, "by order of the test")
}

func TestDialWaitsForTheRouterShowsTheTokenAndRepeatsReads(t *testing.T) {
	g := &groups{}
	server := grpc.NewServer()
	messagingv1.RegisterGroupServiceServer(server, g)
	healthv1.RegisterHealthServer(server, health.NewServer())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	attempts := 0
	dial := func(ctx context.Context, address string) (net.Conn, error) {
		if attempts++; attempts == 1 {
			return nil, errors.New("by order of the test")
		}
		if attempts == 2 {
			go func() { served <- server.Serve(l) }()
		}
		return (&net.Dialer{}).DialContext(ctx, "tcp", address)
	}
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Dial(t.Context(), l.Addr().String(), Options{
		TokenFile: token, Insecure: true, DialOptions: []grpc.DialOption{grpc.WithContextDialer(dial)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Groups().ListGroups(t.Context(), &messagingv1.ListGroupsRequest{}); err != nil || g.lists != 2 {
		t.Errorf("list: %v after %d attempts", err, g.lists)
	}
	if !slices.Equal(g.authorization, []string{"Bearer secret"}) {
		t.Errorf("authorization: %q", g.authorization)
	}
	if _, err := c.Groups().AddMembers(t.Context(), &messagingv1.AddMembersRequest{}); status.Code(err) != codes.Unavailable || g.adds != 1 {
		t.Errorf("add: %v after %d attempts", err, g.adds)
	}
	for _, call := range []func() error{
		func() error { _, err := c.Admin().ListClients(t.Context(), &adminv1.ListClientsRequest{}); return err },
		func() error {
			_, err := c.Gateways().ListGateways(t.Context(), &adminv1.ListGatewaysRequest{})
			return err
		},
		func() error {
			_, err := c.Placement().ListClusters(t.Context(), &adminv1.ListClustersRequest{})
			return err
		},
		func() error { _, err := c.Messaging().Publish(t.Context(), &messagingv1.PublishRequest{}); return err },
	} {
		if err := call(); status.Code(err) != codes.Unimplemented {
			t.Errorf("the fake has no such service: %v", err)
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	server.Stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestDialSaysWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refuse := grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, errors.New("by order of the test") })
	for _, tt := range []struct {
		name, want string
		o          Options
	}{
		{"no authority", "CAFile: open", Options{CAFile: filepath.Join(dir, "none")}},
		{"an empty one", "CAFile: no certificate", Options{CAFile: empty}},
		{"no certificate", "CertFile and KeyFile", Options{CertFile: empty, KeyFile: empty}},
		{"two tokens", "one of them is enough", Options{Token: "a", TokenFile: empty}},
		{"a token that is gone", "TokenFile", Options{TokenFile: filepath.Join(dir, "none"), Insecure: true}},
		{"nobody there", "by order of the test", Options{Insecure: true}},
		{"nobody there at once", "code = Unavailable", Options{Insecure: true, FailFast: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			tt.o.DialOptions = []grpc.DialOption{refuse}
			if _, err := Dial(ctx, "passthrough:///nowhere", tt.o); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q in it", err, tt.want)
			}
		})
	}
}
