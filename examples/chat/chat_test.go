package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/cmd/beeline/local"
	"github.com/beeline-mqtt/beeline/examples/internal/dial"
	"github.com/beeline-mqtt/beeline/test/clustertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// phone is an MQTT 5 client.
type phone struct {
	*paho.Client
	t   *testing.T
	got chan said
}

// connect connects a user's phone, which keeps its session for an hour.
func connect(t *testing.T, address, user string) *phone {
	t.Helper()
	nc, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	p := &phone{t: t, got: make(chan said, 100)}
	p.Client = paho.NewClient(paho.ClientConfig{ClientID: user + "-phone", Conn: nc, OnPublishReceived: []func(paho.PublishReceived) (bool, error){
		func(m paho.PublishReceived) (bool, error) {
			var s said
			if err := json.Unmarshal(m.Packet.Payload, &s); err != nil || m.Packet.Topic != "group/tea/said" {
				t.Errorf("%s got %s %q: %v", user, m.Packet.Topic, m.Packet.Payload, err)
			}
			p.got <- s
			return true, nil
		},
	}})
	expiry := uint32(3600)
	_, err = p.Connect(t.Context(), &paho.Connect{
		ClientID: user + "-phone", KeepAlive: 60, UsernameFlag: true, Username: user,
		Properties: &paho.ConnectProperties{SessionExpiryInterval: &expiry},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.leave)
	return p
}

func (p *phone) leave() {
	_ = p.Disconnect(&paho.Disconnect{}) // it may have left before
	<-p.Done()
}

func (p *phone) say(text string) {
	p.t.Helper()
	if _, err := p.Publish(p.t.Context(), &paho.Publish{Topic: "chat/tea/say", QoS: 1, Payload: []byte(text)}); err != nil {
		p.t.Fatal(err)
	}
}

// hears expects that something is said.
func (p *phone) hears(from, text string) {
	p.t.Helper()
	select {
	case s := <-p.got:
		if s.From != from || s.Text != text || s.Time.IsZero() {
			p.t.Errorf("%+v was said, want %q from %q", s, text, from)
		}
	case <-time.After(clustertest.Patience):
		p.t.Fatalf("nobody says %q", text)
	}
}

// console has what the chat logs.
type console struct {
	mu   sync.Mutex
	text strings.Builder
}

func (c *console) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.Write(b)
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}

// begin runs the chat against a cluster until stop, and returns the URL of its API.
func begin(t *testing.T, c *clustertest.Cluster) (url string, stop func()) {
	t.Helper()
	r := c.Router()
	ctx, cancel := context.WithCancel(context.Background())
	var log console
	ended := make(chan error, 1)
	go func() {
		f := &dial.Flags{Router: r.Node.Address(), CAFile: c.CAFile(), TokenFile: r.OperatorToken}
		ended <- run(ctx, f, "127.0.0.1:0", slog.New(slog.NewTextHandler(&log, nil)))
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the chat ends with %v", err)
		}
	})
	t.Cleanup(stop)
	clustertest.Eventually(t, "the chat listens", func() bool { return strings.Contains(log.String(), "msg=listening") })
	return regexp.MustCompile(`http=(\S+)`).FindStringSubmatch(log.String())[1], stop
}

// call calls the API and returns the status and the answer.
func call(t *testing.T, method, url, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

func TestARoomHearsWhatIsSaidAlsoWhoWasAway(t *testing.T) {
	c := clustertest.Start(t, 2, func(c *local.Config) { c.Router = &local.RouterPorts{} })
	url, stop := begin(t, c)
	for _, user := range []string{"ann", "bob"} {
		if code, text := call(t, http.MethodPut, url+"/rooms/tea/members/"+user, ""); code != http.StatusOK {
			t.Fatalf("%s may not enter: %d %s", user, code, text)
		}
	}
	ann, bob := connect(t, c.MQTT(0), "ann"), connect(t, c.MQTT(1), "bob")
	ann.say("hello")
	ann.hears("ann", "hello")
	bob.hears("ann", "hello")
	bob.leave()
	ann.say("are you there?")
	ann.hears("ann", "are you there?")

	stop() // what is written while there is no backend is said when it is back
	ann.say("is anybody?")
	url, _ = begin(t, c)
	ann.hears("ann", "is anybody?")
	connect(t, c.MQTT(0), "bob").both("are you there?", "is anybody?")

	if code, text := call(t, http.MethodPost, url+"/rooms/tea/messages", "the shop closes"); code != http.StatusOK {
		t.Errorf("announce: %d %s", code, text)
	}
	ann.hears("", "the shop closes")
	var all []said
	if code, text := call(t, http.MethodGet, url+"/rooms/tea/messages", ""); code != http.StatusOK || json.Unmarshal([]byte(text), &all) != nil || len(all) != 2 {
		t.Errorf("history: %d %s", code, text)
	}
	if code, text := call(t, http.MethodDelete, url+"/rooms/none/members/ann", ""); code != http.StatusNotFound {
		t.Errorf("leave a room that is not there: %d %s", code, text)
	}
	if code, _ := call(t, http.MethodDelete, url+"/rooms/tea/members/ann", ""); code != http.StatusOK {
		t.Errorf("leave: %d", code)
	}
}

// both expects what was said by ann while this phone was away.
func (p *phone) both(texts ...string) {
	p.t.Helper()
	for _, text := range texts {
		p.hears("ann", text)
	}
}

func TestOnlyTheLastMessagesAreRemembered(t *testing.T) {
	c := newChat(nil, slog.New(slog.DiscardHandler))
	for i := range remembered + 3 {
		c.remember("tea", said{Text: fmt.Sprint(i)})
	}
	if h := c.history("tea"); len(h) != remembered || h[0].Text != "3" || len(c.history("none")) != 0 {
		t.Errorf("%d are remembered, from %v on", len(h), h[0])
	}
}

func TestErrorsAreToldApart(t *testing.T) {
	for code, want := range map[codes.Code]int{codes.NotFound: 404, codes.InvalidArgument: 400, codes.Unavailable: 503, codes.Internal: 500} {
		err := fmt.Errorf("x: %w", status.Error(code, "by order of the test"))
		if got := httpStatus(err); got != want || later(err) != (code == codes.Unavailable) {
			t.Errorf("%v: %d, later %v", code, got, later(err))
		}
	}
	r := &messagingv1.SendResponse{Counts: []*messagingv1.OutcomeCount{
		{Outcome: messagingv1.Outcome_OUTCOME_DELIVERED, Receivers: 2}, {Outcome: messagingv1.Outcome_OUTCOME_QUEUED, Receivers: 1},
	}}
	if got := counts(r); got != "2 delivered, 1 queued" {
		t.Errorf("counts: %s", got)
	}
}
