package administration

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	tracev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/trace/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/rpc"
	"github.com/beeline-mqtt/beeline/services/router/internal/fleet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ships is a fleet of fakes.
type ships struct {
	t        *testing.T
	gateways []fleet.Gateway
	session  fleet.Gateway
	leases   map[string]cluster.Lease
	lookUp   error
}

func (f *ships) Gateways() (all []cluster.Member) {
	for _, g := range f.gateways {
		all = append(all, g.Member)
	}
	return all
}

func (f *ships) Gateway(id string) (fleet.Gateway, error) {
	for _, g := range f.gateways {
		if g.ID == id {
			return g, nil
		}
	}
	return fleet.Gateway{}, fleet.ErrNoGateway
}

func (f *ships) Session() (cluster.Member, grpc.ClientConnInterface, error) {
	if f.session.Conn == nil {
		return cluster.Member{}, nil, fleet.ErrNoSession
	}
	return f.session.Member, f.session.Conn, nil
}

func (f *ships) LookUp(_ context.Context, ids []string) (map[string]cluster.Lease, error) {
	if f.lookUp != nil {
		return nil, f.lookUp
	}
	leases := make(map[string]cluster.Lease)
	for _, id := range ids {
		if l, ok := f.leases[id]; ok {
			leases[id] = l
		}
	}
	return leases, nil
}

// serve runs a fake until the test ends.
func (f *ships) serve(id string, register func(*grpc.Server)) fleet.Gateway {
	f.t.Helper()
	s := grpc.NewServer()
	register(s)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { defer close(served); _ = s.Serve(l) }()
	c, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = c.Close(); s.Stop(); <-served })
	return fleet.Gateway{Member: cluster.Member{ID: id}, Conn: c}
}

// gateway is a fake of one; silent ones answer when the test ends.
type gateway struct {
	gatewayv1.UnimplementedInspectServiceServer
	tracev1.UnimplementedTraceServiceServer

	id     string
	silent bool
	asked  atomic.Int32
	steps  chan *tracev1.Step
}

func (f *ships) gateway(g *gateway) {
	f.t.Helper()
	f.gateways = append(f.gateways, f.serve(g.id, func(s *grpc.Server) {
		gatewayv1.RegisterInspectServiceServer(s, g)
		tracev1.RegisterTraceServiceServer(s, g)
	}))
}

func (g *gateway) wait(ctx context.Context) error {
	g.asked.Add(1)
	if g.silent {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func (g *gateway) ListClients(ctx context.Context, _ *gatewayv1.ListClientsRequest) (*gatewayv1.ListClientsResponse, error) {
	return &gatewayv1.ListClientsResponse{Clients: []*adminv1.ClientSummary{{ClientId: "at " + g.id}}}, g.wait(ctx)
}

func (g *gateway) Match(ctx context.Context, _ *gatewayv1.MatchRequest) (*gatewayv1.MatchResponse, error) {
	return &gatewayv1.MatchResponse{Receivers: []*adminv1.TopicReceiver{{ClientId: "at " + g.id}}, ReceiversTotal: 1}, g.wait(ctx)
}

func (g *gateway) Disconnect(context.Context, *gatewayv1.DisconnectRequest) (*gatewayv1.DisconnectResponse, error) {
	g.asked.Add(1)
	return nil, status.Error(codes.NotFound, "not here")
}

func (g *gateway) Follow(_ *tracev1.FollowRequest, s grpc.ServerStreamingServer[tracev1.FollowResponse]) error {
	if err := g.wait(s.Context()); err != nil {
		return err
	}
	if err := s.Send(&tracev1.FollowResponse{Incarnation: g.id}); err != nil {
		return err
	}
	for {
		select {
		case <-s.Context().Done():
			return s.Context().Err()
		case x := <-g.steps:
			if x == nil {
				return status.Error(codes.Unavailable, "stopping")
			}
			if err := s.Send(&tracev1.FollowResponse{Incarnation: g.id, Steps: []*tracev1.Step{x}}); err != nil {
				return err
			}
		}
	}
}

// session is a fake of the session service.
type session struct {
	sessionv1.UnimplementedSessionServiceServer
	tracev1.UnimplementedTraceServiceServer

	remove []error // what RemoveSession answers, one after the other
}

func (*session) ListSessions(context.Context, *sessionv1.ListSessionsRequest) (*sessionv1.ListSessionsResponse, error) {
	return &sessionv1.ListSessionsResponse{Clients: []*adminv1.ClientSummary{{ClientId: "away"}}}, nil
}

func (*session) MatchSessions(context.Context, *sessionv1.MatchSessionsRequest) (*sessionv1.MatchSessionsResponse, error) {
	return &sessionv1.MatchSessionsResponse{}, nil
}

func (*session) InspectSession(context.Context, *sessionv1.InspectSessionRequest) (*sessionv1.InspectSessionResponse, error) {
	return &sessionv1.InspectSessionResponse{SessionId: 1}, nil
}

// ReadRetained has messages that are so large that three of them are too many for an answer.
func (*session) ReadRetained(_ context.Context, r *sessionv1.ReadRetainedRequest) (*sessionv1.ReadRetainedResponse, error) {
	if r.GetMaxMessages() > 2 {
		return nil, status.Error(codes.ResourceExhausted, "message larger than max")
	}
	w := &sessionv1.ReadRetainedResponse{Cursor: []byte{0xFF}}
	for range r.GetMaxMessages() {
		w.Messages = append(w.Messages, &sessionv1.RetainedMessage{Message: &messagev1.Message{Topic: "a", Payload: []byte("large")}})
	}
	return w, nil
}

func (s *session) RemoveSession(context.Context, *sessionv1.RemoveSessionRequest) (*sessionv1.RemoveSessionResponse, error) {
	err := s.remove[0]
	s.remove = s.remove[1:]
	return &sessionv1.RemoveSessionResponse{}, err
}

func (f *ships) keeper(s *session) {
	f.session = f.serve("s", func(server *grpc.Server) { sessionv1.RegisterSessionServiceServer(server, s) })
}

// service is one that does not wait for long.
func (f *ships) service() *Service {
	s := New(Deps{Fleet: f, LookUp: f.LookUp})
	s.answerTimeout = 300 * time.Millisecond
	return s
}

func TestWhoDoesNotAnswerIsNamed(t *testing.T) {
	f := &ships{t: t}
	f.gateway(&gateway{id: "g1"})
	f.gateway(&gateway{id: "g2", silent: true})
	f.keeper(new(session))
	r, err := f.service().ListClients(t.Context(), &adminv1.ListClientsRequest{})
	if err != nil || len(r.GetClients()) != 2 || len(r.GetTroubles()) != 1 || !strings.HasPrefix(r.GetTroubles()[0], "gateway g2: no answer in time") {
		t.Errorf("ListClients: %v, %v, want those of g1 and s, and g2 among the troubles", r, err)
	}
	f.session = fleet.Gateway{}
	e, err := f.service().ExplainTopic(t.Context(), &adminv1.ExplainTopicRequest{Topic: "a"})
	if err != nil || len(e.GetReceivers()) != 1 || len(e.GetTroubles()) != 2 || !strings.HasPrefix(e.GetTroubles()[1], "session service: no session instance is active") {
		t.Errorf("ExplainTopic: %v, %v, want the receiver of g1, and g2 and the session service among the troubles", e, err)
	}
}

func TestWithoutAnyAnswerACallIsUnavailable(t *testing.T) {
	f := &ships{t: t}
	f.gateway(&gateway{id: "g1", silent: true})
	s := f.service()
	for name, err := range map[string]error{
		"ListClients":   code(s.ListClients(t.Context(), &adminv1.ListClientsRequest{})),
		"ExplainTopic":  code(s.ExplainTopic(t.Context(), &adminv1.ExplainTopicRequest{Topic: "a"})),
		"ListRetained":  code(s.ListRetained(t.Context(), &adminv1.ListRetainedRequest{})),
		"GetClient":     code(s.GetClient(t.Context(), &adminv1.GetClientRequest{ClientId: "a"})),
		"RemoveSession": code(s.RemoveSession(t.Context(), &adminv1.RemoveSessionRequest{ClientId: "a"})),
	} {
		if status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %v, want UNAVAILABLE", name, err)
		}
	}
	f.lookUp = errors.New("no etcd")
	if _, err := s.DisconnectClient(t.Context(), &adminv1.DisconnectClientRequest{ClientId: "a"}); status.Code(err) != codes.Unavailable {
		t.Errorf("while leases cannot be read: %v, want UNAVAILABLE", err)
	}
}

func code[T any](_ T, err error) error { return err }

func TestAClientThatIsNotWhereItsLeaseSaysIsLookedForOnceMore(t *testing.T) {
	f := &ships{t: t, leases: map[string]cluster.Lease{"a": {Holder: "g1", Epoch: 7}}}
	g := &gateway{id: "g1"}
	f.gateway(g)
	if _, err := f.service().DisconnectClient(t.Context(), &adminv1.DisconnectClientRequest{ClientId: "a"}); status.Code(err) != codes.NotFound {
		t.Errorf("%v, want NOT_FOUND", err)
	}
	if n := g.asked.Load(); n != 2 {
		t.Errorf("the gateway was asked %d times, want twice", n)
	}
}

func TestASessionThatComesBackWhileItIsRemovedIsTriedAgain(t *testing.T) {
	f := &ships{t: t}
	f.keeper(&session{remove: []error{rpc.Refuse(rpc.Held, "held"), nil}})
	if _, err := f.service().RemoveSession(t.Context(), &adminv1.RemoveSessionRequest{ClientId: "a"}); err != nil {
		t.Error(err)
	}
}

func TestRetainedMessagesThatAreTooLargeForAPageComeInSmallerOnes(t *testing.T) {
	f := &ships{t: t}
	f.keeper(new(session))
	r, err := f.service().ListRetained(t.Context(), &adminv1.ListRetainedRequest{PageSize: 11})
	if err != nil || len(r.GetMessages()) != 2 || r.GetNextPageToken() == "" {
		t.Fatalf("%v, %v, want two messages and a token", r, err)
	}
	if m := r.GetMessages()[0]; m.GetPayloadBytes() != 5 || m.GetPayload() != nil {
		t.Errorf("message %v, want the size of its payload, but not the payload", m)
	}
}

func TestProcessesOfAnOlderVersionAreUnavailable(t *testing.T) {
	f := &ships{t: t}
	f.session = f.serve("s", func(*grpc.Server) {})
	if _, err := f.service().GetClient(t.Context(), &adminv1.GetClientRequest{ClientId: "a"}); status.Code(err) != codes.Unavailable {
		t.Errorf("%v, want UNAVAILABLE", err)
	}
}

// traced has a trace served, and returns it with its header read.
func traced(t *testing.T, s *Service) grpc.ServerStreamingClient[adminv1.TraceResponse] {
	t.Helper()
	f := &ships{t: t}
	conn := f.serve("router", func(server *grpc.Server) { adminv1.RegisterAdminServiceServer(server, s) }).Conn
	stream, err := adminv1.NewAdminServiceClient(conn).Trace(t.Context(), &adminv1.TraceRequest{Filter: "#"})
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func TestATraceNamesWhomItCannotFollow(t *testing.T) {
	f := &ships{t: t}
	steps := make(chan *tracev1.Step)
	f.gateway(&gateway{id: "g1", steps: steps})
	f.gateway(&gateway{id: "g2", silent: true})
	s := f.service()
	stream := traced(t, s)
	seen := make(map[string]string)
	for len(seen) < 2 {
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		seen[r.GetIncarnation()] = r.GetTrouble()
	}
	if !strings.Contains(seen["g2"], "gateway g2") || !strings.Contains(seen[""], "no session instance is active") {
		t.Errorf("troubles %v, want those of g2 and of the session service", seen)
	}
	steps <- &tracev1.Step{Topic: "a"}
	if r, err := stream.Recv(); err != nil || r.GetTopic() != "a" || r.GetIncarnation() != "g1" {
		t.Errorf("step %v, %v, want that of g1", r, err)
	}
	steps <- nil // it stops
	if r, err := stream.Recv(); err != nil || !strings.Contains(r.GetTrouble(), "gateway g1: stopping") {
		t.Errorf("step %v, %v, want that g1 is not followed any more", r, err)
	}
	steps <- &tracev1.Step{Topic: "b"} // it is back
	if r, err := stream.Recv(); err != nil || r.GetTopic() != "b" {
		t.Errorf("step %v, %v, want one of g1 again", r, err)
	}
	s.Close()
	for {
		if _, err := stream.Recv(); err != nil {
			if status.Code(err) != codes.Unavailable {
				t.Errorf("at the end: %v, want UNAVAILABLE", err)
			}
			return
		}
	}
}
