// Package administration tests what operators do to a whole cluster: several real gateways, real clients, and a router
// that is asked.
package administration

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/cmd/beeline/local"
	"github.com/beeline-mqtt/beeline/internal/rpc"
	"github.com/beeline-mqtt/beeline/services/gateway"
	"github.com/beeline-mqtt/beeline/test/clustertest"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	v3 = rawmqtt.V311
	v5 = rawmqtt.V5
)

// gateways is how many there are.
const gateways = 3

// world is a cluster with a router, and an operator.
type world struct {
	*clustertest.Cluster
	t     *testing.T
	admin adminv1.AdminServiceClient
}

func start(t *testing.T, change func(i int, c *gateway.Config)) *world {
	t.Helper()
	w := &world{t: t, Cluster: clustertest.Start(t, gateways, func(c *local.Config) {
		c.Router, c.Gateway = &local.RouterPorts{}, change
	})}
	w.admin = adminv1.NewAdminServiceClient(w.dial(w.Router().Node.Address()))
	return w
}

// dial connects an operator to a process.
func (w *world) dial(address string) *grpc.ClientConn {
	w.t.Helper()
	files := w.Router().Operator
	cfg := rpc.DefaultConfig()
	cfg.TLS = rpc.TLSConfig{CertFile: files.Cert, KeyFile: files.Key, CAFile: w.CAFile()}
	d, err := rpc.NewDialer(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	conn, err := d.Dial(address)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (w *world) context() context.Context {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), clustertest.Patience)
	w.t.Cleanup(cancel)
	return ctx
}

// incarnation of gateway i: that of a client that comes there.
func (w *world) incarnation(i int) string {
	w.t.Helper()
	c := rawmqtt.Connect(w.t, w.MQTT(i), v5, "which-gateway")
	defer c.Disconnect()
	return w.client("which-gateway").GetHolder()
}

// list returns all clients of a request, page by page.
func (w *world) list(r *adminv1.ListClientsRequest) (all []*adminv1.ClientSummary, troubles []string) {
	w.t.Helper()
	for {
		page, err := w.admin.ListClients(w.context(), r)
		if err != nil {
			w.t.Fatalf("ListClients(%v): %v", r, err)
		}
		all = append(all, page.GetClients()...)
		troubles = append(troubles, page.GetTroubles()...)
		if r.PageToken = page.GetNextPageToken(); r.GetPageToken() == "" {
			return all, troubles
		}
	}
}

func ids(all []*adminv1.ClientSummary) (ids []string) {
	for _, c := range all {
		ids = append(ids, c.GetClientId())
	}
	return ids
}

func (w *world) client(id string) *adminv1.GetClientResponse {
	w.t.Helper()
	c, err := w.admin.GetClient(w.context(), &adminv1.GetClientRequest{ClientId: id})
	if err != nil {
		w.t.Fatalf("GetClient(%q): %v", id, err)
	}
	return c
}

// away waits until a client is away with its session.
func (w *world) away(id string) {
	w.t.Helper()
	clustertest.Eventually(w.t, id+" is away", func() bool {
		return w.client(id).GetClient().GetPresence() == adminv1.Presence_PRESENCE_AWAY
	})
}

func code[T any](_ T, err error) codes.Code { return status.Code(err) }

func wantCode(t *testing.T, what string, got, want codes.Code) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// kept has a durable client with some subscriptions, and then has it go.
func (w *world) kept(i int, id string, filters ...string) {
	w.t.Helper()
	c := rawmqtt.Connect(w.t, w.MQTT(i), v5, id, rawmqtt.Durable(3600))
	for _, f := range filters {
		c.MustSubscribe(f, 1)
	}
	c.Disconnect()
	w.away(id)
}

// forever leaves a client in peace that sends nothing.
func forever(p *packets.Packet) { p.Connect.Keepalive = 0 }

// will gives a client a will.
func will(topic string) rawmqtt.Option {
	return func(p *packets.Packet) {
		p.Connect.WillFlag, p.Connect.WillTopic, p.Connect.WillPayload = true, topic, []byte("gone")
	}
}

// user gives a client a user name.
func user(name string) rawmqtt.Option {
	return func(p *packets.Packet) { p.Connect.UsernameFlag, p.Connect.Username = true, []byte(name) }
}

// expectDisconnect expects the connection to end with a DISCONNECT.
func expectDisconnect(t *testing.T, c *rawmqtt.Client, want byte) {
	t.Helper()
	if got := c.Expect(packets.Disconnect).ReasonCode; got != want {
		t.Errorf("DISCONNECT %#x, want %#x", got, want)
	}
}

// step is a trace in short.
type step struct {
	kind                   adminv1.TraceStep
	incarnation, other, is string
}

// trace follows messages; next returns the next step.
type trace struct {
	t      *testing.T
	stream interface {
		Recv() (*adminv1.TraceResponse, error)
	}
	stop func()
}

func (w *world) trace(r *adminv1.TraceRequest) *trace {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 3*clustertest.Patience)
	w.t.Cleanup(cancel)
	stream, err := w.admin.Trace(ctx, r)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		w.t.Fatalf("Trace(%v): %v", r, err)
	}
	return &trace{w.t, stream, cancel}
}

func (t *trace) next() *adminv1.TraceResponse {
	t.t.Helper()
	r, err := t.stream.Recv()
	if err != nil {
		t.t.Fatalf("the trace ends: %v", err)
	}
	if r.GetTrouble() == "" && time.Since(r.GetTime().AsTime()) > time.Hour {
		t.t.Errorf("a step at %v", r.GetTime().AsTime())
	}
	return r
}

// until returns all steps up to one of a kind.
func (t *trace) until(kind adminv1.TraceStep) (all []*adminv1.TraceResponse) {
	t.t.Helper()
	for {
		r := t.next()
		all = append(all, r)
		if r.GetStep() == kind {
			return all
		}
	}
}

func short(all []*adminv1.TraceResponse) (steps []step) {
	for _, r := range all {
		steps = append(steps, step{r.GetStep(), r.GetIncarnation(), r.GetOther(), r.GetDetail()})
	}
	return sorted(steps)
}

// events are the last ones of a client, newest first.
func (w *world) events(id string) (all []string) {
	w.t.Helper()
	r := w.client(id)
	if len(r.GetTroubles()) > 0 {
		w.t.Errorf("troubles %v", r.GetTroubles())
	}
	for _, e := range r.GetEvents() {
		what := map[messagingv1.PresenceEvent_Kind]string{
			messagingv1.PresenceEvent_KIND_CONNECTED: "connected", messagingv1.PresenceEvent_KIND_DISCONNECTED: "disconnected",
		}[e.GetKind()]
		all = append(all, strings.TrimSpace(fmt.Sprintf("%s at %s %s", what, e.GetGateway(), e.GetReason())))
	}
	return all
}
