package client_test

import (
	"errors"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/internal/config"
	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
)

func TestTheDefaultLimitsCanWork(t *testing.T) {
	if err := client.DefaultLimits().Validate(); err != nil {
		t.Fatal(err)
	}
}

func TestALimitThatCannotWorkNamesItsKey(t *testing.T) {
	cases := []struct {
		key string
		set func(*client.Limits)
	}{
		{"connect_timeout", func(l *client.Limits) { l.ConnectTimeout = 0 }},
		{"connect_bytes", func(l *client.Limits) { l.ConnectBytes = 10 }},
		{"packet_bytes", func(l *client.Limits) { l.PacketBytes = 63 }},
		{"packet_bytes", func(l *client.Limits) { l.PacketBytes = 8 * config.MiB }},
		{"topic_bytes", func(l *client.Limits) { l.TopicBytes = 65536 }},
		{"topic_levels", func(l *client.Limits) { l.TopicLevels = 0 }},
		{"topic_level_bytes", func(l *client.Limits) { l.TopicLevelBytes = 0 }},
		{"client_id_bytes", func(l *client.Limits) { l.ClientIDBytes = 22 }},
		{"will_bytes", func(l *client.Limits) { l.WillBytes = -1 }},
		{"subscriptions", func(l *client.Limits) { l.Subscriptions = 0 }},
		{"filters_per_packet", func(l *client.Limits) { l.FiltersPerPacket = 0 }},
		{"topic_aliases", func(l *client.Limits) { l.TopicAliases = 65536 }},
		{"send_maximum", func(l *client.Limits) { l.SendMaximum = 0 }},
		{"receive_maximum", func(l *client.Limits) { l.ReceiveMaximum = 65536 }},
		{"unsettled_bytes", func(l *client.Limits) { l.UnsettledBytes = 0 }},
		{"queue_messages", func(l *client.Limits) { l.QueueMessages = 0 }},
		{"queue_bytes", func(l *client.Limits) { l.QueueBytes = 0 }},
		{"keep_alive_maximum", func(l *client.Limits) { l.KeepAliveMaximum = 100 * time.Hour }},
		{"write_timeout", func(l *client.Limits) { l.WriteTimeout = 0 }},
		{"slow_timeout", func(l *client.Limits) { l.SlowTimeout = -1 }},
		{"receipt_timeout", func(l *client.Limits) { l.ReceiptTimeout = 0 }},
		{"session_expiry_maximum", func(l *client.Limits) { l.SessionExpiryMaximum = -time.Second }},
		{"session_expiry_maximum", func(l *client.Limits) { l.SessionExpiryMaximum = journal.Never * time.Second }},
		{"store_after", func(l *client.Limits) { l.StoreAfter = 0 }},
		{"patience", func(l *client.Limits) { l.Patience = 0 }},
	}
	for _, tc := range cases {
		t.Run(tc.key, func(t *testing.T) {
			l := client.DefaultLimits()
			tc.set(&l)
			err := l.Validate()
			var ke *config.KeyError
			if !errors.As(err, &ke) || ke.Key != tc.key {
				t.Fatalf("%v", err)
			}
		})
	}
}
