package command

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/services/router/internal/client"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is gateways that give a Commander its sessions, and devices that are given its commands.
type cluster struct {
	t        *testing.T
	sessions chan session          // that were opened
	refused  chan string           // client ids of those that were not
	commands chan *message.Message // that devices have got

	mu   sync.Mutex // guards the following
	held string     // nobody is given a session of this client id
}

// session is a session of a Commander, as its gateway sees it.
type session struct {
	id   string
	line *rawmqtt.Client
}

// commander runs a Commander in a cluster.
func commander(t *testing.T) (*Commander, *cluster) {
	t.Helper()
	x := &cluster{t: t, sessions: make(chan session, 4), refused: make(chan string, 100), commands: make(chan *message.Message, 4)}
	c := New(Deps{Connect: x.connect, Send: x.send, Metrics: NewMetrics(prometheus.NewRegistry()), Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return c, x
}

func (x *cluster) hold(clientID string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.held = clientID
}

func (x *cluster) connect(ctx context.Context, c client.Config) (*client.Conn, error) {
	id := c.Connect.ClientID
	x.mu.Lock()
	held := x.held == id
	x.mu.Unlock()
	if held {
		x.refused <- id
		return nil, errors.New("another gateway has it")
	}
	near, far := net.Pipe()
	s := session{id, rawmqtt.Over(x.t, far, rawmqtt.V5)}
	go func() {
		s.line.Expect(packets.Connect)
		s.line.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connack}, ProtocolVersion: rawmqtt.V5})
		x.sessions <- s
	}()
	return client.Open(ctx, near, c)
}

func (x *cluster) send(_ context.Context, clientID string, m *message.Message) (*messagingv1.Receipt, error) {
	x.commands <- m
	return &messagingv1.Receipt{ClientId: clientID, Outcome: messagingv1.Outcome_OUTCOME_DELIVERED}, nil
}

// answer answers a command that device was given.
func (s session) answer(m *message.Message) {
	p := rawmqtt.PublishPacket(m.Props.ResponseTopic, string(m.Payload), 0)
	p.Mods.AllowResponseInfo = true
	p.Properties.CorrelationData = m.Props.CorrelationData
	p.Properties.User = []packets.UserProperty{{Key: message.PublisherProperty, Val: "device"}}
	s.line.Send(p)
}

// begin commands device. What comes of it is what it answers, or the error.
func begin(t *testing.T, c *Commander, payload string) <-chan string {
	t.Helper()
	ended := make(chan string, 1)
	go func() {
		r, err := c.Do(t.Context(), &messagingv1.CommandRequest{
			ClientId: "device", Message: &messagingv1.Message{Topic: "do", Payload: []byte(payload)}, TimeoutMs: uint32(rawmqtt.Patience.Milliseconds()),
		})
		if err != nil {
			ended <- err.Error()
			return
		}
		ended <- string(r.GetMessage().GetPayload())
	}()
	return ended
}

// soon is what comes.
func soon[T any](t *testing.T, what string, from <-chan T) (x T) {
	t.Helper()
	select {
	case x = <-from:
	case <-time.After(rawmqtt.Patience):
		t.Fatalf("%s: nothing", what)
	}
	return x
}

// The gateway dies at which the session for answers is: for a while that session is not to be had elsewhere.
func TestCommandsDoNotWaitForASessionThatWasLost(t *testing.T) {
	c, x := commander(t)
	first := begin(t, c, "first")
	former := soon(t, "a session", x.sessions)
	early := soon(t, "a command", x.commands)
	x.hold(former.id)
	former.line.Close()
	soon(t, "it asks for the session again", x.refused)

	second := begin(t, c, "second")
	m := soon(t, "another command", x.commands)
	if strings.Contains(m.Props.ResponseTopic, former.id) {
		t.Fatalf("it is to be answered to %q, which nobody has", m.Props.ResponseTopic)
	}
	next := soon(t, "another session", x.sessions)
	defer next.line.Close()
	next.answer(m)
	if got := soon(t, "the end of the second command", second); got != "second" {
		t.Errorf("the second command: %s", got)
	}
	begin(t, c, "third")
	if again := soon(t, "a third command", x.commands); again.Props.ResponseTopic != m.Props.ResponseTopic {
		t.Errorf("it is to be answered to %q, the one before to %q", again.Props.ResponseTopic, m.Props.ResponseTopic)
	}

	// It is known, and the device has answered the command from before.
	x.hold("")
	again := soon(t, "the former session", x.sessions)
	if again.id != former.id {
		t.Fatalf("a session of %q, want %q", again.id, former.id)
	}
	again.answer(early)
	if got := soon(t, "the end of the first command", first); got != "first" {
		t.Errorf("the first command: %s", got)
	}
	again.line.ExpectClosed() // nobody needs it any more
}
