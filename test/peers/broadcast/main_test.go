package main

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

func TestAMessageArrivesAsItWasSent(t *testing.T) {
	for _, want := range []message{
		{node: "4711", qos: 2, topic: "a/b", payload: []byte("hello")},
		{node: "1", topic: "a", payload: []byte{}},
	} {
		b := encode(want)
		got, err := decode(b)
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(message{})); diff != "" || err != nil {
			t.Errorf("decode: %v\n%s", err, diff)
		}
		for n := range len(b) - len(want.payload) {
			if _, err := decode(b[:n]); err == nil {
				t.Errorf("the first %d bytes of %q were taken for a message", n, b)
			}
		}
	}
}

func TestANodePublishesWhatOthersSendAndNotItsOwn(t *testing.T) {
	server := mqtt.New(&mqtt.Options{InlineClient: true})
	sent := 0
	if err := server.AddHook(&sender{node: "1", send: func([]byte) error { sent++; return nil }}, nil); err != nil {
		t.Fatal(err)
	}
	var got []string
	if err := server.Subscribe("#", 1, func(_ *mqtt.Client, _ packets.Subscription, pk packets.Packet) {
		got = append(got, pk.TopicName)
	}); err != nil {
		t.Fatal(err)
	}
	for _, m := range []message{{node: "1", topic: "own"}, {node: "2", topic: "other"}} {
		if err := receive(server, "1", encode(m)); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"other"}, got); diff != "" {
		t.Error(diff)
	}
	if sent != 0 {
		t.Errorf("%d messages of other nodes were sent on", sent)
	}
}

func TestWhatAClientPublishesIsSentToAllNodes(t *testing.T) {
	var got []byte
	s := &sender{node: "1", send: func(b []byte) error { got = b; return context.Canceled }}
	s.OnPublished(&mqtt.Client{}, packets.Packet{FixedHeader: packets.FixedHeader{Qos: 1}, TopicName: "t", Payload: []byte("p")})
	m, err := decode(got)
	if diff := cmp.Diff(message{node: "1", qos: 1, topic: "t", payload: []byte("p")}, m, cmp.AllowUnexported(message{})); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
}
