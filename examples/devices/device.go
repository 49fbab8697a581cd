package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"

	"github.com/eclipse/paho.golang/paho"
)

// simulate starts the devices that are wanted. stop ends them.
func simulate(ctx context.Context, o options) (stop func(), err error) {
	var all []*paho.Client
	stop = func() {
		for _, c := range all {
			_ = c.Disconnect(&paho.Disconnect{}) // whether it was still there does not matter
			<-c.Done()
		}
	}
	if o.simulate == 0 {
		return stop, nil
	}
	text, err := o.router.MQTT()
	if err != nil {
		return nil, fmt.Errorf("-simulate: %w", err)
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("-simulate: %w", err)
	}
	for i := range o.simulate {
		c, err := device(ctx, u.Host, fmt.Sprintf("%s%d", o.prefix, i))
		if err != nil {
			stop()
			return nil, fmt.Errorf("-simulate: %w", err)
		}
		all = append(all, c)
	}
	return stop, nil
}

// device connects a device of MQTT 5 that answers every command with a number. What is published to p2p/<its id>/ comes to it without
// a subscription.
func device(ctx context.Context, address, id string) (*paho.Client, error) {
	nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	var c *paho.Client
	answer := func(p paho.PublishReceived) (bool, error) {
		command := p.Packet
		if command.Properties == nil || command.Properties.ResponseTopic == "" {
			return true, nil
		}
		_, err := c.Publish(ctx, &paho.Publish{
			Topic: command.Properties.ResponseTopic, Payload: fmt.Appendf(nil, "%d kWh", rand.N(1000)),
			Properties: &paho.PublishProperties{CorrelationData: command.Properties.CorrelationData},
		})
		return true, err
	}
	c = paho.NewClient(paho.ClientConfig{ClientID: id, Conn: nc, OnPublishReceived: []func(paho.PublishReceived) (bool, error){answer}})
	if _, err := c.Connect(ctx, &paho.Connect{ClientID: id, CleanStart: true, KeepAlive: 30}); err != nil {
		return nil, fmt.Errorf("connect %s: %w", id, err)
	}
	return c, nil
}
