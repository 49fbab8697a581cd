package pebble_test

import (
	"fmt"
	"log/slog"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
	"github.com/beeline-mqtt/beeline/services/session/internal/store/pebble"
)

const benchSessions = 256

// openReal opens a store on the disk of this machine, with sessions of epoch 1.
func openReal(b *testing.B, sessions int, change func(*pebble.Options)) *pebble.Store {
	b.Helper()
	o := pebble.Options{Dir: b.TempDir(), Logger: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()}
	if change != nil {
		change(&o)
	}
	s, err := pebble.Open(o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	var wg sync.WaitGroup
	for i := range sessions {
		wg.Add(1)
		s.Put(0, store.Record{Client: fmt.Sprint("client-", i), Session: journal.SessionID(i+1) * 0x9E3779B97F4A7C15, Epoch: 1}, func(err error) {
			if err != nil {
				b.Error(err)
			}
			wg.Done()
		})
	}
	wg.Wait()
	return s
}

func session(i int) (string, journal.SessionID) {
	return fmt.Sprint("client-", i), journal.SessionID(i+1) * 0x9E3779B97F4A7C15
}

// appends writes b.N entries from sessions that each have a number of writes under way, trimming what is older.
func appends(b *testing.B, s *pebble.Store, underWay, size int, qos byte, trim bool) {
	payload := make([]byte, size)
	b.ReportAllocs()
	b.ResetTimer()
	var writers sync.WaitGroup
	for i := range benchSessions {
		writers.Go(func() {
			client, id := session(i)
			room := make(chan struct{}, underWay)
			for n := 1; n <= b.N/benchSessions+1; n++ {
				room <- struct{}{}
				at := journal.Position(n)
				m := &message.Message{ID: message.ID{Origin: "gateway-1-abcdefgh", Seq: uint64(n*benchSessions + i)}, Publisher: "publisher", Topic: "some/topic/of/it", Payload: payload, QoS: qos}
				changes := []journal.Change{{Kind: journal.Append, Entry: journal.Entry{Position: at, QoS: qos, Message: m}}}
				if trim && n > 4 {
					changes = append(changes, journal.Change{Kind: journal.Done, Position: at - 4})
				}
				s.Write(journal.Write{Client: client, Session: id, Epoch: 1, Changes: changes}, func(_ []journal.LeftOut, err error) {
					if err != nil {
						b.Error(err)
					}
					<-room
				})
			}
			for range underWay {
				room <- struct{}{}
			}
		})
	}
	writers.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{64, 220, 1024} {
		for _, underWay := range []int{1, 16} {
			b.Run(fmt.Sprintf("%dB/%d under way", size, underWay), func(b *testing.B) {
				appends(b, openReal(b, benchSessions, nil), underWay, size, 1, false)
			})
		}
	}
	b.Run("64B/16 under way/QoS 2", func(b *testing.B) { appends(b, openReal(b, benchSessions, nil), 16, 64, 2, false) })
	b.Run("64B/16 under way/and trimmed", func(b *testing.B) { appends(b, openReal(b, benchSessions, nil), 16, 64, 1, true) })
	b.Run("64B/16 under way/QoS 2 and trimmed", func(b *testing.B) { appends(b, openReal(b, benchSessions, nil), 16, 64, 2, true) })
}

func BenchmarkPage(b *testing.B) {
	for _, size := range []int{64, 1024} {
		b.Run(fmt.Sprintf("100 of %dB", size), func(b *testing.B) {
			s := openReal(b, benchSessions, nil)
			const each = 400
			payload := make([]byte, size)
			var wg sync.WaitGroup
			for n := range each {
				for i := range benchSessions {
					client, id := session(i)
					m := &message.Message{ID: message.ID{Origin: "gateway-1-abcdefgh", Seq: uint64(n*benchSessions + i)}, Topic: "some/topic/of/it", Payload: payload, QoS: 1}
					wg.Add(1)
					s.Write(journal.Write{Client: client, Session: id, Epoch: 1, Changes: []journal.Change{
						{Kind: journal.Append, Entry: journal.Entry{Position: journal.Position(n + 1), QoS: 1, Message: m}},
					}}, func([]journal.LeftOut, error) { wg.Done() })
				}
			}
			wg.Wait()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				client, id := session(i % benchSessions)
				page, err := s.Inbox(client, id, journal.Position(i/benchSessions%4*100), 100, 1<<20)
				if err != nil || len(page) != 100 {
					b.Fatal(len(page), err)
				}
			}
			b.ReportMetric(float64(b.N)*100/b.Elapsed().Seconds(), "msg/s")
		})
	}
}

// BenchmarkFanOut stores one message in many inboxes.
func BenchmarkFanOut(b *testing.B) {
	for _, share := range []int{0, 1 << 30} {
		b.Run(fmt.Sprintf("1024B to 256/shared above %d", share), func(b *testing.B) {
			s := openReal(b, benchSessions, func(o *pebble.Options) { o.ShareAbove = share })
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			for n := range b.N / benchSessions {
				m := &message.Message{ID: message.ID{Origin: "gateway-1-abcdefgh", Seq: uint64(n)}, Topic: "some/topic", Payload: make([]byte, 1024), QoS: 1}
				for i := range benchSessions {
					client, id := session(i)
					wg.Add(1)
					s.Write(journal.Write{Client: client, Session: id, Epoch: 1, Changes: []journal.Change{
						{Kind: journal.Append, Entry: journal.Entry{Position: journal.Position(n + 1), QoS: 1, Message: m}},
					}}, func([]journal.LeftOut, error) { wg.Done() })
				}
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}

// BenchmarkLoad opens a store of 100,000 sessions with one message each, and visits them.
func BenchmarkLoad(b *testing.B) {
	const sessions = 100_000
	dir := b.TempDir()
	s := openReal(b, sessions, func(o *pebble.Options) { o.Dir = dir })
	var wg sync.WaitGroup
	for i := range sessions {
		client, id := session(i)
		m := &message.Message{ID: message.ID{Origin: "g", Seq: uint64(i)}, Topic: "some/topic", Payload: make([]byte, 64), QoS: 1}
		wg.Add(1)
		s.Write(journal.Write{Client: client, Session: id, Epoch: 1, Changes: []journal.Change{
			{Kind: journal.Append, Entry: journal.Entry{Position: 1, QoS: 1, Message: m}},
		}}, func([]journal.LeftOut, error) { wg.Done() })
	}
	wg.Wait()
	s.Close()
	for b.Loop() {
		s, err := pebble.Open(pebble.Options{Dir: dir, Logger: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		if err := s.Load(func(store.Record, store.Stats) error { n++; return nil }); err != nil || n != sessions {
			b.Fatal(n, err)
		}
		s.Close()
	}
}
