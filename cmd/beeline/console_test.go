package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

// console is a router whose answers are made up.
type console struct {
	messagingv1.UnimplementedMessagingServiceServer
	messagingv1.UnimplementedGroupServiceServer
	adminv1.UnimplementedAdminServiceServer

	address string

	mu    sync.Mutex
	asked []string // the requests, in the form of protobuf's text
}

func startConsole(t *testing.T) *console {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &console{address: l.Addr().String()}
	s := grpc.NewServer()
	messagingv1.RegisterMessagingServiceServer(s, c)
	messagingv1.RegisterGroupServiceServer(s, c)
	adminv1.RegisterAdminServiceServer(s, c)
	healthv1.RegisterHealthServer(s, health.NewServer())
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return c
}

// run runs a command against the console.
func (c *console) run(t *testing.T, in string, args ...string) *process {
	t.Helper()
	return begin(t, strings.NewReader(in), append(args, "--router", c.address, "--insecure")...)
}

func (c *console) note(r proto.Message) {
	line, err := jsonLine(r)
	if err != nil {
		panic(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, string(line))
}

// was returns what was asked since it was called last.
func (c *console) was() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := strings.Join(c.asked, "\n")
	c.asked = nil
	return all
}

func (c *console) Publish(_ context.Context, r *messagingv1.PublishRequest) (*messagingv1.PublishResponse, error) {
	c.note(r)
	return &messagingv1.PublishResponse{}, nil
}

func (c *console) PublishStream(s grpc.BidiStreamingServer[messagingv1.PublishStreamRequest, messagingv1.PublishStreamResponse]) error {
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		a := &messagingv1.PublishStreamResponse{}
		for _, m := range r.GetMessages() {
			c.note(m)
			x := &messagingv1.PublishResult{}
			if string(m.GetPayload()) == "bad" {
				x.ReasonCode, x.Reason = 151, "too much"
			}
			a.Results = append(a.Results, x)
		}
		if err := s.Send(a); err != nil {
			return err
		}
	}
}

func (c *console) Send(_ context.Context, r *messagingv1.SendRequest) (*messagingv1.SendResponse, error) {
	c.note(r)
	switch r.GetReceiver().GetClientId() {
	case "gone":
		return &messagingv1.SendResponse{
			Receipts: []*messagingv1.Receipt{{ClientId: "gone", Outcome: messagingv1.Outcome_OUTCOME_TIMED_OUT, Holder: "g1", Epoch: 7, Reason: "slow"}},
			Counts:   []*messagingv1.OutcomeCount{{Outcome: messagingv1.Outcome_OUTCOME_TIMED_OUT, Receivers: 1}},
		}, nil
	case "":
		return &messagingv1.SendResponse{Counts: []*messagingv1.OutcomeCount{
			{Outcome: messagingv1.Outcome_OUTCOME_DELIVERED, Receivers: 3}, {Outcome: messagingv1.Outcome_OUTCOME_QUEUED, Receivers: 2},
		}}, nil
	}
	return &messagingv1.SendResponse{}, nil
}

func (c *console) Command(_ context.Context, r *messagingv1.CommandRequest) (*messagingv1.CommandResponse, error) {
	c.note(r)
	if r.GetClientId() == "away" {
		return nil, status.Error(codes.FailedPrecondition, `client "away" is away`)
	}
	return &messagingv1.CommandResponse{Message: &messagingv1.Message{Topic: "answer", Payload: []byte("done")}, RoundTripUs: 900}, nil
}

func (c *console) Subscribe(s grpc.BidiStreamingServer[messagingv1.SubscribeRequest, messagingv1.SubscribeResponse]) error {
	r, err := s.Recv()
	if err != nil {
		return err
	}
	c.note(r)
	o := &messagingv1.SubscribeResponse_Opened{Resumed: r.GetOpen().GetDurableName() != ""}
	if err := s.Send(&messagingv1.SubscribeResponse{Response: &messagingv1.SubscribeResponse_Opened_{Opened: o}}); err != nil {
		return err
	}
	all := &messagingv1.SubscribeResponse_Messages{}
	for id := range uint64(3) {
		all.Messages = append(all.Messages, &messagingv1.ReceivedMessage{
			DeliveryId: id, Publisher: "ann", Message: &messagingv1.Message{Topic: "t", Payload: fmt.Appendf(nil, "m%d", id)},
		})
	}
	if err := s.Send(&messagingv1.SubscribeResponse{Response: &messagingv1.SubscribeResponse_Messages_{Messages: all}}); err != nil {
		return err
	}
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		c.note(r)
	}
}

// noon is when everything happens.
func noon() *timestamppb.Timestamp { return &timestamppb.Timestamp{Seconds: 43200} }

func (c *console) WatchPresence(r *messagingv1.WatchPresenceRequest, s grpc.ServerStreamingServer[messagingv1.WatchPresenceResponse]) error {
	c.note(r)
	if r.GetCursor() == "old" {
		return status.Error(codes.OutOfRange, "not kept")
	}
	e := &messagingv1.PresenceEvent{Kind: messagingv1.PresenceEvent_KIND_DISCONNECTED, ClientId: "ann", Gateway: "g1", Epoch: 7, Time: noon(), Reason: "keepalive"}
	if err := s.Send(&messagingv1.WatchPresenceResponse{Events: []*messagingv1.PresenceEvent{e}, Cursor: "c1"}); err != nil {
		return err
	}
	<-s.Context().Done()
	return nil
}

func (c *console) ListGroups(_ context.Context, r *messagingv1.ListGroupsRequest) (*messagingv1.ListGroupsResponse, error) {
	c.note(r)
	if r.GetPageToken() == "" {
		return &messagingv1.ListGroupsResponse{Groups: []*messagingv1.Group{{Name: "a", Members: 2}}, NextPageToken: "more"}, nil
	}
	return &messagingv1.ListGroupsResponse{Groups: []*messagingv1.Group{{Name: "b"}}}, nil
}

func (c *console) CreateGroup(_ context.Context, r *messagingv1.CreateGroupRequest) (*messagingv1.CreateGroupResponse, error) {
	c.note(r)
	return &messagingv1.CreateGroupResponse{}, nil
}

func (c *console) DeleteGroup(_ context.Context, r *messagingv1.DeleteGroupRequest) (*messagingv1.DeleteGroupResponse, error) {
	c.note(r)
	return nil, status.Errorf(codes.NotFound, "group %q is not there", r.GetName())
}

func (c *console) AddMembers(_ context.Context, r *messagingv1.AddMembersRequest) (*messagingv1.AddMembersResponse, error) {
	c.note(r)
	return &messagingv1.AddMembersResponse{Added: uint64(len(r.GetMembers()))}, nil
}

func (c *console) RemoveMembers(_ context.Context, r *messagingv1.RemoveMembersRequest) (*messagingv1.RemoveMembersResponse, error) {
	c.note(r)
	return &messagingv1.RemoveMembersResponse{Removed: 1}, nil
}

func (c *console) ListMembers(_ context.Context, r *messagingv1.ListMembersRequest) (*messagingv1.ListMembersResponse, error) {
	c.note(r)
	return &messagingv1.ListMembersResponse{Members: []*messagingv1.Member{
		{Member: &messagingv1.Member_ClientId{ClientId: "van-1"}}, {Member: &messagingv1.Member_User{User: "joe"}},
	}}, nil
}

func (c *console) ListMemberGroups(_ context.Context, r *messagingv1.ListMemberGroupsRequest) (*messagingv1.ListMemberGroupsResponse, error) {
	c.note(r)
	return &messagingv1.ListMemberGroupsResponse{Groups: []string{"a", "b"}}, nil
}

func (c *console) ListClients(_ context.Context, r *adminv1.ListClientsRequest) (*adminv1.ListClientsResponse, error) {
	c.note(r)
	ann := &adminv1.ClientSummary{
		ClientId: "ann", Presence: adminv1.Presence_PRESENCE_CONNECTED, Gateway: "g1", RemoteAddress: "h:1", Version: "5", Subscriptions: 2, Durable: true,
	}
	if r.GetPageToken() == "" {
		return &adminv1.ListClientsResponse{Clients: []*adminv1.ClientSummary{ann}, NextPageToken: "more", Troubles: []string{"g2: silent"}}, nil
	}
	bob := &adminv1.ClientSummary{ClientId: "bob", Username: "b", Presence: adminv1.Presence_PRESENCE_AWAY}
	return &adminv1.ListClientsResponse{Clients: []*adminv1.ClientSummary{bob}, Troubles: []string{"g2: silent"}}, nil
}

func (c *console) GetClient(_ context.Context, r *adminv1.GetClientRequest) (*adminv1.GetClientResponse, error) {
	c.note(r)
	return &adminv1.GetClientResponse{
		Client: &adminv1.ClientSummary{ClientId: "ann", Presence: adminv1.Presence_PRESENCE_CONNECTED, Version: "5", RemoteAddress: "h:1", ConnectedSince: noon()},
		Holder: "g1", Epoch: 7, Connection: &adminv1.Connection{Listener: "mqtt", KeepAliveSeconds: 60},
		Session: &adminv1.Session{
			Durable: true, ExpiresInMs: proto.Uint64(9), InboxMessages: 1, LastDropReason: "age", Counters: map[string]uint64{"sent": 3},
			Inbox: []*adminv1.InboxEntry{{Position: 4, Topic: "kept", Qos: messagev1.Qos_QOS_EXACTLY_ONCE, PayloadBytes: 5, Publisher: "bob"}},
			Drops: []*adminv1.Drop{{Time: noon(), Topic: "lost", Qos: messagev1.Qos_QOS_AT_MOST_ONCE, Publisher: "bob", Reason: "queue_full"}},
		},
		Events: []*messagingv1.PresenceEvent{
			{Kind: messagingv1.PresenceEvent_KIND_CONNECTED, ClientId: "ann", Gateway: "g1", Epoch: 7, Time: noon()},
			{Kind: messagingv1.PresenceEvent_KIND_DISCONNECTED, ClientId: "ann", Gateway: "g2", Epoch: 6, Time: noon(), Reason: "network"},
		},
		Subscriptions: []*adminv1.Subscription{{Filter: "news/#", Qos: messagev1.Qos_QOS_AT_LEAST_ONCE}}, Groups: []string{"drivers"},
	}, nil
}

func (c *console) DisconnectClient(_ context.Context, r *adminv1.DisconnectClientRequest) (*adminv1.DisconnectClientResponse, error) {
	c.note(r)
	return &adminv1.DisconnectClientResponse{}, nil
}

func (c *console) RemoveSession(_ context.Context, r *adminv1.RemoveSessionRequest) (*adminv1.RemoveSessionResponse, error) {
	c.note(r)
	s, err := status.New(codes.PermissionDenied, "not for you").WithDetails(
		&errdetails.ErrorInfo{Metadata: map[string]string{"role": "viewer", "needs": "operator"}})
	return nil, errors.Join(s.Err(), err)
}

func (c *console) SubscribeClient(_ context.Context, r *adminv1.SubscribeClientRequest) (*adminv1.SubscribeClientResponse, error) {
	c.note(r)
	return &adminv1.SubscribeClientResponse{}, nil
}

func (c *console) UnsubscribeClient(_ context.Context, r *adminv1.UnsubscribeClientRequest) (*adminv1.UnsubscribeClientResponse, error) {
	c.note(r)
	return &adminv1.UnsubscribeClientResponse{}, nil
}

func (c *console) ExplainTopic(_ context.Context, r *adminv1.ExplainTopicRequest) (*adminv1.ExplainTopicResponse, error) {
	c.note(r)
	return &adminv1.ExplainTopicResponse{
		Routes:    []*adminv1.RouteMatch{{Incarnation: "g1", Filter: "news/#"}, {Incarnation: "g2", Filter: "news/#", ShareGroup: "s", Members: 2}},
		Receivers: []*adminv1.TopicReceiver{{ClientId: "ann", Holder: "g1", Filters: []string{"news/#", "#"}, Qos: messagev1.Qos_QOS_AT_MOST_ONCE, OneOfMany: true}}, ReceiversTotal: 1,
		Troubles:     []string{"g3: silent"},
		ClientAnswer: "bob has not subscribed",
	}, nil
}

func (c *console) ListRetained(_ context.Context, r *adminv1.ListRetainedRequest) (*adminv1.ListRetainedResponse, error) {
	c.note(r)
	return &adminv1.ListRetainedResponse{Messages: []*adminv1.RetainedMessage{
		{Topic: "state", Payload: []byte("on"), PayloadBytes: 2, Qos: messagev1.Qos_QOS_AT_LEAST_ONCE, ExpiresInMs: proto.Uint64(90_000)},
	}}, nil
}

func (c *console) DeleteRetained(_ context.Context, r *adminv1.DeleteRetainedRequest) (*adminv1.DeleteRetainedResponse, error) {
	c.note(r)
	return nil, status.Error(codes.Unimplemented, "later")
}

func (c *console) Trace(r *adminv1.TraceRequest, s grpc.ServerStreamingServer[adminv1.TraceResponse]) error {
	c.note(r)
	if err := s.Send(&adminv1.TraceResponse{Incarnation: "g3", Trouble: "silent"}); err != nil {
		return err
	}
	return s.Send(&adminv1.TraceResponse{
		Time: noon(), Incarnation: "g1", Step: adminv1.TraceStep_TRACE_STEP_DELIVERED, Topic: "news", Other: "ann", LeftOut: 3,
		MessageId: &messagev1.MessageId{Origin: "g2", Sequence: 5},
	})
}

func TestWhatIsAskedOnTheCommandLineIsAskedOfTheRouter(t *testing.T) {
	c := startConsole(t)
	file := filepath.Join(t.TempDir(), "payload")
	if err := os.WriteFile(file, []byte("from a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args, in string
		asked    string
		prints   []string
	}{
		{
			"publish -t news -m hello -q 2 -r --expiry 90s --content-type text --response-topic r --correlation c -P a=1 -P a=2", "",
			`{"message":{"topic":"news","payload":"aGVsbG8=","qos":"QOS_EXACTLY_ONCE","retain":true,"message_expiry_seconds":90,"content_type":"text",` +
				`"response_topic":"r","correlation_data":"Yw==","user_properties":[{"name":"a","value":"1"},{"name":"a","value":"2"}]}}`,
			[]string{"nobody has subscribed"},
		},
		{"publish -t news -f - -q 0 -o json", "in", `{"message":{"topic":"news","payload":"aW4=","qos":"QOS_AT_MOST_ONCE"}}`, []string{"{}\n"}},
		{
			"publish -t news --stdin", "a\nb\n",
			`{"topic":"news","payload":"YQ==","qos":"QOS_AT_LEAST_ONCE"}` + "\n" + `{"topic":"news","payload":"Yg==","qos":"QOS_AT_LEAST_ONCE"}`, nil,
		},
		{
			"send --client ann -t note --wait acknowledged --timeout 2s -f " + file, "",
			`{"receiver":{"client_id":"ann"},"message":{"topic":"note","payload":"ZnJvbSBhIGZpbGU=","qos":"QOS_AT_LEAST_ONCE"},"wait":"WAIT_ACKNOWLEDGED","timeout_ms":2000}`,
			[]string{"no receivers"},
		},
		{
			"send --user joe -t note --summary", "",
			`{"receiver":{"user":"joe"},"message":{"topic":"note","qos":"QOS_AT_LEAST_ONCE"},"wait":"WAIT_DELIVERED","timeout_ms":5000,"summary_only":true}`,
			[]string{"3 delivered, 2 queued\n"},
		},
		{
			"command --client meter -t read --reply-topic r --timeout 1s", "",
			`{"client_id":"meter","message":{"topic":"read","qos":"QOS_AT_LEAST_ONCE"},"timeout_ms":1000,"reply_topic":"r"}`,
			[]string{"done\n"},
		},
		{"group create a b", "", `{"name":"a"}` + "\n" + `{"name":"b"}`, nil},
		{"group list --prefix x", "", `{"prefix":"x","page_size":1000}` + "\n" + `{"prefix":"x","page_size":1000,"page_token":"more"}`, []string{"GROUP", "a       2", "b       0"}},
		{
			"group add drivers --client v1,v2 --user joe --stdin", "v3\n\n",
			`{"group":"drivers","members":[{"client_id":"v1"},{"client_id":"v2"},{"client_id":"v3"},{"user":"joe"}]}`,
			[]string{"4 added\n"},
		},
		{"group remove drivers --client v1", "", `{"group":"drivers","members":[{"client_id":"v1"}]}`, []string{"1 removed\n"}},
		{"group members drivers", "", `{"group":"drivers","page_size":10000}`, []string{"client  van-1\nuser    joe\n"}},
		{"group of --user joe", "", `{"member":{"user":"joe"}}`, []string{"a\nb\n"}},
		{
			"clients list --prefix a --user u --gateway g1 --away", "",
			`{"client_id_prefix":"a","username":"u","gateway":"g1","presence":"PRESENCE_AWAY","page_size":1000}` + "\n" +
				`{"client_id_prefix":"a","username":"u","gateway":"g1","presence":"PRESENCE_AWAY","page_size":1000,"page_token":"more"}`,
			[]string{"ann      -      connected   g1        h:1    5", "bob      b      away"},
		},
		{"clients list --limit 1 --connected", "", `{"presence":"PRESENCE_CONNECTED","page_size":1}`, []string{"ann"}},
		{
			"clients show ann", "", `{"client_id":"ann"}`,
			[]string{"held by         g1 at epoch 7", "MQTT 5 from h:1 by mqtt", "keep alive 60 s", "expires in 9 ms", "3 sent", "4: kept QoS 2, 5 bytes from bob", "subscriptions   news/# QoS 1", "groups          drivers", "queue_full: lost QoS 0 from bob", "disconnected (network) at g2, epoch 6"},
		},
		{"clients disconnect ann bob", "", `{"client_id":"ann"}` + "\n" + `{"client_id":"bob"}`, nil},
		{"clients subscribe ann -t news -q 2", "", `{"client_id":"ann","subscription":{"filter":"news","qos":"QOS_EXACTLY_ONCE"}}`, nil},
		{"clients unsubscribe ann -t news", "", `{"client_id":"ann","filter":"news"}`, nil},
		{
			"explain news --client-id bob", "", `{"topic":"news","client_id":"bob","max_receivers":100}`,
			[]string{"g1        news/#   -           -", "g2        news/#   s           2", "ann      g1       news/# #   0     no     or another member", "1 receivers\nreceivers are missing: g3: silent\nbob has not subscribed\n"},
		},
		{"retained list -t # --payload", "", `{"filter":"#","page_size":1000,"with_payload":true}`, []string{`state   1     2       -           in 1m30s   "on"`}},
		{"presence --prefix a", "", `{"client_id_prefix":"a","presence":"PRESENCE_CONNECTED","page_size":1000}`, []string{"ann"}},
		{"trace --client ann", "", `{"client_id":"ann"}`, []string{"g3 is not followed: silent\n", "(3 steps are left out)", "delivered  g2/5  news  - -> ann"}},
	} {
		t.Run(tt.args, func(t *testing.T) {
			got := c.run(t, tt.in, strings.Fields(tt.args)...).done()
			if asked := c.was(); asked != tt.asked && !strings.HasPrefix(asked, tt.asked+"\n") {
				t.Errorf("asked (-want +got)\n%s", cmp.Diff(tt.asked, asked))
			}
			for _, want := range tt.prints {
				if !strings.Contains(got, want) {
					t.Errorf("no %q in\n%s", want, got)
				}
			}
		})
	}
}

func TestAnErrorOfTheRouterSaysWhatToDo(t *testing.T) {
	c := startConsole(t)
	for _, tt := range []struct{ args, want string }{
		{"send --client gone -t note", "not every receiver has the message"},
		{"command --client away -t read", `command "read" for client "away": client "away" is away (FailedPrecondition)`},
		{"clients remove ann", "remove ann: not for you (PermissionDenied)\n  it needs the role operator, and yours is viewer\n  your role"},
		{"group delete a", `delete a: group "a" is not there (NotFound)`},
		{"retained delete a", "older than this command"},
		{"presence --watch --cursor old", "watch without --cursor"},
		{"publish -m x", "give a --topic"},
		{"publish -t x -q 3", errQoS.Error()},
		{"publish -t x --expiry 1ms", "--expiry: whole seconds"},
		{"publish -t x -P novalue", "want name=value"},
		{"publish -t x -f /nowhere/at/all", "--file: "},
		{"send --client a -t x --wait long", "accepted, delivered or acknowledged"},
		{"send -t x", "at least one of the flags"},
		{"subscribe", "give a --topic"},
		{"clients list -o xml", `--output "xml"`},
		{"clients list --token-file /nowhere/at/all", "TokenFile: "},
	} {
		t.Run(tt.args, func(t *testing.T) {
			_, err := c.run(t, "", strings.Fields(tt.args)...).wait()
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q in it", err, tt.want)
			}
		})
	}
	fails(t, "is the router up", "clients", "list", "--router", "127.0.0.1:1", "--insecure")
	p := c.run(t, "good\nbad\n", "publish", "-t", "x", "--stdin")
	if _, err := p.wait(); err == nil || p.stderr.String() != "line 2: not taken: too much (reason code 151)\n" {
		t.Errorf("a line that was not taken: %v and %q", err, p.stderr.String())
	}
	if exitCode(errNotEverywhere) != 2 {
		t.Error("a message that has not come is not told from a command that failed")
	}
}

func TestStatusesAreExplained(t *testing.T) {
	s, err := status.New(codes.InvalidArgument, "not valid").WithDetails(
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "message.topic", Description: "must be given"}}},
		&errdetails.RetryInfo{})
	if err != nil {
		t.Fatal(err)
	}
	if got := advised(fmt.Errorf("do: %w", s.Err())).Error(); got != "do: not valid (InvalidArgument)\n  message.topic: must be given\n  try again in 0s" {
		t.Errorf("explained: %q", got)
	}
	for code, want := range map[codes.Code]string{
		codes.Unauthenticated: "--token-file", codes.DeadlineExceeded: "may have happened", codes.Internal: "log", codes.Canceled: "x (Canceled)",
	} {
		if got := advised(status.Error(code, "x")).Error(); !strings.Contains(got, want) {
			t.Errorf("%v: %q", code, got)
		}
	}
	if plain := errors.New("plain"); !errors.Is(advised(plain), plain) || advised(plain).Error() != "plain" || advised(nil) != nil {
		t.Error("an error that is none of the router's is changed")
	}
}

func TestMessagesArePrintedAndThenAcknowledged(t *testing.T) {
	c := startConsole(t)
	p := c.run(t, "", "subscribe", "-t", "t/#", "-t", "u", "--group", "g", "--name", "n", "-n", "2", "--max-unacknowledged", "7")
	if got := p.done(); got != "t m0\nt m1\n" || p.stderr.String() != "resumed\n" {
		t.Errorf("printed %q, noted %q", got, p.stderr.String())
	}
	open, acknowledged, _ := strings.Cut(c.was(), "\n")
	want := `{"open":{"filters":[{"filter":"t/#"},{"filter":"u"}],"consumer_group":"g","durable_name":"n","durable_expiry_seconds":86400,"max_unacknowledged":7}}`
	if open != want || !strings.Contains(acknowledged, `"1"`) || strings.Contains(acknowledged, `"2"`) {
		t.Errorf("opened with %s, acknowledged %s", open, acknowledged)
	}
	got := c.run(t, "", "subscribe", "-t", "t", "-n", "1", "-o", "json").done()
	if got != `{"message":{"topic":"t","payload":"bTA="},"publisher":"ann"}`+"\n" {
		t.Errorf("as JSON: %s", got)
	}
}

func TestPresenceIsFollowed(t *testing.T) {
	c := startConsole(t)
	p := c.run(t, "", "presence", "--watch", "-o", "json", "--prefix", "a")
	p.await(`"cursor":"c1"}`+"\n", &p.stdout)
	p.stop()
	p.done()
	p = c.run(t, "", "presence", "--watch")
	p.await("disconnected  ann  at g1, epoch 7  keepalive\n", &p.stdout)
	p.stop()
	p.done()
}

func TestTheShellCompletesWhatTheRouterKnows(t *testing.T) {
	c := startConsole(t)
	for _, tt := range []struct{ args, want string }{
		{"clients show --router R --insecure |", "ann\n"},
		{"group members --router R --insecure |", "a\n"},
		{"send --router R --insecure --group |", "a\n"},
		{"send --wait |", "accepted\ndelivered\nacknowledged\n"},
		{"gateways -o |", "text\njson\n"},
	} {
		args := strings.Fields(strings.ReplaceAll(tt.args, "R", c.address))
		args[len(args)-1] = ""
		if got := begin(t, nil, append([]string{"__complete"}, args...)...).done(); !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s: %q", tt.args, got)
		}
	}
}
