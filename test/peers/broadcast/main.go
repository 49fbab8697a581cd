// Command broadcast is one node of the design that Beeline is measured against: stock mochi-mqtt servers, each of
// which sends every PUBLISH of its clients to one Redis channel and publishes whatever the others send there. Every
// message reaches every node, whether somebody there wants it or not, and is acknowledged before it is forwarded.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/redis/go-redis/v9"
)

// channel is the one that all nodes share.
const channel = "messages"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	listen := flag.String("listen", "", "host:port for MQTT clients")
	store := flag.String("redis", "", "host:port of Redis")
	flag.Parse()
	if err := run(ctx, *listen, *store); err != nil {
		fmt.Fprintln(os.Stderr, "broadcast:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, listen, store string) error {
	client := redis.NewClient(&redis.Options{Addr: store})
	defer func() { _ = client.Close() }()
	node := strconv.Itoa(os.Getpid())

	server := mqtt.New(&mqtt.Options{InlineClient: true, Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	sender := &sender{send: func(b []byte) error { return client.Publish(ctx, channel, b).Err() }, node: node}
	for _, hook := range []mqtt.Hook{new(auth.AllowHook), sender} {
		if err := server.AddHook(hook, nil); err != nil {
			return fmt.Errorf("add hook %s: %w", hook.ID(), err)
		}
	}
	if err := server.AddListener(listeners.NewTCP(listeners.Config{ID: "mqtt", Address: listen})); err != nil {
		return fmt.Errorf("listen on %s: %w", listen, err)
	}

	subscription := client.Subscribe(ctx, channel)
	defer func() { _ = subscription.Close() }()
	if _, err := subscription.Receive(ctx); err != nil {
		return fmt.Errorf("subscribe to %q of Redis: %w", channel, err)
	}
	if err := server.Serve(); err != nil {
		return fmt.Errorf("serve MQTT: %w", err)
	}
	defer func() { _ = server.Close() }()
	defer context.AfterFunc(ctx, func() { _ = subscription.Close() })()
	// More than the client's default of 100, so that a burst does not make it lose any.
	for m := range subscription.Channel(redis.WithChannelSize(10000)) {
		if err := receive(server, node, []byte(m.Payload)); err != nil {
			return err
		}
	}
	if ctx.Err() == nil {
		return errors.New("redis ended the subscription")
	}
	return nil
}

// sender is the hook that sends messages to the other nodes.
type sender struct {
	mqtt.HookBase

	node string
	send func(b []byte) error
}

// ID names the hook in logs.
func (s *sender) ID() string { return "broadcast" }

// Provides says what the hook is called for.
func (s *sender) Provides(b byte) bool { return b == mqtt.OnPublished }

// OnPublished sends what a client has published. What came from another node is not sent on.
func (s *sender) OnPublished(cl *mqtt.Client, pk packets.Packet) {
	if cl.Net.Inline {
		return
	}
	if err := s.send(encode(message{s.node, pk.FixedHeader.Qos, pk.TopicName, pk.Payload})); err != nil && !errors.Is(err, context.Canceled) {
		s.Log.Error("not sent to the other nodes", slog.Any("error", err))
	}
}

// receive publishes what another node has sent.
func receive(server *mqtt.Server, node string, b []byte) error {
	m, err := decode(b)
	if err != nil {
		return err
	}
	if m.node == node {
		return nil
	}
	if err := server.Publish(m.topic, m.payload, false, m.qos); err != nil {
		return fmt.Errorf("publish a message of node %s: %w", m.node, err)
	}
	return nil
}

// message is what nodes send each other.
type message struct {
	node    string // who has sent it; at most 255 bytes
	qos     byte
	topic   string // at most 65,535 bytes
	payload []byte
}

func encode(m message) []byte {
	b := make([]byte, 0, 4+len(m.node)+len(m.topic)+len(m.payload))
	b = append(b, m.qos, byte(len(m.node)), byte(len(m.topic)>>8), byte(len(m.topic)))
	b = append(append(b, m.node...), m.topic...)
	return append(b, m.payload...)
}

// decode is the reverse of encode. The payload is part of b.
func decode(b []byte) (message, error) {
	if len(b) < 4 {
		return message{}, io.ErrUnexpectedEOF
	}
	m := message{qos: b[0]}
	node, topic := int(b[1]), int(b[2])<<8|int(b[3])
	if b = b[4:]; len(b) < node+topic {
		return message{}, io.ErrUnexpectedEOF
	}
	m.node, m.topic, m.payload = string(b[:node]), string(b[node:node+topic]), b[node+topic:]
	return m, nil
}
