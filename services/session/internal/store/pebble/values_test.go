package pebble

import (
	"bytes"
	"errors"
	"testing"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// decode reads a value in every way.
func decode(key, value []byte) []error {
	_, record := readRecord(key, value)
	_, queue := readInbox(key, value)
	_, flies := readFlight(key, value)
	_, options := readOptions(key, value)
	var a, b uint64
	numbers := readNumbers(key, value, &a, &b)
	e, entry := readEntry(key, value)
	if entry == nil && e.body == bodyInline {
		readMessage(&e.inline, true)
	}
	return []error{record, queue, flies, options, numbers, entry}
}

// A value that has the right checksum and makes no sense is an error, and no reason to panic.
func FuzzValues(f *testing.F) {
	m := putMessage(nil, &message.Message{
		ID: message.ID{Origin: "g", Seq: 300}, Topic: "t", Payload: []byte("p"),
		Props: &message.Properties{CorrelationData: []byte{}, User: []message.UserProperty{{Name: "a", Value: "b"}}},
	})
	f.Add(putEntry(nil, &entry{qos: 2, body: bodyInline, ids: []uint32{1, 1 << 27}}, m))
	f.Add(putEntry(nil, &entry{qos: 1, body: bodyShared, bucket: 7, sum: 9}, nil))
	f.Add(putRecord(nil, &store.Record{Holder: "g", Epoch: 1}))
	f.Add(putNumbers(nil, 1, 2))
	f.Fuzz(func(t *testing.T, body []byte) {
		key := []byte("ekey")
		for _, err := range decode(key, seal(bytes.Clone(body), 0, key)) {
			if err != nil && !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrFuture) {
				t.Errorf("error %v", err)
			}
		}
	})
}

func TestAValueOfAnotherKeyOrAnotherVersionIsRefused(t *testing.T) {
	key := []byte("ckey")
	value := seal(putNumbers(nil, 1, 2), 0, key)
	tests := []struct {
		name       string
		key, value []byte
		want       error
	}{
		{"as it was", key, value, nil},
		{"at another key", []byte("dkey"), value, store.ErrCorrupt},
		{"cut short", key, value[:len(value)-1], store.ErrCorrupt},
		{"empty", key, nil, store.ErrCorrupt},
		{"of a version to come", key, seal([]byte{valueVersion + 1, 1, 2}, 0, key), store.ErrFuture},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var a, b uint64
			if err := readNumbers(tt.key, tt.value, &a, &b); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

func TestAfterIsTheFirstKeyBehindAPrefix(t *testing.T) {
	for _, tt := range []struct{ prefix, want string }{
		{"a", "b"}, {"a\x00", "a\x01"}, {"a\xff", "b"}, {"a\xff\xff", "b"}, {"\xff", ""},
	} {
		if got := string(after([]byte(tt.prefix))); got != tt.want {
			t.Errorf("after(%q) = %q, want %q", tt.prefix, got, tt.want)
		}
	}
}

func TestEverySpaceHasAName(t *testing.T) {
	for _, space := range []byte{
		spaceUnadopted, spaceBucket, spaceRecord, spaceTwice, spaceEntry, spaceFlight, spaceGroups, spaceMemory,
		spaceMeta, spaceMessage, spaceQueue, spaceRetained, spaceSubscribe, spaceTaken, spaceGarbage,
	} {
		if spaceName(space) == spaceName(0) {
			t.Errorf("space %q has none", space)
		}
	}
}
