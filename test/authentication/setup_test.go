//go:build linux

// Package authentication has clients of other people's libraries show who they are, to gateways and to the router before
// them, and do what rules permit, and what they do not.
//
// Without mosquitto's clients, what needs them is skipped; BEELINE_TEST_MOSQUITTO=1 has it fail instead.
package authentication

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
	mochi "github.com/mochi-mqtt/server/v2/packets"
	"go.uber.org/goleak"
	"golang.org/x/crypto/bcrypt"

	"github.com/beeline-mqtt/beeline/cmd/beeline/local"
	"github.com/beeline-mqtt/beeline/internal/issuer/issuertest"
	"github.com/beeline-mqtt/beeline/internal/pki"
	"github.com/beeline-mqtt/beeline/services/gateway"
	"github.com/beeline-mqtt/beeline/test/clustertest"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

const patience = 20 * time.Second

func TestMain(m *testing.M) {
	mqtt.ERROR, mqtt.CRITICAL = slog.NewLogLogger(slog.DiscardHandler, 0), slog.NewLogLogger(slog.DiscardHandler, 0)
	goleak.VerifyTestMain(m)
}

// theRules are those of the tests.
const theRules = `
rules:
  - {permission: deny, action: all, topic: "home/+/locked"}
  - {permission: allow, action: all, topic: ["home/${username}/#", "dev/${clientid}/#"]}
  - {permission: allow, action: subscribe, topic: "news/#"}
  - {permission: allow, action: publish, topic: "p2p/+/note"}
`

// guarded is a cluster of two gateways and a router, which lets in who has a password, a JWT or a certificate. Gateways have
// a further listener, mutual, which demands certificates.
type guarded struct {
	*clustertest.Cluster
	t     *testing.T
	dir   string
	signs *issuertest.Signer
	log   log
}

// log is what all processes say.
type log struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func open(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{t: t, dir: t.TempDir(), signs: issuertest.NewSigner(t, "k1")}
	g.write("users", user(t, "ann", "secret")+user(t, "bob", "other"))
	g.write("rules", theRules)
	g.write("jwks", issuertest.JWKS(t, g.signs))
	g.Cluster = clustertest.Start(t, 2, func(c *local.Config) {
		c.Router, c.Log = new(local.RouterPorts), &g.log
		authority := filepath.Join(c.Dir, "pki", "ca.crt")
		c.Gateway = func(_ int, c *gateway.Config) {
			mutual := c.Listeners[1] // like mqtts
			mutual.Name, mutual.ClientCAFile = "mutual", authority
			c.Listeners = append(c.Listeners, mutual)
			c.Auth.Methods = []string{"password", "jwt", "certificate"}
			c.Auth.Password.File, c.Auth.RulesFile, c.Auth.JWT.JWKSFile = g.path("users"), g.path("rules"), g.path("jwks")
			c.Auth.JWT.Issuer, c.Auth.JWT.Audience, c.Auth.JWT.Skew = issuertest.Issuer, issuertest.Audience, 0
			c.Auth.Failures = 0
		}
	})
	return g
}

func (g *guarded) path(name string) string { return filepath.Join(g.dir, name) }

func (g *guarded) write(name, text string) {
	g.t.Helper()
	issuertest.Write(g.t, g.path(name), text)
}

// user is a line of the password file.
func user(t *testing.T, name, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return name + ":" + string(hash) + "\n"
}

// token is a JWT for joe that is valid for so long.
func (g *guarded) token(life time.Duration) string {
	g.t.Helper()
	exp := issuertest.Set("exp", float64(time.Now().Add(life).UnixMilli())/1000)
	return g.signs.Sign(g.t, issuertest.Claims(time.Now(), exp))
}

// urls are the ways into the cluster, by name.
func (g *guarded) urls() map[string]string {
	r := g.Router().Service
	return map[string]string{
		"TCP": "tcp://" + g.MQTT(0), "TLS": "tls://" + g.MQTTS(1), "WebSocket": g.WebSocket(0),
		"router": "tcp://" + r.Addr("mqtt").String(), "router, TLS": "tls://" + r.Addr("mqtts").String(),
		"router, WebSocket": "ws://" + r.Addr("ws").String() + "/mqtt",
	}
}

// trust is a TLS configuration that trusts the cluster, and shows a certificate if there is one.
func (g *guarded) trust(cert pki.Files) *tls.Config {
	g.t.Helper()
	cfg, err := pki.Files{Cert: cert.Cert, Key: cert.Key, CA: g.CAFile()}.Client()
	if err != nil {
		g.t.Fatal(err)
	}
	return cfg
}

// paho is a client of the Eclipse Paho library for MQTT 3.1.1.
type paho struct {
	mqtt.Client
	t    *testing.T
	got  chan mqtt.Message
	lost chan error
}

// paho connects and returns the return code of CONNACK, and a client if that is 0.
func (g *guarded) paho(url, id, name, password string, cert pki.Files) (*paho, byte) {
	g.t.Helper()
	p := &paho{t: g.t, got: make(chan mqtt.Message, 10), lost: make(chan error, 1)}
	o := mqtt.NewClientOptions().AddBroker(url).SetClientID(id).SetUsername(name).SetPassword(password).SetProtocolVersion(4).
		SetAutoReconnect(false).SetConnectRetry(false).SetTLSConfig(g.trust(cert)).
		SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { p.got <- m }).
		SetConnectionLostHandler(func(_ mqtt.Client, err error) { p.lost <- err })
	p.Client = mqtt.NewClient(o)
	connecting := p.Connect()
	if !connecting.WaitTimeout(patience) {
		g.t.Fatal("no answer to CONNECT")
	}
	if err := connecting.Error(); err != nil {
		for code, known := range packets.ConnErrors {
			if known != nil && errors.Is(err, known) {
				return nil, code
			}
		}
		g.t.Fatalf("connect to %s: %v", url, err)
	}
	g.t.Cleanup(func() { p.Disconnect(0) })
	return p, 0
}

// done waits for an answer and returns the error that came with it.
func (p *paho) done(token mqtt.Token) error {
	p.t.Helper()
	if !token.WaitTimeout(patience) {
		p.t.Fatal("no answer")
	}
	return token.Error()
}

// subscribed is the code of SUBACK.
func (p *paho) subscribed(filter string) byte {
	p.t.Helper()
	token := p.Subscribe(filter, 1, nil)
	_ = p.done(token)
	s, ok := token.(*mqtt.SubscribeToken)
	if !ok {
		p.t.Fatalf("a token of type %T", token)
	}
	return s.Result()[filter]
}

func (p *paho) receives(payload string) {
	p.t.Helper()
	if m := receive(p.t, p.got); string(m.Payload()) != payload {
		p.t.Errorf("received %q, want %q", m.Payload(), payload)
	}
}

func receive[T any](t *testing.T, from <-chan T) (x T) {
	t.Helper()
	select {
	case x = <-from:
	case <-time.After(patience):
		t.Fatal("nothing came")
	}
	return x
}

// as gives a CONNECT a user name and a password.
func as(name, password string) rawmqtt.Option {
	return func(p *mochi.Packet) {
		p.Connect.UsernameFlag, p.Connect.PasswordFlag = true, true
		p.Connect.Username, p.Connect.Password = []byte(name), []byte(password)
	}
}
