package rest

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/internal/lifecycle"
	"github.com/beeline-mqtt/beeline/internal/pki"
	"github.com/beeline-mqtt/beeline/internal/rpc"
	"github.com/beeline-mqtt/beeline/services/router/internal/access"
	"github.com/beeline-mqtt/beeline/services/router/internal/gate"
	"github.com/beeline-mqtt/beeline/services/router/internal/tokens"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// services say what they were asked.
type services struct {
	messagingv1.UnimplementedMessagingServiceServer
	messagingv1.UnimplementedGroupServiceServer
	adminv1.UnimplementedAdminServiceServer
	adminv1.UnimplementedPlacementServiceServer
	adminv1.UnimplementedGatewayServiceServer

	asked chan any
}

func (s *services) Publish(_ context.Context, r *messagingv1.PublishRequest) (*messagingv1.PublishResponse, error) {
	s.asked <- r
	return &messagingv1.PublishResponse{}, nil
}

func (s *services) Command(_ context.Context, r *messagingv1.CommandRequest) (*messagingv1.CommandResponse, error) {
	s.asked <- r
	return &messagingv1.CommandResponse{Message: &messagingv1.Message{Payload: []byte("hello")}, RoundTripUs: 7}, nil
}

func (s *services) WatchPresence(_ *messagingv1.WatchPresenceRequest, stream grpc.ServerStreamingServer[messagingv1.WatchPresenceResponse]) error {
	for _, c := range []string{"1", "2"} {
		if err := stream.Send(&messagingv1.WatchPresenceResponse{Cursor: c}); err != nil {
			return err
		}
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}

func (s *services) ListMemberGroups(_ context.Context, r *messagingv1.ListMemberGroupsRequest) (*messagingv1.ListMemberGroupsResponse, error) {
	s.asked <- r
	return &messagingv1.ListMemberGroupsResponse{Groups: []string{"g"}}, nil
}

func (s *services) ListClients(ctx context.Context, r *adminv1.ListClientsRequest) (*adminv1.ListClientsResponse, error) {
	return &adminv1.ListClientsResponse{NextPageToken: access.From(ctx).Name + " " + r.GetClientIdPrefix() + " " + r.GetPresence().String()}, nil
}

func (s *services) GetClient(_ context.Context, r *adminv1.GetClientRequest) (*adminv1.GetClientResponse, error) {
	return nil, status.Errorf(codes.NotFound, "no client %q", r.GetClientId())
}

func (s *services) UnsubscribeClient(_ context.Context, r *adminv1.UnsubscribeClientRequest) (*adminv1.UnsubscribeClientResponse, error) {
	s.asked <- r
	return &adminv1.UnsubscribeClientResponse{}, nil
}

func (s *services) PutCluster(_ context.Context, r *adminv1.PutClusterRequest) (*adminv1.PutClusterResponse, error) {
	s.asked <- r
	return &adminv1.PutClusterResponse{}, nil
}

const token = "an operator's"

// rig is REST before fakes of the services.
type rig struct {
	*services
	t      *testing.T
	ca     *pki.CA
	url    string
	client *http.Client
	stop   func()
}

func start(t *testing.T, changes ...func(*rig, *Config, *gate.Config)) *rig {
	t.Helper()
	r := &rig{services: &services{asked: make(chan any, 10)}, t: t}
	var err error
	if r.ca, err = pki.Open(t.TempDir(), time.Now); err != nil {
		t.Fatal(err)
	}
	cfg, gc, rc, logger := Config{Address: "127.0.0.1:0"}, gate.DefaultConfig(), rpc.DefaultConfig(), slog.New(slog.DiscardHandler)
	gc.TokensFile = filepath.Join(t.TempDir(), "tokens.yaml")
	text := "tokens: [{name: olga, role: operator, sha256: " + tokens.Hash(token) + "}]"
	if err := os.WriteFile(gc.TokensFile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	files := r.issue("router", "router-1")
	rc.TLS = rpc.TLSConfig{CertFile: files.Cert, KeyFile: files.Key, CAFile: files.CA}
	rc.MaxMessageSize = 1 << 16
	for _, change := range changes {
		change(r, &cfg, &gc)
	}
	metrics := prometheus.NewRegistry()
	g, err := gate.New(gc, gate.Deps{Logger: logger, Metrics: metrics, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	server, err := rpc.NewServer(rc, rpc.ServerDeps{Logger: logger, Metrics: metrics, Public: true})
	if err != nil {
		t.Fatal(err)
	}
	server.Guard(g)
	messagingv1.RegisterMessagingServiceServer(server, r.services)
	messagingv1.RegisterGroupServiceServer(server, r.services)
	adminv1.RegisterAdminServiceServer(server, r.services)
	adminv1.RegisterPlacementServiceServer(server, r.services)
	adminv1.RegisterGatewayServiceServer(server, r.services)
	s, err := Listen(t.Context(), cfg, logger)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := server.Connect()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Connect(t.Context(), conn, server.MaxMessageSize()); err != nil {
		t.Fatal(err)
	}
	l, err := rpc.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- lifecycle.Run(ctx, time.Minute, server.Part(l), lifecycle.Simple("rest", s.Run))
	}()
	r.url = "http://" + s.Addr().String()
	r.client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		_ = conn.Close()
	}
	t.Cleanup(r.stop)
	return r
}

func (r *rig) issue(role, name string) pki.Files {
	r.t.Helper()
	files, err := r.ca.Issue(pki.Request{Name: name, Role: role})
	if err != nil {
		r.t.Fatal(err)
	}
	return files
}

// answer is a response whose body is closed when the test ends.
type answer struct{ *http.Response }

// ask makes a request with the operator's token, unless the headers have another or an empty one.
func (r *rig) ask(method, path, body string, headers ...string) answer {
	r.t.Helper()
	q, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	q.Header.Set("Authorization", "Bearer "+token)
	for i := 0; i < len(headers); i += 2 {
		if q.Header.Set(headers[i], headers[i+1]); headers[i+1] == "" {
			q.Header.Del(headers[i])
		}
	}
	response, err := r.client.Do(q)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = response.Body.Close() })
	return answer{response}
}

// want checks an answer and returns its body, as compact JSON if it is JSON.
func (r *rig) want(a answer, code int) string {
	r.t.Helper()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	if a.StatusCode != code {
		r.t.Errorf("%s %s: %s %s, want %d", a.Request.Method, a.Request.URL, a.Status, b, code)
	}
	var v any
	if json.Unmarshal(b, &v) == nil {
		b, _ = json.Marshal(v)
	}
	return string(b)
}

// asked is what a service was asked last.
func asked[T any](r *rig) (request T) {
	r.t.Helper()
	select {
	case x := <-r.asked:
		return x.(T)
	default:
		r.t.Fatal("no service was asked")
		return request
	}
}

func TestARequestBecomesACall(t *testing.T) {
	r := start(t)
	got := r.want(r.ask(http.MethodPost, "/v1/publish", `{"message": {"topic": "news", "payload": "aGVsbG8=", "qos": "QOS_EXACTLY_ONCE", "correlation_data": ""}}`), http.StatusOK)
	if got != `{"matched":false}` {
		t.Errorf("the answer is %s", got)
	}
	if m := asked[*messagingv1.PublishRequest](r).GetMessage(); string(m.GetPayload()) != "hello" || m.GetQos().String() != "QOS_EXACTLY_ONCE" || m.CorrelationData == nil {
		t.Errorf("published %v", m)
	}
	got = r.want(r.ask(http.MethodPost, "/v1/clients/a%20b:c%25/command", `{"message": {"topic": "set"}, "timeout_ms": 5}`), http.StatusOK)
	if !strings.Contains(got, `"payload":"aGVsbG8="`) || !strings.Contains(got, `"round_trip_us":"7"`) {
		t.Errorf("the answer is %s", got)
	}
	if c := asked[*messagingv1.CommandRequest](r); c.GetClientId() != "a b:c%" || c.GetTimeoutMs() != 5 || c.GetMessage().GetTopic() != "set" {
		t.Errorf("commanded %v", c)
	}
	r.want(r.ask(http.MethodPost, "/v1/command", `{"client_id": "site/7", "message": {"topic": "set"}}`), http.StatusOK)
	if c := asked[*messagingv1.CommandRequest](r); c.GetClientId() != "site/7" {
		t.Errorf("commanded %v", c)
	}
	if got := r.want(r.ask(http.MethodGet, "/v1/client?client_id=site/7", ""), http.StatusNotFound); !strings.Contains(got, "site/7") {
		t.Errorf("the answer is %s", got)
	}
	if got := r.want(r.ask(http.MethodGet, "/v1/clients?client_id_prefix=a&presence=PRESENCE_AWAY", ""), http.StatusOK); !strings.Contains(got, "olga a PRESENCE_AWAY") {
		t.Errorf("the answer is %s", got)
	}
	r.want(r.ask(http.MethodDelete, "/v1/clients/c/subscriptions?filter=a%2F%23", ""), http.StatusOK)
	if u := asked[*adminv1.UnsubscribeClientRequest](r); u.GetClientId() != "c" || u.GetFilter() != "a/#" {
		t.Errorf("unsubscribed %v", u)
	}
	r.want(r.ask(http.MethodPut, "/v1/clusters/old", `{"static": {"nodes": [{"address": "b:1883"}]}, "revision": "-1"}`), http.StatusOK)
	if c := asked[*adminv1.PutClusterRequest](r).GetCluster(); c.GetName() != "old" || c.GetRevision() != -1 || len(c.GetStatic().GetNodes()) != 1 {
		t.Errorf("put %v", c)
	}
	for path, want := range map[string]string{"/v1/clients/c/groups": "client c", "/v1/users/u/groups": "user u"} {
		r.want(r.ask(http.MethodGet, path, ""), http.StatusOK)
		m := asked[*messagingv1.ListMemberGroupsRequest](r).GetMember()
		if got := "client " + m.GetClientId(); m.GetClientId() != "" && got != want {
			t.Errorf("%s asks about %s", path, got)
		}
		if got := "user " + m.GetUser(); m.GetUser() != "" && got != want {
			t.Errorf("%s asks about %s", path, got)
		}
	}
}

func TestWhatIsRefusedHasItsStatusAndDetails(t *testing.T) {
	r := start(t, func(_ *rig, _ *Config, g *gate.Config) { g.Rates.Operator.Calls = 8 })
	for name, c := range map[string]struct {
		answer answer
		code   int
		has    string
	}{
		"no token":          {r.ask(http.MethodGet, "/v1/clients", "", "Authorization", ""), http.StatusUnauthorized, `"reason":"NO_IDENTITY"`},
		"a wrong token":     {r.ask(http.MethodGet, "/v1/clients", "", "Authorization", "Bearer x"), http.StatusUnauthorized, `"reason":"TOKEN_INVALID"`},
		"forged identity":   {r.ask(http.MethodGet, "/v1/clients", "", "Authorization", "", "Grpc-Metadata-Beeline-Role", "operator", "Grpc-Metadata-Beeline-Name", "x"), http.StatusUnauthorized, `"reason":"NO_IDENTITY"`},
		"not found":         {r.ask(http.MethodGet, "/v1/clients/c%25", ""), http.StatusNotFound, `"code":5,"details":[],"message":"no client \"c%\""`},
		"a slash in an id":  {r.ask(http.MethodGet, "/v1/clients/a%2Fb", ""), http.StatusNotFound, `"message":"Not Found"`},
		"not there":         {r.ask(http.MethodGet, "/v2/clients", ""), http.StatusNotFound, `"code":5`},
		"wrong method":      {r.ask(http.MethodPatch, "/v1/clients", ""), http.StatusNotImplemented, `"code":12`},
		"no JSON":           {r.ask(http.MethodPost, "/v1/publish", `{"message": `), http.StatusBadRequest, `"code":3`},
		"unknown field":     {r.ask(http.MethodPost, "/v1/publish", `{"massage": {}}`), http.StatusBadRequest, `massage`},
		"unknown parameter": {r.ask(http.MethodGet, "/v1/clients?gateways=x", ""), http.StatusBadRequest, `gateways`},
		"no topic":          {r.ask(http.MethodPost, "/v1/publish", `{"message": {}}`), http.StatusBadRequest, `"field":"message.topic"`},
		"not implemented":   {r.ask(http.MethodDelete, "/v1/groups/g", ""), http.StatusNotImplemented, `"code":12`},
		"too large":         {r.ask(http.MethodPost, "/v1/publish", strings.Repeat(" ", 1<<16+1)), http.StatusRequestEntityTooLarge, `"code":8`},
		"another origin's":  {r.ask(http.MethodPost, "/v1/publish", `{}`, "Sec-Fetch-Site", "cross-site"), http.StatusForbidden, "cross-origin"},
	} {
		if got := r.want(c.answer, c.code); !strings.Contains(got, c.has) {
			t.Errorf("%s: %s, want %s", name, got, c.has)
		}
		if got := c.answer.Header.Get("WWW-Authenticate"); (got == "Bearer") != (c.code == http.StatusUnauthorized) {
			t.Errorf("%s: WWW-Authenticate is %q", name, got)
		}
	}
	for range 100 {
		if answer := r.ask(http.MethodGet, "/v1/clients", ""); answer.StatusCode == http.StatusTooManyRequests {
			if again := answer.Header.Get("Retry-After"); again != "1" || !strings.Contains(r.want(answer, http.StatusTooManyRequests), "RATE_EXCEEDED") {
				t.Errorf("Retry-After is %q", again)
			}
			return
		}
	}
	t.Error("nobody is asked to slow down")
}

func TestAStreamIsOneObjectALineAndEndsWithTheServer(t *testing.T) {
	r := start(t)
	answer := r.ask(http.MethodGet, "/v1/presence", "")
	lines := bufio.NewScanner(answer.Body)
	for _, want := range []string{"1", "2"} {
		if !lines.Scan() {
			t.Fatalf("it has ended: %v", lines.Err())
		}
		var line struct {
			Result struct {
				Cursor string `json:"cursor"`
			} `json:"result"`
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil || line.Result.Cursor != want {
			t.Errorf("a line is %s, %v", lines.Bytes(), err)
		}
	}
	r.stop()
	for lines.Scan() {
		if text := lines.Text(); text != "" && !strings.Contains(text, `"error"`) {
			t.Errorf("behind the end: %s", text)
		}
	}
}

func TestTheDocumentNamesAllPaths(t *testing.T) {
	r := start(t)
	if page := r.want(r.ask(http.MethodGet, "/", "", "Authorization", ""), http.StatusOK); !strings.Contains(page, "/openapi.json") {
		t.Errorf("the page is %s", page)
	}
	var doc struct {
		Swagger string `json:"swagger"`
		Paths   map[string]map[string]struct {
			OperationID string `json:"operationId"`
		} `json:"paths"`
		Security []map[string][]string `json:"security"`
	}
	if err := json.Unmarshal([]byte(r.want(r.ask(http.MethodGet, "/openapi.json", "", "Authorization", ""), http.StatusOK)), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Swagger != "2.0" || len(doc.Security) != 1 || len(doc.Paths) < 20 {
		t.Errorf("it is %s, with %d paths and %v", doc.Swagger, len(doc.Paths), doc.Security)
	}
	// Each of them asks who is there, so it has a handler.
	for path, methods := range doc.Paths {
		for method := range methods {
			at := strings.NewReplacer("{", "", "}", "").Replace(path)
			body := ""
			if method == "post" || method == "put" {
				body = "{}"
			}
			if got := r.want(r.ask(strings.ToUpper(method), at, body, "Authorization", ""), http.StatusUnauthorized); !strings.Contains(got, "NO_IDENTITY") {
				t.Errorf("%s %s: %s", method, path, got)
			}
		}
	}
}

func TestHTTPSWithACertificateInsteadOfAToken(t *testing.T) {
	r := start(t, func(r *rig, c *Config, _ *gate.Config) {
		files := r.issue("router", "router-1")
		c.CertFile, c.KeyFile, c.ClientCAFile = files.Cert, files.Key, files.CA
	})
	r.url = strings.Replace(r.url, "http:", "https:", 1)
	as := func(files pki.Files) *http.Client {
		cfg, err := files.Client()
		if err != nil {
			t.Fatal(err)
		}
		return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: cfg}}
	}
	anonymous := r.issue("router", "router-1")
	anonymous.Cert, anonymous.Key = "", ""
	r.client = as(anonymous)
	r.want(r.ask(http.MethodGet, "/v1/clients", "", "Authorization", ""), http.StatusUnauthorized)
	r.want(r.ask(http.MethodGet, "/v1/clients", ""), http.StatusOK)
	r.client = as(r.issue("viewer", "vera-2"))
	if got := r.want(r.ask(http.MethodGet, "/v1/clients", "", "Authorization", ""), http.StatusOK); !strings.Contains(got, "vera-2") {
		t.Errorf("the answer is %s", got)
	}
	if got := r.want(r.ask(http.MethodDelete, "/v1/clients/c", "", "Authorization", ""), http.StatusForbidden); !strings.Contains(got, "ROLE_TOO_LOW") {
		t.Errorf("the answer is %s", got)
	}
	stranger, err := pki.Open(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := stranger.Issue(pki.Request{Name: "x", Role: "operator"})
	if err != nil {
		t.Fatal(err)
	}
	forged.CA = anonymous.CA
	q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+"/v1/clients", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if answer, err := as(forged).Do(q); err == nil {
		_ = answer.Body.Close()
		t.Errorf("a certificate of another authority gets %s", answer.Status)
	}
}

func TestWrongConfigurationNamesTheKey(t *testing.T) {
	for want, c := range map[string]Config{
		"address":        {Address: "here"},
		"cert_file":      {Address: "127.0.0.1:1", CertFile: "x"},
		"insecure":       {Address: "127.0.0.1:1", CertFile: "x", KeyFile: "y", Insecure: true},
		"client_ca_file": {Address: "127.0.0.1:1", ClientCAFile: "x"},
		"TLS":            {Address: ":8080"},
	} {
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	for _, c := range []Config{{}, {Address: "[::1]:1"}, {Address: "localhost:1"}, {Address: ":1", Insecure: true}, {Address: ":1", CertFile: "x", KeyFile: "y"}} {
		if err := c.Validate(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if _, err := Listen(t.Context(), Config{Address: "127.0.0.1:0", CertFile: "none", KeyFile: "none"}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a certificate that is not there is taken")
	}
}
