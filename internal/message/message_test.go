package message_test

import (
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/internal/message"
)

func TestAMessageExpiresAtTheEndOfItsInterval(t *testing.T) {
	now := time.Now()
	tests := []struct {
		name      string
		left      time.Duration // 0: no interval
		none      bool
		expired   bool
		remaining uint32
	}{
		{name: "never", none: true},
		{name: "in an hour", left: time.Hour, remaining: 3600},
		{name: "in a second", left: time.Second, remaining: 1},
		{name: "rounded up: it never goes out with 0", left: time.Nanosecond, remaining: 1},
		{name: "rounded up", left: 1500 * time.Millisecond, remaining: 2},
		{name: "now", left: 0, expired: true},
		{name: "a moment ago", left: -time.Nanosecond, expired: true},
		{name: "long ago", left: -time.Hour, expired: true},
		{name: "as late as MQTT can say", left: math.MaxUint32 * time.Second, remaining: math.MaxUint32},
		{name: "later than MQTT can say", left: (math.MaxUint32 + 10) * time.Second, remaining: math.MaxUint32},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := &message.Message{Expires: now.Add(tt.left)}
			if tt.none {
				m.Expires = time.Time{}
			}
			if got := m.Expired(now); got != tt.expired {
				t.Errorf("Expired = %v, want %v", got, tt.expired)
			}
			if got, ok := m.Remaining(now); got != tt.remaining || ok == tt.none {
				t.Errorf("Remaining = %d, %v; want %d, %v", got, ok, tt.remaining, !tt.none)
			}
		})
	}
}

// MQTT-3.3.2-6: what is forwarded is the received interval less the time that the message has waited.
func TestWhatRemainsIsWhatWasGivenLessTheWaiting(t *testing.T) {
	begin := time.Now()
	rapid.Check(t, func(t *rapid.T) {
		interval := rapid.Uint32Range(1, math.MaxUint32).Draw(t, "interval")
		waited := time.Duration(rapid.Int64Range(0, int64(interval)*int64(time.Second)-1).Draw(t, "waited"))
		m := &message.Message{Expires: begin.Add(time.Duration(interval) * time.Second)}
		now := begin.Add(waited)
		got, ok := m.Remaining(now)
		if want := interval - uint32(waited/time.Second); !ok || got != want {
			t.Fatalf("%d, %v after %v of %d s; want %d", got, ok, waited, interval, want)
		}
		if m.Expired(now) {
			t.Fatal("expired with time remaining")
		}
	})
}

func TestSizeCountsEverythingThatVaries(t *testing.T) {
	base := (&message.Message{}).Size()
	if base <= 0 {
		t.Fatalf("an empty message is charged %d bytes: a queue of them would have no bound", base)
	}
	some := strings.Repeat("x", 1000)
	tests := []struct {
		name string
		m    message.Message
	}{
		{"topic", message.Message{Topic: some}},
		{"payload", message.Message{Payload: []byte(some)}},
		{"content type", message.Message{Props: &message.Properties{ContentType: some}}},
		{"response topic", message.Message{Props: &message.Properties{ResponseTopic: some}}},
		{"correlation data", message.Message{Props: &message.Properties{CorrelationData: []byte(some)}}},
		{"name of a user property", message.Message{Props: &message.Properties{User: []message.UserProperty{{Name: some}}}}},
		{"value of a user property", message.Message{Props: &message.Properties{User: []message.UserProperty{{Value: some}}}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.m.Size(); got < base+1000 || got > base+1100 {
				t.Errorf("Size = %d, want a little more than %d", got, base+1000)
			}
		})
	}
	many := message.Message{Props: &message.Properties{User: make([]message.UserProperty, 1000)}}
	if got := many.Size(); got < base+16*1000 {
		t.Errorf("1,000 empty user properties are charged %d bytes", got-base)
	}
}

func TestFormsKeepWhatTheFirstEncoderMade(t *testing.T) {
	m := &message.Message{Forms: new(message.Forms)}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			slot := &m.Forms[i%len(m.Forms)]
			slot.CompareAndSwap(nil, &[]byte{byte(i)})
			if b := slot.Load(); b == nil || len(*b) != 1 {
				t.Error("an encoded form is lost")
			}
		})
	}
	wg.Wait()
}
