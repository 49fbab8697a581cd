package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// lines are n messages from the number first, one a line.
func lines(first, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintln(&b, first+i)
	}
	return b.String()
}

// The session gives its messages to whoever continues it, each once: what was not printed was not acknowledged.
func TestASessionIsContinuedWhereItWasLeft(t *testing.T) {
	both(t, func(t *testing.T, version string) {
		id := "durable-" + version
		sub := func(gateway int, more ...string) []string {
			return append([]string{"-u", at("mqtt", gateway, "mqtt"), "-V", version, "-i", id, "--clean=false", "-q", "2", "-o", "payload"}, more...)
		}
		first := beginSub(t, sub(0, "-t", id)...)
		first.stop()
		first.done()
		for i, qos := range []string{"1", "2"} {
			begin(t, strings.NewReader(lines(i*100, 100)), "pub", "-u", at("mqtt", 1, "mqtt"), "-t", id, "-q", qos, "--stdin").done()
		}
		var got string
		for i, n := range []string{"1", "7", "92", "100"} {
			got += begin(t, nil, append([]string{"sub"}, sub(i%2, "-n", n)...)...).done()
		}
		if diff := cmp.Diff(lines(0, 200), got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		fails(t, "not done within", append([]string{"sub", "--timeout", "200ms", "-n", "1"}, sub(0)...)...)

		// Without the flag it is over.
		clean := beginSub(t, "-u", at("mqtt", 0, "mqtt"), "-V", version, "-i", id)
		clean.stop()
		clean.done()
		succeeds(t, "pub", "-u", at("mqtt", 1, "mqtt"), "-t", id, "-q", "1", "-m", "late")
		fails(t, "not done within", append([]string{"sub", "--timeout", "200ms", "-n", "1"}, sub(0)...)...)
	})
}

// What the user does not see is not acknowledged, and nobody waits for it for ever.
func TestAMessageThatCannotBePrintedIsKept(t *testing.T) {
	both(t, func(t *testing.T, version string) {
		id := "broken-" + version
		flags := []string{"-u", at("mqtt", 0, "mqtt"), "-V", version, "-i", id, "--clean=false", "-q", "2"}
		first := beginSub(t, append(flags, "-t", id)...)
		first.stop()
		first.done()
		succeeds(t, "pub", "-u", at("mqtt", 1, "mqtt"), "-t", id, "-q", "2", "-m", "kept")
		cmd := command()
		cmd.SetArgs(append([]string{"sub"}, flags...))
		cmd.SetOut(full{})
		cmd.SetErr(io.Discard)
		if err := cmd.ExecuteContext(t.Context()); !errors.Is(err, errFull) {
			t.Errorf("error %v, want %v", err, errFull)
		}
		if out, want := begin(t, nil, append([]string{"sub", "-n", "1"}, flags...)...).done(), id+" kept\n"; out != want {
			t.Errorf("printed %q, want %q", out, want)
		}
	})
}

var errFull = errors.New("full")

// full is a disk that takes nothing.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }

func TestWhatTheFlagsSayAboutTheSession(t *testing.T) {
	connect := func(version string, clean bool, properties string) string {
		flags := "\x00"
		if clean {
			flags = "\x02"
		}
		if version == "5" {
			return "\x00\x04MQTT\x05" + flags + "\x00\x1e" + properties
		}
		return "\x00\x04MQTT\x04" + flags + "\x00\x1e"
	}
	// Properties as the client library orders them: Receive Maximum, Session Expiry Interval.
	tests := []struct{ name, version, arguments, want string }{
		{"nothing", "5", "", connect("5", true, "\x03\x21\x00\x40")},
		{"nothing in 3.1.1", "3.1.1", "", connect("3.1.1", true, "")},
		{"continue", "5", "--clean=false", connect("5", false, "\x08\x21\x00\x40\x11\xff\xff\xff\xff")},
		{"continue in 3.1.1", "3.1.1", "--clean=false", connect("3.1.1", false, "")},
		{"begin, for an hour", "5", "--session-expiry 1h", connect("5", true, "\x08\x21\x00\x40\x11\x00\x00\x0e\x10")},
		{"continue, for two seconds", "5", "--clean=false --session-expiry 2s", connect("5", false, "\x08\x21\x00\x40\x11\x00\x00\x00\x02")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			accepted := connack5
			if tt.version != "5" {
				accepted = connack3
			}
			u, connects := fake(t, accepted...)
			sub := beginSub(t, append([]string{"-u", u, "-V", tt.version, "-i", "me"}, strings.Fields(tt.arguments)...)...)
			sub.stop()
			sub.done()
			got := string(<-connects)
			if got, ok := strings.CutSuffix(got, "\x00\x02me"); !ok || got != tt.want {
				t.Errorf("CONNECT %q, want %q", got, tt.want)
			}
		})
	}
}
