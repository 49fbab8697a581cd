package client

import (
	"errors"
	"time"

	"github.com/beeline-mqtt/beeline/internal/config"
	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/topic"
)

// Limits bound what one client may use. Every limit that MQTT 5 has a property for is announced in CONNACK.
type Limits struct {
	// ConnectTimeout is how long a connection may take from accept to the end of its CONNECT, TLS included.
	ConnectTimeout time.Duration `koanf:"connect_timeout" help:"how long a connection may take up to the end of its CONNECT"`
	// ConnectBytes bounds the CONNECT packet, before anybody is authenticated.
	ConnectBytes config.Bytes `koanf:"connect_bytes" help:"size of a CONNECT packet"`
	// PacketBytes is the server's Maximum Packet Size.
	PacketBytes config.Bytes `koanf:"packet_bytes" help:"Maximum Packet Size"`
	// TopicBytes, TopicLevels and TopicLevelBytes bound topic names and filters.
	TopicBytes      int `koanf:"topic_bytes" help:"bytes of a topic name or filter"`
	TopicLevels     int `koanf:"topic_levels" help:"levels of a topic name or filter"`
	TopicLevelBytes int `koanf:"topic_level_bytes" help:"bytes of one level of a topic"`
	// FilterWildcards bounds the + in one filter: filters with many of them make matching slow for everybody.
	FilterWildcards int `koanf:"filter_wildcards" help:"single-level wildcards (+) in one filter"`
	// ClientIDBytes bounds the client identifier.
	ClientIDBytes int `koanf:"client_id_bytes" help:"bytes of a client id"`
	// WillBytes bounds the payload of a will.
	WillBytes config.Bytes `koanf:"will_bytes" help:"payload of a will"`
	// Subscriptions of one client, and filters in one SUBSCRIBE or UNSUBSCRIBE.
	Subscriptions    int `koanf:"subscriptions" help:"subscriptions of one client"`
	FiltersPerPacket int `koanf:"filters_per_packet" help:"filters in one SUBSCRIBE or UNSUBSCRIBE"`
	// TopicAliases is the Topic Alias Maximum, in both directions.
	TopicAliases int `koanf:"topic_aliases" help:"Topic Alias Maximum, both ways"`
	// SendMaximum bounds the messages in flight to the client, beside its own Receive Maximum.
	SendMaximum int `koanf:"send_maximum" help:"messages in flight to a client, beside its own Receive Maximum"`
	// ReceiveMaximum is the server's Receive Maximum: messages in flight from the client.
	ReceiveMaximum int `koanf:"receive_maximum" help:"Receive Maximum: messages in flight from a client"`
	// UnsettledBytes bounds the messages from the client whose receipts are outstanding; beyond it the socket
	// is not read.
	UnsettledBytes config.Bytes `koanf:"unsettled_bytes" help:"bytes in flight from a client before its socket is not read"`
	// QueueMessages and QueueBytes bound what waits for the client.
	QueueMessages int          `koanf:"queue_messages" help:"messages that wait for a client"`
	QueueBytes    config.Bytes `koanf:"queue_bytes" help:"bytes that wait for a client"`
	// KeepAliveMaximum is what an MQTT 5 client gets as Server Keep Alive when it asks for more, or for none.
	KeepAliveMaximum time.Duration `koanf:"keep_alive_maximum" help:"Server Keep Alive for MQTT 5 clients that ask for more, or for none"`
	// WriteTimeout ends a connection that takes no byte for so long.
	WriteTimeout time.Duration `koanf:"write_timeout" help:"end a connection that takes no byte for so long"`
	// SlowTimeout ends a connection whose queue has been full for so long.
	SlowTimeout time.Duration `koanf:"slow_timeout" help:"end a connection whose queue is full for so long"`
	// ReceiptTimeout is how long the publisher of a message waits for the cluster's receipts.
	ReceiptTimeout time.Duration `koanf:"receipt_timeout" help:"how long a publisher waits for the receipts of its message"`
	// SessionExpiryMaximum bounds how long a session outlives its connection; 0: not at all.
	SessionExpiryMaximum time.Duration `koanf:"session_expiry_maximum" help:"how long a session may outlive its connection; 0s: not at all"`
	// StoreAfter is how long a message for a durable session waits for the client's acknowledgement before it is stored.
	StoreAfter time.Duration `koanf:"store_after" help:"how long a message waits for a durable client's acknowledgement before it is stored"`
	// Patience is how long a connection that is being ended may take to write its last packet.
	Patience time.Duration `koanf:"patience" help:"how long an ending connection may take over its last packet"`
}

// Topic returns the bounds of topics.
func (l *Limits) Topic() topic.Limits {
	return topic.Limits{Bytes: l.TopicBytes, Levels: l.TopicLevels, LevelBytes: l.TopicLevelBytes}
}

// capExpiry returns the Session Expiry Interval that a client gets which asks for one, both in seconds.
func (l *Limits) capExpiry(asked uint32) uint32 {
	return min(asked, uint32(l.SessionExpiryMaximum/time.Second))
}

// DefaultLimits are the limits of a gateway that is not configured otherwise.
func DefaultLimits() Limits {
	t := topic.DefaultLimits()
	return Limits{
		ConnectTimeout:   10 * time.Second,
		ConnectBytes:     64 * config.KiB,
		PacketBytes:      2 * config.MiB,
		TopicBytes:       t.Bytes,
		TopicLevels:      t.Levels,
		TopicLevelBytes:  t.LevelBytes,
		FilterWildcards:  5,
		ClientIDBytes:    256,
		WillBytes:        64 * config.KiB,
		Subscriptions:    128,
		FiltersPerPacket: 32,
		TopicAliases:     16,
		SendMaximum:      32,
		ReceiveMaximum:   128,
		UnsettledBytes:   4 * config.MiB,
		QueueMessages:    1000,
		QueueBytes:       4 * config.MiB,
		KeepAliveMaximum: 20 * time.Minute,
		WriteTimeout:     10 * time.Second,
		SlowTimeout:      5 * time.Second,
		ReceiptTimeout:   10 * time.Second,
		Patience:         500 * time.Millisecond,

		SessionExpiryMaximum: 7 * 24 * time.Hour,
		StoreAfter:           50 * time.Millisecond,
	}
}

// Validate reports every limit that cannot work, by its configuration key.
func (l Limits) Validate() error {
	positive := func(key string, ok bool) error {
		if ok {
			return nil
		}
		return config.Invalid(key, "must be positive")
	}
	within := func(key string, v, low, high int64) error {
		if v >= low && v <= high {
			return nil
		}
		return config.Invalid(key, "must be between %d and %d, is %d", low, high, v)
	}
	const packetMost = 268_435_455 // MQTT 2.1.4
	return errors.Join(
		positive("connect_timeout", l.ConnectTimeout > 0),
		within("connect_bytes", int64(l.ConnectBytes), 64, packetMost),
		within("packet_bytes", int64(l.PacketBytes), 64, mostPacketBytes),
		within("topic_bytes", int64(l.TopicBytes), 1, 65535),
		within("topic_levels", int64(l.TopicLevels), 1, 65535),
		within("topic_level_bytes", int64(l.TopicLevelBytes), 1, 65535),
		within("filter_wildcards", int64(l.FilterWildcards), 0, 65535),
		within("client_id_bytes", int64(l.ClientIDBytes), 23, 65535), // MQTT-3.1.3-5
		within("will_bytes", int64(l.WillBytes), 0, 65536),
		positive("subscriptions", l.Subscriptions > 0),
		positive("filters_per_packet", l.FiltersPerPacket > 0),
		within("topic_aliases", int64(l.TopicAliases), 0, 65535),
		within("send_maximum", int64(l.SendMaximum), 1, 65535),
		within("receive_maximum", int64(l.ReceiveMaximum), 1, 65535),
		positive("unsettled_bytes", l.UnsettledBytes > 0),
		positive("queue_messages", l.QueueMessages > 0),
		positive("queue_bytes", l.QueueBytes > 0),
		within("keep_alive_maximum", int64(l.KeepAliveMaximum/time.Second), 1, 65535),
		positive("write_timeout", l.WriteTimeout > 0),
		positive("slow_timeout", l.SlowTimeout > 0),
		positive("receipt_timeout", l.ReceiptTimeout > 0),
		within("session_expiry_maximum", int64(l.SessionExpiryMaximum/time.Second), 0, journal.Never-1),
		positive("store_after", l.StoreAfter > 0),
		positive("patience", l.Patience > 0),
	)
}

// mostPacketBytes keeps a message with all that is around it within one frame between gateways.
const mostPacketBytes = 7 << 20
