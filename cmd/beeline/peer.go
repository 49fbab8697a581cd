package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	"github.com/eclipse/paho.golang/paho/session/state"
)

// pair is one user property.
type pair struct{ name, value string }

// sent is a message to publish.
type sent struct {
	topic         string
	payload       []byte
	qos           byte
	retain        bool
	expiry        time.Duration
	contentType   string
	responseTopic string
	correlation   string
	properties    []pair
}

// needsV5 reports whether there is something in it that MQTT 3.1.1 cannot say.
func (m *sent) needsV5() bool {
	return m.expiry > 0 || m.contentType != "" || m.responseTopic != "" || m.correlation != "" || len(m.properties) > 0
}

// received is a message that has come.
type received struct {
	Topic         string   `json:"topic"`
	Payload       data     `json:"payload"`
	QoS           byte     `json:"qos"`
	Retain        bool     `json:"retain,omitempty"`
	Expiry        *uint32  `json:"message_expiry_interval,omitempty"`
	ContentType   string   `json:"content_type,omitempty"`
	ResponseTopic string   `json:"response_topic,omitempty"`
	Correlation   data     `json:"correlation_data,omitempty"`
	Properties    []string `json:"user_properties,omitempty"`
}

// data are bytes that are text most of the time: in JSON a string, or {"base64": "..."} when they are not UTF-8.
type data string

// MarshalJSON loses nothing.
func (d data) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(d)) {
		return json.Marshal(string(d))
	}
	return json.Marshal(map[string][]byte{"base64": []byte(d)})
}

// peer is an MQTT client of either version.
type peer interface {
	publish(ctx context.Context, m sent) error
	subscribe(ctx context.Context, filters []string, qos byte) error
	// lost gets one error when the connection is over and close has not been called.
	lost() <-chan error
	// close ends the connection when what was taken has been acknowledged. deliver must not wait any more.
	close()
}

// receiveMaximum bounds what a broker sends before it has been taken: a reader that does not keep up holds its
// connection up and nothing else.
const receiveMaximum = 64

// errQoS and errTimeout are about flags that pub and sub have in common.
var (
	errQoS     = errors.New("--qos: 0, 1 or 2")
	errTimeout = errors.New("--timeout: not negative")
)

// bounded is ctx with a time-out, unless that is 0.
func bounded(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer from the broker within %v", timeout))
}

// settled waits for whoever has m, and keeps nobody else from it.
func settled(m *sync.Mutex) {
	m.Lock()
	defer m.Unlock()
}

// Before a session is left that stays, the broker is asked something: it has seen the acknowledgements before its
// answer. Without that they may be lost, if it sends more while we close the connection. farewell bounds it.
const farewell = 2 * time.Second

// nobodys is a filter that nobody has subscribed to.
func nobodys() string { return "beeline/" + rand.Text() }

// because prefers the reason why ctx has ended to the error that came of it.
func because(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// connect opens an MQTT connection; deliver is called for every message, one after the other, and says whether it is
// taken: what is not is not acknowledged either. ctx bounds the opening only.
func connect(ctx context.Context, t *target, deliver func(received) (taken bool)) (peer, error) {
	v5, err := t.v5()
	if err != nil {
		return nil, err
	}
	password, err := t.password()
	if err != nil {
		return nil, err
	}
	dial, err := t.dialer()
	if err != nil {
		return nil, err
	}
	c := login{target: t, password: password, dial: dial}
	if v5 {
		return connect5(ctx, c, deliver)
	}
	return connect3(ctx, c, deliver)
}

// login is a target with all that its flags stand for.
type login struct {
	*target
	password []byte
	dial     func(ctx context.Context) (net.Conn, error)
}

type peer5 struct {
	c    *paho.Client
	end  chan error
	over context.Context //nolint:containedctx // of the connection: the client library goes on waiting for answers without one
	fail context.CancelCauseFunc
	acks *acks5
	// keeps: the session stays.
	keeps bool
}

// acks5 is the session state of the client library, which acknowledges what was taken alone. The library calls it
// after each message, on the goroutine that delivers.
type acks5 struct {
	*state.State

	// delivering is held from when a message is delivered until it is acknowledged, or is not to be.
	delivering sync.Mutex
	taken      bool // of the message that is being delivered; guarded by delivering
}

// Ack implements the library's session.
func (a *acks5) Ack(m *packets.Publish) error {
	defer a.delivering.Unlock()
	if !a.taken {
		return nil
	}
	return a.State.Ack(m)
}

func connect5(ctx context.Context, t login, deliver func(received) bool) (peer, error) {
	nc, err := t.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", because(ctx, err))
	}
	p := &peer5{end: make(chan error, 1), acks: &acks5{State: state.NewInMemory()}, keeps: t.keeps()}
	p.over, p.fail = context.WithCancelCause(context.Background())
	p.c = paho.NewClient(paho.ClientConfig{
		Conn:     packets.NewThreadSafeConn(nc), // it pings while others write
		ClientID: t.clientID,
		Session:  p.acks,
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(r paho.PublishReceived) (bool, error) {
			p.acks.delivering.Lock()
			p.acks.taken = deliver(from5(r.Packet))
			return true, nil
		}},
		PacketTimeout: math.MaxInt64, // contexts bound everything
		OnClientError: func(err error) { p.ended(fmt.Errorf("connection lost: %w", err)) },
		OnServerDisconnect: func(d *paho.Disconnect) {
			reason := ""
			if d.Properties != nil {
				reason = ": " + d.Properties.ReasonString
			}
			p.ended(fmt.Errorf("the broker ended the connection (reason 0x%02x%s)", d.ReasonCode, reason))
		},
	})
	most := uint16(receiveMaximum)
	cp := &paho.Connect{
		Properties: &paho.ConnectProperties{ReceiveMaximum: &most, RequestProblemInfo: true},
		ClientID:   t.clientID, KeepAlive: t.keepAlive, CleanStart: !t.resume,
		Username: t.username, UsernameFlag: t.username != "", Password: t.password, PasswordFlag: t.password != nil,
	}
	if t.sessionExpiry > 0 {
		cp.Properties.SessionExpiryInterval = &t.sessionExpiry
	}
	ack, err := p.c.Connect(ctx, cp)
	switch {
	case ack != nil && ack.ReasonCode >= 0x80:
		return nil, fmt.Errorf("connect: refused with reason 0x%02x %s", ack.ReasonCode, reasonOf(ack.Properties))
	case err != nil:
		return nil, fmt.Errorf("connect: %w", because(ctx, err))
	}
	return p, nil
}

// ended says why the connection is over. The first reason counts.
func (p *peer5) ended(err error) {
	p.fail(err)
	select {
	case p.end <- err:
	default:
	}
}

func reasonOf(p *paho.ConnackProperties) string {
	if p == nil {
		return ""
	}
	return p.ReasonString
}

func from5(m *paho.Publish) received {
	r := received{Topic: m.Topic, Payload: data(m.Payload), QoS: m.QoS, Retain: m.Retain}
	if p := m.Properties; p != nil {
		r.Expiry, r.ContentType, r.ResponseTopic, r.Correlation = p.MessageExpiry, p.ContentType, p.ResponseTopic, data(p.CorrelationData)
		for _, u := range p.User {
			r.Properties = append(r.Properties, u.Key+"="+u.Value)
		}
	}
	return r
}

// connected is ctx, but ends with the connection.
func (p *peer5) connected(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(p.over, func() { cancel(context.Cause(p.over)) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

func (p *peer5) publish(ctx context.Context, m sent) error {
	ctx, cancel := p.connected(ctx)
	defer cancel()
	props := &paho.PublishProperties{ContentType: m.contentType, ResponseTopic: m.responseTopic}
	if m.correlation != "" {
		props.CorrelationData = []byte(m.correlation)
	}
	if m.expiry > 0 {
		s := uint32(m.expiry / time.Second)
		props.MessageExpiry = &s
	}
	for _, u := range m.properties {
		props.User.Add(u.name, u.value)
	}
	r, err := p.c.Publish(ctx, &paho.Publish{Topic: m.topic, Payload: m.payload, QoS: m.qos, Retain: m.retain, Properties: props})
	switch {
	case r != nil && r.ReasonCode >= 0x80:
		return fmt.Errorf("publish: refused with reason 0x%02x", r.ReasonCode)
	case err != nil:
		return fmt.Errorf("publish: %w", because(ctx, err))
	}
	return nil
}

func (p *peer5) subscribe(ctx context.Context, filters []string, qos byte) error {
	ctx, cancel := p.connected(ctx)
	defer cancel()
	s := &paho.Subscribe{}
	for _, f := range filters {
		s.Subscriptions = append(s.Subscriptions, paho.SubscribeOptions{Topic: f, QoS: qos})
	}
	ack, err := p.c.Subscribe(ctx, s)
	if ack != nil {
		for i, code := range ack.Reasons {
			if code >= 0x80 && i < len(filters) {
				return fmt.Errorf("subscribe: %q was refused with reason 0x%02x", filters[i], code)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("subscribe: %w", because(ctx, err))
	}
	return nil
}

func (p *peer5) lost() <-chan error { return p.end }

func (p *peer5) close() {
	settled(&p.acks.delivering)
	if p.keeps {
		ctx, cancel := context.WithTimeout(p.over, farewell)
		defer cancel()
		_, _ = p.c.Unsubscribe(ctx, &paho.Unsubscribe{Topics: []string{nobodys()}})
	}
	_ = p.c.Disconnect(&paho.Disconnect{})
}
