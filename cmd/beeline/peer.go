package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/eclipse/paho.golang/paho"
	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// pair is one user property.
type pair struct{ name, value string }

// sent is a message to publish. What 3.1.1 does not know is left out there.
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

// received is a message that has come.
type received struct {
	Topic         string   `json:"topic"`
	Payload       string   `json:"payload"`
	QoS           byte     `json:"qos"`
	Retain        bool     `json:"retain,omitempty"`
	Expiry        *uint32  `json:"message_expiry_interval,omitempty"`
	ContentType   string   `json:"content_type,omitempty"`
	ResponseTopic string   `json:"response_topic,omitempty"`
	Correlation   string   `json:"correlation_data,omitempty"`
	Properties    []string `json:"user_properties,omitempty"`
}

// peer is an MQTT client of either version.
type peer interface {
	publish(ctx context.Context, m sent) error
	subscribe(ctx context.Context, filters []string, qos byte) error
	// lost is closed when the connection is over.
	lost() <-chan error
	close()
}

// connect opens an MQTT connection; deliver is called for every message, one after the other.
func connect(ctx context.Context, t *target, deliver func(received)) (peer, error) {
	v5, err := t.v5()
	if err != nil {
		return nil, err
	}
	password, err := t.password()
	if err != nil {
		return nil, err
	}
	if v5 {
		return connect5(ctx, t, password, deliver)
	}
	return connect3(ctx, t, password, deliver)
}

type peer5 struct {
	c   *paho.Client
	end chan error
}

func connect5(ctx context.Context, t *target, password []byte, deliver func(received)) (peer, error) {
	nc, err := t.dial(ctx)
	if err != nil {
		return nil, err
	}
	p := &peer5{end: make(chan error, 2)}
	p.c = paho.NewClient(paho.ClientConfig{
		Conn:     nc,
		ClientID: t.clientID,
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(r paho.PublishReceived) (bool, error) {
			deliver(from5(r.Packet))
			return true, nil
		}},
		OnClientError: func(err error) { p.end <- err },
		OnServerDisconnect: func(d *paho.Disconnect) {
			reason := ""
			if d.Properties != nil {
				reason = ": " + d.Properties.ReasonString
			}
			p.end <- fmt.Errorf("the broker ended the connection (reason 0x%02x%s)", d.ReasonCode, reason)
		},
	})
	cp := &paho.Connect{
		ClientID: t.clientID, KeepAlive: t.keepAlive, CleanStart: true,
		Username: t.username, UsernameFlag: t.username != "", Password: password, PasswordFlag: password != nil,
	}
	ack, err := p.c.Connect(ctx, cp)
	switch {
	case ack != nil && ack.ReasonCode >= 0x80:
		return nil, fmt.Errorf("refused: reason 0x%02x %s", ack.ReasonCode, reasonOf(ack.Properties))
	case err != nil:
		return nil, fmt.Errorf("connect: %w", err)
	}
	return p, nil
}

func reasonOf(p *paho.ConnackProperties) string {
	if p == nil {
		return ""
	}
	return p.ReasonString
}

func from5(m *paho.Publish) received {
	r := received{Topic: m.Topic, Payload: string(m.Payload), QoS: m.QoS, Retain: m.Retain}
	if p := m.Properties; p != nil {
		r.Expiry, r.ContentType, r.ResponseTopic, r.Correlation = p.MessageExpiry, p.ContentType, p.ResponseTopic, string(p.CorrelationData)
		for _, u := range p.User {
			r.Properties = append(r.Properties, u.Key+"="+u.Value)
		}
	}
	return r
}

func (p *peer5) publish(ctx context.Context, m sent) error {
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
		return fmt.Errorf("publish: %w", err)
	}
	return nil
}

func (p *peer5) subscribe(ctx context.Context, filters []string, qos byte) error {
	s := &paho.Subscribe{}
	for _, f := range filters {
		s.Subscriptions = append(s.Subscriptions, paho.SubscribeOptions{Topic: f, QoS: qos})
	}
	if _, err := p.c.Subscribe(ctx, s); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	return nil
}

func (p *peer5) lost() <-chan error { return p.end }

func (p *peer5) close() { _ = p.c.Disconnect(&paho.Disconnect{}) }

type peer3 struct {
	c   mqtt.Client
	end chan error
}

func connect3(ctx context.Context, t *target, password []byte, deliver func(received)) (peer, error) {
	p := &peer3{end: make(chan error, 1)}
	o := mqtt.NewClientOptions().AddBroker(t.url).SetClientID(t.clientID).SetProtocolVersion(4).
		SetCleanSession(true).SetAutoReconnect(false).SetKeepAlive(time.Duration(t.keepAlive) * time.Second).
		SetUsername(t.username).SetPassword(string(password)).
		SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) { return t.dial(ctx) }).
		SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) {
			deliver(received{Topic: m.Topic(), Payload: string(m.Payload()), QoS: m.Qos(), Retain: m.Retained()})
		}).
		SetConnectionLostHandler(func(_ mqtt.Client, err error) { p.end <- fmt.Errorf("connection lost: %w", err) })
	p.c = mqtt.NewClient(o)
	if err := finished(ctx, p.c.Connect()); err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return p, nil
}

// finished waits for an operation of the 3.1.1 client.
func finished(ctx context.Context, t mqtt.Token) error {
	select {
	case <-t.Done():
		return t.Error()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (p *peer3) publish(ctx context.Context, m sent) error {
	if err := finished(ctx, p.c.Publish(m.topic, m.qos, m.retain, m.payload)); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return nil
}

func (p *peer3) subscribe(ctx context.Context, filters []string, qos byte) error {
	all := make(map[string]byte, len(filters))
	for _, f := range filters {
		all[f] = qos
	}
	t := p.c.SubscribeMultiple(all, nil)
	if err := finished(ctx, t); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	if st, ok := t.(*mqtt.SubscribeToken); ok {
		for f, code := range st.Result() {
			if code >= 0x80 {
				return fmt.Errorf("subscribe: %q was refused", f)
			}
		}
	}
	return nil
}

func (p *peer3) lost() <-chan error { return p.end }

func (p *peer3) close() { p.c.Disconnect(250) }

var errNoTopic = errors.New("give at least one --topic")
