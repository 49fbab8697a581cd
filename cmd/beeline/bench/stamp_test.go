package bench

import (
	"bytes"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestAStampIsReadAsItWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := stamp{
			publisher: rapid.Uint32().Draw(t, "publisher"), seq: rapid.Uint64().Draw(t, "seq"),
			due: time.Duration(rapid.Int64().Draw(t, "due")),
		}
		payload := blank(rapid.IntRange(MinSize, 200).Draw(t, "size"))
		want.put(payload)
		if got, ok := readStamp(payload); !ok || got != want {
			t.Errorf("%+v, %v; want %+v", got, ok, want)
		}
		i, bit := rapid.IntRange(0, len(payload)-1).Draw(t, "byte"), rapid.IntRange(0, 7).Draw(t, "bit")
		payload[i] ^= 1 << bit
		if _, ok := readStamp(payload); ok {
			t.Errorf("nobody sees that byte %d is another", i)
		}
	})
}

func TestAPayloadWithoutRoomForAStampHasNone(t *testing.T) {
	for n := range MinSize {
		if _, ok := readStamp(make([]byte, n)); ok {
			t.Errorf("%d bytes", n)
		}
	}
}

func TestABlankPayloadIsAlwaysTheSameAndNotEmpty(t *testing.T) {
	a, b := blank(1000), blank(1000)
	if !bytes.Equal(a, b) || bytes.Count(a, []byte{0}) > 20 {
		t.Errorf("%x", a)
	}
}
