package wire

import (
	"encoding/hex"
	"strings"
	"testing"
)

// What is expected is written down from the standard.
func TestBytesAreThoseOfTheStandard(t *testing.T) {
	for _, tc := range []struct {
		name string
		got  []byte
		want string
	}{
		{"nothing", Bytes(), ""},
		{"one of each", Bytes(1, 'A', uint16(258), uint32(16909060), "A𪛔", []byte{9}), "01 41 0102 01020304 0005 41f0aa9b94 09"},
		{"an empty string", Bytes(""), "0000"},
		{"0", Varint(0), "00"},
		{"the longest of one byte", Varint(127), "7f"},
		{"the shortest of two", Varint(128), "8001"},
		{"the longest of two", Varint(16_383), "ff7f"},
		{"the shortest of three", Varint(16_384), "808001"},
		{"the longest there is", Varint(268_435_455), "ffffff7f"},
		{"no properties", Props(), "00"},
		{"properties", Props(17, uint32(1), 38, "k", "v"), "0c 11 00000001 26 0001 6b 0001 76"},
		{"a PINGREQ", Frame(0xC0), "c000"},
		{"a PUBLISH", Frame(0x30, "a/b", []byte("x")), "30 06 0003 612f62 78"},
		{"a long one", Frame(0x30, make([]byte, 200))[:3], "30 c801"},
	} {
		if want := strings.ReplaceAll(tc.want, " ", ""); hex.EncodeToString(tc.got) != want {
			t.Errorf("%s is %x, want %s", tc.name, tc.got, want)
		}
	}
}

func TestWhatHasNoBytesIsAMistake(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a float has bytes")
		}
	}()
	Bytes(1.5)
}
