package main

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// peer3 is an MQTT 3.1.1 client.
type peer3 struct {
	c          mqtt.Client
	nc         chan *acks3 // the connection, from when there is one
	end        chan error
	keeps      bool       // the session stays
	delivering sync.Mutex // held from when a message is delivered until it is acknowledged, or is not to be
}

// acks3 is a connection that tells when an acknowledgement has been written: the client library hands it to another
// goroutine, and might end the connection before it is written.
type acks3 struct {
	net.Conn

	written chan struct{}
	closing sync.Once
	closed  chan struct{}
}

// Write implements net.Conn. The library writes one packet at a time.
func (c *acks3) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	const puback, pubrec = 4, 5
	if kind := b[0] >> 4; err == nil && (kind == puback || kind == pubrec) {
		select {
		case c.written <- struct{}{}:
		default:
		}
	}
	return n, err
}

// Close implements net.Conn.
func (c *acks3) Close() error {
	c.closing.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// await returns when the acknowledgement of the one message that is being delivered has been written, or never will be.
func (c *acks3) await() {
	select {
	case <-c.written:
	case <-c.closed:
	}
}

func connect3(ctx context.Context, t login, deliver func(received) bool) (peer, error) {
	p := &peer3{nc: make(chan *acks3, 1), end: make(chan error, 1), keeps: t.keeps()}
	var acks *acks3 // set before anything is delivered
	o := mqtt.NewClientOptions().AddBroker(t.url).SetClientID(t.clientID).SetProtocolVersion(4).
		SetCleanSession(!t.resume).SetAutoReconnect(false).SetKeepAlive(time.Duration(t.keepAlive) * time.Second).
		SetUsername(t.username).SetPassword(string(t.password)).
		SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) {
			nc, err := t.dial(ctx)
			if err != nil {
				return nil, err
			}
			acks = &acks3{Conn: nc, written: make(chan struct{}, 1), closed: make(chan struct{})}
			p.nc <- acks
			return acks, nil
		}).
		SetAutoAckDisabled(true).
		SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) {
			p.delivering.Lock()
			defer p.delivering.Unlock()
			if deliver(received{Topic: m.Topic(), Payload: data(m.Payload()), QoS: m.Qos(), Retain: m.Retained()}) && m.Qos() > 0 {
				m.Ack()
				acks.await()
			}
		}).
		SetConnectionLostHandler(func(_ mqtt.Client, err error) { p.end <- fmt.Errorf("connection lost: %w", err) })
	p.c = mqtt.NewClient(o)
	opening := p.c.Connect()
	if err := finished(ctx, opening); err != nil {
		select {
		case nc := <-p.nc:
			_ = nc.Close() // it may be waiting for an answer
		default: // dialling ends with ctx
		}
		<-opening.Done()
		return nil, fmt.Errorf("connect: %w", because(ctx, err))
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

func (p *peer3) close() {
	settled(&p.delivering)
	if p.keeps {
		p.c.Unsubscribe(nobodys()).WaitTimeout(farewell)
	}
	p.c.Disconnect(250)
}
