package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestPrintConfigWritesTheEffectiveConfigurationWithSecretsMasked(t *testing.T) {
	_, out, err := load(t, "token: s3cret\n", []string{"BEELINE_MQTT__KEEP_ALIVE=90s"}, "--waits=1s,2s", "--print-config")
	if !errors.Is(err, ErrDone) {
		t.Fatalf("Load = %v, want ErrDone", err)
	}
	want := `name: bee
mqtt:
  keep_alive: 1m30s
  max_packet: 1MiB
  retain: false
  port: 1883
  offset: 0
  share: 0.5
level: INFO
token: '********'
origins:
  - one
  - two
waits:
  - 1s
  - 2s
zone: a
listeners:
  - address: :1883
    secure: false
`
	if diff := cmp.Diff(want, out); diff != "" {
		t.Errorf("printed (-want +got):\n%s", diff)
	}
}

func TestPrintConfigShowsWhatIsInvalidAndSaysSo(t *testing.T) {
	_, out, err := load(t, "", nil, "--mqtt.max_packet=0", "--print-config")
	wantError(t, err, "mqtt.max_packet: must not be 0")
	if !strings.Contains(out, "max_packet: 0B\n") {
		t.Errorf("printed:\n%s", out)
	}
}

func TestWhatPrintConfigWritesIsReadBackAsTheSame(t *testing.T) {
	path := filepath.Join(t.TempDir(), "beeline.yaml")
	rapid.Check(t, func(t *rapid.T) {
		want := settings{
			Name:  rapid.StringMatching(`[ -~]{0,12}`).Draw(t, "name"),
			Level: slog.Level(rapid.IntRange(-8, 12).Draw(t, "level")),
			MQTT: mqtt{
				KeepAlive: time.Duration(rapid.Int64Range(int64(time.Second), 1<<50).Draw(t, "keep_alive")),
				MaxPacket: Bytes(rapid.Int64Range(1, 1<<50).Draw(t, "max_packet")),
				Retain:    rapid.Bool().Draw(t, "retain"),
				Port:      rapid.Uint16().Draw(t, "port"),
				Offset:    rapid.Int8().Draw(t, "offset"),
				Share:     rapid.Float64Range(-1e9, 1e9).Draw(t, "share"),
			},
			Origins:   rapid.SliceOfN(rapid.StringMatching(`[a-z:\-#"' ]{1,8}`), 1, 4).Draw(t, "origins"),
			Waits:     []time.Duration{},
			Listeners: []listener{{Address: rapid.StringMatching(`[0-9:]{1,8}`).Draw(t, "address"), Secure: true}},
		}
		var out bytes.Buffer
		if err := writeYAML(&out, want); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := Load(defaults(), Source{Args: []string{"--config", path}})
		if err != nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("read back (-want +got):\n%s", diff)
		}
	})
}

func TestCheckConfigValidatesAndStops(t *testing.T) {
	_, out, err := load(t, "", nil, "--check-config")
	if !errors.Is(err, ErrDone) || out != "configuration is valid\n" {
		t.Errorf("Load = %v, printed %q", err, out)
	}
	_, out, err = load(t, "", nil, "--check-config", "--mqtt.max_packet=0")
	wantError(t, err, "mqtt.max_packet")
	if out != "" {
		t.Errorf("printed %q", out)
	}
}

func TestHelpListsKeysWithDefaultsWhateverTheOtherSourcesSay(t *testing.T) {
	_, out, err := load(t, "", []string{"BEELINE_NO_SUCH_KEY=1"}, "-h")
	if !errors.Is(err, ErrDone) {
		t.Fatalf("Load = %v, want ErrDone", err)
	}
	for _, want := range []string{
		"Usage: gateway [flags]",
		"  name             bee  what the node is called\n",
		"  mqtt.keep_alive  1m0s\n", "  mqtt.max_packet  1MiB", "  token            \"\"",
		"  origins          [one, two]", "  listeners        (list of sections, 1 by default; file only)",
		"BEELINE_A__B__SOME_KEY", "--print-config",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("help does not say %q:\n%s", want, out)
		}
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestAnAnswerThatCannotBeWrittenIsAnError(t *testing.T) {
	for _, ask := range []string{"--check-config", "--print-config", "--help"} {
		_, err := Load(defaults(), Source{Args: []string{ask}, Output: full{}})
		if !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("%s: Load = %v, want %v", ask, err, io.ErrShortWrite)
		}
	}
}

func TestASecretIsNeverShown(t *testing.T) {
	secret := Secret("s3cret")
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("started", slog.Any("token", secret))
	shown := fmt.Sprintf("%v %s %q %#v %+v %s", secret, secret, secret, secret, struct{ Token Secret }{secret}, &log)
	if strings.Contains(shown, "s3cret") || !strings.Contains(shown, masked) {
		t.Errorf("shown: %s", shown)
	}
	if s := Secret("").String(); s != "" {
		t.Errorf("an empty secret is shown as %q", s)
	}
}

func TestBytesAreReadAndWrittenWithUnits(t *testing.T) {
	tests := []struct {
		text string
		want Bytes
		back string
	}{
		{"0", 0, "0B"},
		{"1", 1, "1B"},
		{"1023B", 1023, "1023B"},
		{"64KiB", 64 << 10, "64KiB"},
		{"1 MiB", 1 << 20, "1MiB"},
		{"1536KiB", 1536 << 10, "1536KiB"},
		{"2GiB", 2 << 30, "2GiB"},
		{"3TiB", 3 << 40, "3TiB"},
		{"5kB", 5000, "5000B"},
		{"1MB", 1e6, "1000000B"},
		{"1024MB", 1024e6, "1000000KiB"},
		{"1GB", 1e9, "1000000000B"},
		{"1TB", 1e12, "976562500KiB"},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			var b Bytes
			if err := b.UnmarshalText([]byte(tt.text)); err != nil || b != tt.want {
				t.Fatalf("read %d, %v; want %d", b, err, tt.want)
			}
			if got := b.String(); got != tt.back {
				t.Errorf("written as %q, want %q", got, tt.back)
			}
		})
	}
}

func TestWhatIsNoSizeIsRefused(t *testing.T) {
	for _, text := range []string{"", "KiB", "1.5MiB", "-1", "-1KiB", "1K", "1mb", "9223372036854775808", "9007199254740992KiB", "0x10"} {
		var b Bytes
		if err := b.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is read as %d", text, b)
		}
	}
}
