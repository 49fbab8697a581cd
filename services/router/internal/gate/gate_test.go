package gate

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/internal/rpc"
	"github.com/beeline-mqtt/beeline/services/router/internal/access"
)

func TestWhoShowsNothingIsLetInNowhereButToHealth(t *testing.T) {
	r := start(t)
	conn, ctx := r.dial(""), t.Context()
	_, err := messagingv1.NewMessagingServiceClient(conn).Publish(ctx, publish("a"))
	refusedAs(t, "publish", err, codes.Unauthenticated, noIdentity)
	stream, err := messagingv1.NewMessagingServiceClient(conn).PublishStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	refusedAs(t, "publish a stream", err, codes.Unauthenticated, noIdentity)
	_, err = adminv1.NewAdminServiceClient(conn).ListClients(ctx, &adminv1.ListClientsRequest{})
	refusedAs(t, "list clients", err, codes.Unauthenticated, noIdentity)
	refusedAs(t, "reflection", reflect(t, conn), codes.Unauthenticated, noIdentity)
	if _, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{}); err != nil {
		t.Errorf("health: %v", err)
	}
	watch, err := healthv1.NewHealthClient(conn).Watch(ctx, &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Errorf("watch health: %v", err)
	}
	if r.callers() != nil {
		t.Error("a service was called")
	}
	if n := testutil.ToFloat64(r.gate.refused.WithLabelValues(noIdentity)); n != 4 {
		t.Errorf("%v refusals were counted", n)
	}
}

func TestATokenIsAsGoodAsACertificate(t *testing.T) {
	r := start(t)
	for name, c := range map[string]struct{ role, token, name string }{
		"viewer's certificate":       {"viewer", "", "viewer-7"},
		"viewer's token":             {"", viewerToken, "vera"},
		"operator's certificate":     {"operator", "", "operator-7"},
		"operator's token":           {"", operatorToken, "olga"},
		"token beside a certificate": {"operator", viewerToken, "vera"},
		"token beside a service's":   {"gateway", publisherToken, "paul"},
		"publisher's certificate":    {"publisher", "", "publisher-7"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			if c.token != "" {
				ctx = with(ctx, c.token)
			}
			if _, err := adminv1.NewAdminServiceClient(r.dial(c.role)).ListClients(ctx, &adminv1.ListClientsRequest{}); err != nil {
				t.Fatal(err)
			}
			if all := r.callers(); all[len(all)-1].Name != c.name {
				t.Errorf("the service saw %+v, want %s", all, c.name)
			}
		})
	}
}

func TestAWrongAuthorizationIsRefusedWhateverTheCertificateSays(t *testing.T) {
	r := start(t)
	s := adminv1.NewAdminServiceClient(r.dial("operator"))
	for _, header := range []string{"", "Bearer", "Bearer ", "Basic b2xnYTp4", "Bearer nobody's", operatorToken, "Bearer " + operatorToken + "x"} {
		_, err := s.ListClients(metadata.AppendToOutgoingContext(t.Context(), "authorization", header), &adminv1.ListClientsRequest{})
		refusedAs(t, header, err, codes.Unauthenticated, tokenInvalid)
	}
	if lines := r.log.lines(operatorToken); lines != nil {
		t.Errorf("a token is in the log: %s", lines)
	}
}

func TestEachRoleMayDoWhatItsMethodsNeed(t *testing.T) {
	r := start(t)
	calls := map[string]struct {
		least access.Role
		call  func(m messagingv1.MessagingServiceClient, a adminv1.AdminServiceClient) error
	}{
		"read": {access.Viewer, func(_ messagingv1.MessagingServiceClient, a adminv1.AdminServiceClient) error {
			_, err := a.ListClients(t.Context(), &adminv1.ListClientsRequest{})
			return err
		}},
		"publish": {access.Publisher, func(m messagingv1.MessagingServiceClient, _ adminv1.AdminServiceClient) error {
			_, err := m.Publish(t.Context(), publish("a"))
			return err
		}},
		"change": {access.Operator, func(_ messagingv1.MessagingServiceClient, a adminv1.AdminServiceClient) error {
			_, err := a.RemoveSession(t.Context(), &adminv1.RemoveSessionRequest{ClientId: "c"})
			return err
		}},
		"watch": {access.Viewer, func(m messagingv1.MessagingServiceClient, _ adminv1.AdminServiceClient) error {
			s, err := m.WatchPresence(t.Context(), &messagingv1.WatchPresenceRequest{})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		}},
	}
	for role, has := range map[string]access.Role{
		"gateway": access.Known, "router": access.Known, "viewer": access.Viewer, "publisher": access.Publisher, "operator": access.Operator,
	} {
		conn := r.dial(role)
		for name, c := range calls {
			err := c.call(messagingv1.NewMessagingServiceClient(conn), adminv1.NewAdminServiceClient(conn))
			if has >= c.least {
				refusedAs(t, role+" "+name, err, codes.OK, "")
				continue
			}
			refusedAs(t, role+" "+name, err, codes.PermissionDenied, roleTooLow)
			if info, ok := detail[*errdetails.ErrorInfo](err); !ok || info.GetMetadata()["needs"] != c.least.String() || info.GetMetadata()["role"] != has.String() {
				t.Errorf("%s %s: the details are %v", role, name, info)
			}
		}
		if err := reflect(t, conn); err != nil {
			t.Errorf("%s: reflection: %v", role, err)
		}
	}
}

func TestAMethodWithoutARuleMayBeCalledByNobody(t *testing.T) {
	r := start(t)
	delete(r.gate.rules, adminv1.AdminService_ListClients_FullMethodName)
	delete(r.gate.rules, messagingv1.MessagingService_WatchPresence_FullMethodName)
	conn := r.dial("operator")
	_, err := adminv1.NewAdminServiceClient(conn).ListClients(t.Context(), &adminv1.ListClientsRequest{})
	refusedAs(t, "a call", err, codes.PermissionDenied, roleTooLow)
	s, err := messagingv1.NewMessagingServiceClient(conn).WatchPresence(t.Context(), &messagingv1.WatchPresenceRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Recv()
	refusedAs(t, "a stream", err, codes.PermissionDenied, roleTooLow)
}

func TestWithoutTLSWhoeverComesIsAnOperatorAndATokenStillCounts(t *testing.T) {
	r := start(t, func(_ *Config, c *rpc.Config) { c.TLS = rpc.TLSConfig{Insecure: true} })
	s := adminv1.NewAdminServiceClient(r.plain())
	request := &adminv1.RemoveSessionRequest{ClientId: "c"}
	_, err := s.RemoveSession(t.Context(), request)
	refusedAs(t, "without a token", err, codes.OK, "")
	_, err = s.RemoveSession(with(t.Context(), viewerToken), request)
	refusedAs(t, "with a viewer's token", err, codes.PermissionDenied, roleTooLow)
	_, err = s.RemoveSession(with(t.Context(), "nobody's"), request)
	refusedAs(t, "with nobody's token", err, codes.Unauthenticated, tokenInvalid)
	if len(r.log.lines("without TLS")) != 1 {
		t.Error("nothing warns of it")
	}
}

func TestACallWithinTheProcessIsMadeForSomebody(t *testing.T) {
	r := start(t)
	conn, err := r.server.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	s := adminv1.NewAdminServiceClient(conn)
	request := &adminv1.RemoveSessionRequest{ClientId: "c"}
	_, err = s.RemoveSession(t.Context(), request)
	refusedAs(t, "for nobody", err, codes.Unauthenticated, noIdentity)
	_, err = s.RemoveSession(with(t.Context(), operatorToken), request)
	refusedAs(t, "with a token", err, codes.OK, "")
	behalf := func(role string) metadata.MD { return metadata.Pairs("beeline-role", role, "beeline-name", "x") }
	_, err = s.RemoveSession(metadata.NewOutgoingContext(t.Context(), behalf("operator")), request)
	refusedAs(t, "for an operator", err, codes.OK, "")
	_, err = s.RemoveSession(metadata.NewOutgoingContext(t.Context(), behalf("viewer")), request)
	refusedAs(t, "for a viewer", err, codes.PermissionDenied, roleTooLow)

	outside := adminv1.NewAdminServiceClient(r.dial(""))
	_, err = outside.RemoveSession(metadata.NewOutgoingContext(t.Context(), behalf("operator")), request)
	refusedAs(t, "somebody outside who says that it is for an operator", err, codes.Unauthenticated, noIdentity)
}

func TestLimitsHoldForCallsAndForEveryRequestOfAStream(t *testing.T) {
	r := start(t)
	ctx := with(t.Context(), limitedToken)
	m := messagingv1.NewMessagingServiceClient(r.dial(""))
	_, err := m.Publish(ctx, publish("news/today"))
	refusedAs(t, "within", err, codes.OK, "")
	_, err = m.Publish(ctx, publish("other"))
	refusedAs(t, "outside", err, codes.PermissionDenied, outsideLimits)
	if info, ok := detail[*errdetails.ErrorInfo](err); !ok || info.GetMetadata()["field"] != "message.topic" {
		t.Errorf("the details are %v", info)
	}

	stream, err := m.PublishStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	send := func(topics ...string) error {
		q := &messagingv1.PublishStreamRequest{}
		for _, topic := range topics {
			q.Messages = append(q.Messages, publish(topic).GetMessage())
		}
		if err := stream.Send(q); err != nil {
			t.Fatal(err)
		}
		_, err := stream.Recv()
		return err
	}
	refusedAs(t, "a request within", send("news/a", "news/b"), codes.OK, "")
	refusedAs(t, "a request outside", send("news/a", "other"), codes.PermissionDenied, outsideLimits)

	for filter, want := range map[string]codes.Code{"news/+": codes.OK, "#": codes.PermissionDenied} {
		s, err := m.Subscribe(ctx)
		if err != nil {
			t.Fatal(err)
		}
		open := &messagingv1.SubscribeRequest_Open{Filters: []*messagingv1.SubscribeRequest_Filter{{Filter: filter}}}
		if err := s.Send(&messagingv1.SubscribeRequest{Request: &messagingv1.SubscribeRequest_Open_{Open: open}}); err != nil {
			t.Fatal(err)
		}
		reason := map[codes.Code]string{codes.PermissionDenied: outsideLimits}[want]
		_, err = s.Recv()
		refusedAs(t, "subscribe to "+filter, err, want, reason)
		if want == codes.OK { // the fake has said all it has to say
			if _, err := s.Recv(); !errors.Is(err, io.EOF) {
				t.Error(err)
			}
		}
	}
}

func TestACommandThatCannotBeDoesNotEndTheOthers(t *testing.T) {
	r := start(t)
	s, err := messagingv1.NewMessagingServiceClient(r.dial("")).CommandStream(with(t.Context(), limitedToken))
	if err != nil {
		t.Fatal(err)
	}
	for id, client := range []string{"meter-1", "other", "", "meter-2"} {
		q := &messagingv1.CommandStreamRequest{RequestId: uint64(id), Command: &messagingv1.CommandRequest{ClientId: client, Message: publish("set").GetMessage()}}
		if err := s.Send(q); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []codes.Code{codes.OK, codes.PermissionDenied, codes.InvalidArgument, codes.OK} {
		answer, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if got := codes.Code(answer.GetFailure().GetCode()); got != want || (want == codes.OK) != (answer.GetAnswer() != nil) {
			t.Errorf("command %d: %v, want %v", answer.GetRequestId(), answer, want)
		}
	}
}

func TestWhatTheContractForbidsIsNamed(t *testing.T) {
	r := start(t)
	ctx := with(t.Context(), publisherToken)
	m := messagingv1.NewMessagingServiceClient(r.dial(""))
	message := publish("a").GetMessage()
	message.Qos, message.ContentType = messagev1.Qos(9), strings.Repeat("x", 70_000)
	_, err := m.Publish(ctx, &messagingv1.PublishRequest{Message: message})
	refusedAs(t, "a wrong message", err, codes.InvalidArgument, invalid)
	bad, ok := detail[*errdetails.BadRequest](err)
	if !ok || len(bad.GetFieldViolations()) != 2 || bad.GetFieldViolations()[0].GetField() != "message.qos" ||
		bad.GetFieldViolations()[0].GetReason() != "enum.defined_only" || bad.GetFieldViolations()[1].GetField() != "message.content_type" {
		t.Errorf("the details are %v", bad)
	}
	_, err = m.Publish(ctx, &messagingv1.PublishRequest{})
	refusedAs(t, "no message", err, codes.InvalidArgument, invalid)

	s, err := m.PublishStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&messagingv1.PublishStreamRequest{Messages: []*messagingv1.Message{publish("a").GetMessage(), {}}}); err != nil {
		t.Fatal(err)
	}
	_, err = s.Recv()
	refusedAs(t, "a wrong message of a stream", err, codes.InvalidArgument, invalid)
	if bad, ok := detail[*errdetails.BadRequest](err); !ok || bad.GetFieldViolations()[0].GetField() != "messages[1].topic" {
		t.Errorf("the details are %v", bad)
	}
}

func TestWhatIsTooLargeIsRefused(t *testing.T) {
	r := start(t, func(_ *Config, c *rpc.Config) { c.MaxMessageSize = 1 << 16 })
	q := publish("a")
	q.Message.Payload = make([]byte, 1<<16)
	_, err := messagingv1.NewMessagingServiceClient(r.dial("publisher")).Publish(t.Context(), q)
	refusedAs(t, "too large", err, codes.ResourceExhausted, "")
}

func TestACallerHasARateOfItsOwn(t *testing.T) {
	r := start(t, func(c *Config, _ *rpc.Config) { c.Rates.Viewer.Calls = 2 })
	a := adminv1.NewAdminServiceClient(r.dial(""))
	call := func(token string) error {
		_, err := a.ListClients(with(t.Context(), token), &adminv1.ListClientsRequest{})
		return err
	}
	now := time.Now()
	r.gate.rates.now = func() time.Time { return now } // nobody has called yet
	for range 2 {
		refusedAs(t, "a call", call(viewerToken), codes.OK, "")
	}
	err := call(viewerToken)
	refusedAs(t, "one more", err, codes.ResourceExhausted, rateExceeded)
	if again, ok := detail[*errdetails.RetryInfo](err); !ok || again.GetRetryDelay().AsDuration() != 500*time.Millisecond {
		t.Errorf("it is to try again %v", again)
	}
	for range 10 {
		refusedAs(t, "an operator", call(operatorToken), codes.OK, "")
	}
	now = now.Add(500 * time.Millisecond)
	refusedAs(t, "after the time", call(viewerToken), codes.OK, "")
	s, err := messagingv1.NewMessagingServiceClient(r.dial("")).WatchPresence(with(t.Context(), viewerToken), &messagingv1.WatchPresenceRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Recv()
	refusedAs(t, "a stream", err, codes.ResourceExhausted, rateExceeded)
}

func TestWhatChangesSomethingIsWrittenDown(t *testing.T) {
	r := start(t)
	a := adminv1.NewAdminServiceClient(r.dial("operator"))
	for _, id := range []string{"c-1", "nobody", ""} {
		_, _ = a.RemoveSession(t.Context(), &adminv1.RemoveSessionRequest{ClientId: id})
	}
	_, _ = a.RemoveSession(with(t.Context(), viewerToken), &adminv1.RemoveSessionRequest{ClientId: "c-2"})
	_, _ = a.ListClients(t.Context(), &adminv1.ListClientsRequest{ClientIdPrefix: "c-3"})
	_, _ = messagingv1.NewMessagingServiceClient(r.dial("operator")).Publish(t.Context(), publish("a/topic"))
	audit := r.log.lines("msg=audit")
	for i, want := range []string{
		"level=INFO who=operator-7 role=operator target=c-1 outcome=OK",
		"level=INFO who=operator-7 target=nobody outcome=NotFound",
		`level=INFO target="" outcome=InvalidArgument`,
		"level=INFO who=vera role=viewer target=c-2 outcome=PermissionDenied",
		"level=DEBUG who=operator-7 method=" + messagingv1.MessagingService_Publish_FullMethodName + " target=a/topic outcome=OK from=127.0.0.1:",
	} {
		if i >= len(audit) {
			t.Fatalf("only %d lines: %s", len(audit), audit)
		}
		for word := range strings.FieldsSeq(want) {
			if !strings.Contains(audit[i], word) {
				t.Errorf("line %d has no %s: %s", i, word, audit[i])
			}
		}
	}
	if len(audit) != 5 {
		t.Errorf("%d lines: %s", len(audit), audit)
	}
	if lines := r.log.lines("a payload"); lines != nil {
		t.Errorf("a payload is in the log: %s", lines)
	}
}

func TestAPanicIsTheCallersErrorAndNobodyElses(t *testing.T) {
	r := start(t)
	m := messagingv1.NewMessagingServiceClient(r.dial("publisher"))
	_, err := m.Publish(t.Context(), publish("panic"))
	refusedAs(t, "a panic", err, codes.Internal, "")
	_, err = m.Publish(t.Context(), publish("a"))
	refusedAs(t, "the next", err, codes.OK, "")
}

func TestAServerWithoutAGuardRefusesEveryCall(t *testing.T) {
	r := start(t)
	r.server.Guard(nil)
	_, err := adminv1.NewAdminServiceClient(r.dial("operator")).ListClients(t.Context(), &adminv1.ListClientsRequest{})
	refusedAs(t, "a call", err, codes.Unauthenticated, "")
	refusedAs(t, "a stream", reflect(t, r.dial("operator")), codes.Unauthenticated, "")
}
