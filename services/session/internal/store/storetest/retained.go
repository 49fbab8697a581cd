package storetest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

func retainedTests() []test {
	return []test{
		{"the last message of a topic is kept", lastIsKept},
		{"no more topics than may be", quota},
		{"what has expired is passed over and removed", retainedExpire},
		{"a page is bounded, whatever the filter", retainedPages},
		{"a cursor that is none", wrongCursor},
	}
}

func topicMessage(name, payload string) *message.Message {
	m := text(1, payload)
	m.Topic, m.Retain = name, true
	return m
}

// find reads all pages, and returns the topics with their payloads.
func (b *bench) find(filter string, limit int) map[string]string {
	b.Helper()
	found := make(map[string]string)
	var cursor []byte
	for {
		page, err := b.Retained(filter, cursor, limit)
		if err != nil {
			b.Fatalf("Retained(%q): %v", filter, err)
		}
		if len(page.Messages) > limit {
			b.Fatalf("%d messages in a page of %d", len(page.Messages), limit)
		}
		for _, m := range page.Messages {
			if _, twice := found[m.Message.Topic]; twice {
				b.Fatalf("%q comes twice", m.Message.Topic)
			}
			found[m.Message.Topic] = string(m.Message.Payload)
		}
		if cursor = page.Cursor; cursor == nil {
			return found
		}
	}
}

func lastIsKept(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	var last uint64
	retain := func(name, payload string, changes bool) {
		t.Helper()
		version, err := b.retain(topicMessage(name, payload))
		wantErr(t, "Retain", err, nil)
		if version < last || changes == (version == last) {
			t.Fatalf("version %d after %d", version, last)
		}
		last = version
	}
	retain("a", "1", true)
	retain("a/b", "1", true)
	retain("a", "2", true)
	b.reopen()
	retain("a", "3", true)
	b.equal("found", b.find("#", 10), map[string]string{"a": "3", "a/b": "1"})
	retain("a", "", true)
	retain("never", "", false)
	for range 2 {
		b.equal("found", b.find("#", 10), map[string]string{"a/b": "1"})
		b.equal("count", b.RetainedCount(), uint64(1))
		b.reopen()
	}
}

func quota(t *testing.T, engine New) {
	l := store.DefaultLimits()
	l.Retained = 2
	b := start(t, engine, l)
	for _, tt := range []struct {
		topic, payload string
		want           error
	}{
		{"a", "1", nil},
		{"b", "1", nil},
		{"c", "1", store.ErrQuota},
		{"a", "2", nil},
		{"b", "", nil},
		{"c", "1", nil},
		{"d", "1", store.ErrQuota},
	} {
		_, err := b.retain(topicMessage(tt.topic, tt.payload))
		wantErr(t, tt.topic+"="+tt.payload, err, tt.want)
		b.reopen()
	}
	b.equal("found", b.find("+", 10), map[string]string{"a": "2", "c": "1"})
}

func retainedExpire(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	for i := range 10 {
		m := topicMessage(fmt.Sprint("t/", i), "x")
		if i%2 == 0 {
			m.Expires = b.Now().Add(time.Minute)
		}
		_, err := b.retain(m)
		wantErr(t, "Retain", err, nil)
	}
	b.equal("found", len(b.find("#", 3)), 10)
	b.Advance(2 * time.Minute)
	b.equal("found", len(b.find("t/+", 3)), 5)
	b.equal("found", len(b.find("t/0", 3)), 0)
	if _, err := b.Retained("#", nil, 1); err != nil { // sees that the expired ones are removed
		t.Fatal(err)
	}
	b.equal("count", b.RetainedCount(), uint64(5))
}

func retainedPages(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	const topics = 20_000
	answers := make(chan error, topics)
	for i := range topics {
		b.Retain(topicMessage(fmt.Sprintf("site/%d/sensor/%d", i/10, i%10), "x"), func(_ uint64, err error) { answers <- err })
	}
	for range topics {
		wantErr(t, "Retain", wait(b, answers), nil)
	}
	for _, tt := range []struct {
		filter string
		want   int
		pages  int // at most
	}{
		{"#", topics, topics/100 + topics/1000},
		{"site/77/#", 10, 2},
		{"site/77/sensor/7", 1, 1},
		{"site/+/sensor/7", topics / 10, topics/1000 + 20},
		{"+/+/+/+/none", 0, topics/1000 + 20},
		{"none/#", 0, 1},
	} {
		n, pages := 0, 0
		for cursor := []byte(nil); ; pages++ {
			page, err := b.Retained(tt.filter, cursor, 100)
			wantErr(t, tt.filter, err, nil)
			n += len(page.Messages)
			if cursor = page.Cursor; cursor == nil {
				break
			}
		}
		if n != tt.want || pages > tt.pages {
			t.Errorf("%s: %d messages in %d pages, want %d in at most %d", tt.filter, n, pages+1, tt.want, tt.pages)
		}
	}
}

func wrongCursor(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	_, err := b.retain(topicMessage("b", "1"))
	wantErr(t, "Retain", err, nil)
	for _, cursor := range []string{"\x00", "x", "\xff\xff"} {
		_, err := b.Retained("b", []byte(cursor), 1)
		wantErr(t, fmt.Sprintf("cursor %q", cursor), err, store.ErrInvalid)
	}
}

// randomFilters compares with the definition of matching.
func randomFilters(t *testing.T, engine New) {
	b := start(t, engine, store.DefaultLimits())
	level := rapid.SampledFrom([]string{"", "a", "b", "aa", "a\x01", "é", "$SYS", "$", "%", "p2p", "p2q"})
	have := make(map[string]string)
	rapid.Check(t, func(t *rapid.T) {
		for range rapid.IntRange(0, 20).Draw(t, "changes") {
			name := strings.Join(rapid.SliceOfN(level, 1, 4).Draw(t, "topic"), "/")
			if name == "" {
				continue
			}
			payload := rapid.SampledFrom([]string{"", "1", "2"}).Draw(t, "payload")
			if _, err := b.retain(topicMessage(name, payload)); err != nil {
				t.Fatal(err)
			}
			have[name] = payload
			if payload == "" {
				delete(have, name)
			}
		}
		wild := rapid.OneOf(level, rapid.Just("+"))
		levels := rapid.SliceOfN(wild, 1, 4).Draw(t, "filter")
		if rapid.Bool().Draw(t, "rest") {
			levels = append(levels, "#")
			if rapid.Bool().Draw(t, "only rest") {
				levels = levels[len(levels)-1:]
			}
		}
		filter := strings.Join(levels, "/")
		if filter == "" || topic.IsDirect(filter) {
			return
		}
		want := make(map[string]string)
		for name, payload := range have {
			if topic.Match(filter, name) {
				want[name] = payload
			}
		}
		b.equal(fmt.Sprintf("%q of %q", filter, slices.Sorted(maps.Keys(have))), b.find(filter, rapid.IntRange(1, 5).Draw(t, "limit")), want)
	})
}
