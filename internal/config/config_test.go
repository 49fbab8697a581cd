package config

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// settings has a field of every kind that can be configured.
type settings struct {
	Name      string          `koanf:"name" help:"what the node is called"`
	MQTT      mqtt            `koanf:"mqtt"`
	Level     slog.Level      `koanf:"level"`
	Token     Secret          `koanf:"token"`
	Origins   []string        `koanf:"origins"`
	Waits     []time.Duration `koanf:"waits"`
	Common    `koanf:",squash"`
	Listeners []listener `koanf:"listeners"`
	Ignored   func()     `koanf:"-"`
}

// Common is embedded, as settings that several services share are.
type Common struct {
	Zone string `koanf:"zone"`
}

type mqtt struct {
	KeepAlive time.Duration `koanf:"keep_alive"`
	MaxPacket Bytes         `koanf:"max_packet"`
	Retain    bool          `koanf:"retain"`
	Port      uint16        `koanf:"port"`
	Offset    int8          `koanf:"offset"`
	Share     float64       `koanf:"share"`
}

func (m mqtt) Validate() error {
	var errs []error
	if m.KeepAlive < time.Second {
		errs = append(errs, Invalid("keep_alive", "must be at least 1s, is %v", m.KeepAlive))
	}
	if m.MaxPacket == 0 {
		errs = append(errs, Invalid("max_packet", "must not be 0"))
	}
	return errors.Join(errs...)
}

type listener struct {
	Address string `koanf:"address"`
	Secure  bool   `koanf:"secure"`
}

func (l *listener) Validate() error {
	if l.Address == "" {
		return Invalid("address", "is missing")
	}
	return nil
}

func (s settings) Validate() error {
	if s.Zone == "nowhere" {
		return errors.New("no node can be nowhere")
	}
	return nil
}

func defaults() settings {
	return settings{
		Name:      "bee",
		MQTT:      mqtt{KeepAlive: time.Minute, MaxPacket: MiB, Port: 1883, Share: 0.5},
		Origins:   []string{"one", "two"},
		Common:    Common{Zone: "a"},
		Listeners: []listener{{Address: ":1883"}},
	}
}

// load loads with a file of the given text (none if empty), environment and flags.
func load(t *testing.T, yaml string, environ []string, args ...string) (settings, string, error) {
	t.Helper()
	if yaml != "" {
		path := filepath.Join(t.TempDir(), "beeline.yaml")
		if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", path)
	}
	var out strings.Builder
	s, err := Load(defaults(), Source{Program: "gateway", Args: args, Environ: environ, Output: &out})
	return s, out.String(), err
}

func wantSettings(t *testing.T, got, want settings) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
}

// wantError checks that err mentions each of the texts.
func wantError(t *testing.T, err error, texts ...string) {
	t.Helper()
	if err == nil || errors.Is(err, ErrDone) {
		t.Fatalf("Load = %v, want an error with %q", err, texts)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("the error does not say %q:\n%v", text, err)
		}
	}
}

func TestWithoutASourceTheDefaultsStay(t *testing.T) {
	got, out, err := load(t, "", nil)
	if err != nil || out != "" {
		t.Fatalf("Load: %v, printed %q", err, out)
	}
	wantSettings(t, got, defaults())
}

func TestAFileSetsWhatItNamesAndNothingElse(t *testing.T) {
	got, _, err := load(t, `
name: hive
level: debug
token: s3cret
origins: [three]
waits: [1s, 2m]
zone: b
mqtt:
  keep_alive: 90s
  max_packet: 64KiB
  retain: true
  port: 8883
  offset: -3
  share: 1
listeners:
  - address: 127.0.0.1:0
    secure: true
  - address: "[::1]:0"
`, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantSettings(t, got, settings{
		Name: "hive", Level: slog.LevelDebug, Token: "s3cret",
		Origins: []string{"three"}, // replaced, not merged with the defaults
		Waits:   []time.Duration{time.Second, 2 * time.Minute},
		Common:  Common{Zone: "b"},
		MQTT:    mqtt{KeepAlive: 90 * time.Second, MaxPacket: 64 * KiB, Retain: true, Port: 8883, Offset: -3, Share: 1},
		Listeners: []listener{
			{Address: "127.0.0.1:0", Secure: true},
			{Address: "[::1]:0"},
		},
	})

	got, _, err = load(t, "mqtt:\n  retain: true\n", nil)
	if err != nil {
		t.Fatal(err)
	}
	want := defaults()
	want.MQTT.Retain = true
	wantSettings(t, got, want)
}

func TestASectionOrFileWithNothingInItLeavesTheDefaults(t *testing.T) {
	for _, yaml := range []string{"# nothing\n", "mqtt:\n  # port: 1\n", "mqtt: {}\n"} {
		got, _, err := load(t, yaml, nil)
		if err != nil {
			t.Fatalf("%q: %v", yaml, err)
		}
		wantSettings(t, got, defaults())
	}
}

func TestTheEnvironmentSetsKeysOfEveryKind(t *testing.T) {
	got, _, err := load(t, "", []string{
		"BEELINE_NAME=hive", "BEELINE_LEVEL=warn", "BEELINE_TOKEN=s3=cret", "BEELINE_ORIGINS=a,b,c", "BEELINE_WAITS=1s,1h",
		"BEELINE_ZONE=b", "BEELINE_MQTT__KEEP_ALIVE=5m", "BEELINE_MQTT__MAX_PACKET=2MB", "BEELINE_MQTT__RETAIN=true",
		"BEELINE_MQTT__PORT=8883", "BEELINE_MQTT__OFFSET=-128", "BEELINE_MQTT__SHARE=0.25",
		"HOME=/root", "BEELINES=other",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := defaults()
	want.Name, want.Level, want.Token, want.Zone = "hive", slog.LevelWarn, "s3=cret", "b"
	want.Origins, want.Waits = []string{"a", "b", "c"}, []time.Duration{time.Second, time.Hour}
	want.MQTT = mqtt{KeepAlive: 5 * time.Minute, MaxPacket: 2e6, Retain: true, Port: 8883, Offset: -128, Share: 0.25}
	wantSettings(t, got, want)
}

func TestVariablesThatAreNotKeysAndNotOursAreLeftAlone(t *testing.T) {
	got, _, err := load(t, "", []string{
		"BEELINE_TEST_SEED=7",
		"BEELINE_GATEWAY_SERVICE_HOST=10.0.0.1", "BEELINE_GATEWAY_SERVICE_PORT=1883", "BEELINE_GATEWAY_SERVICE_PORT_MQTT=1883",
		"BEELINE_GATEWAY_PORT=tcp://10.0.0.1:1883", "BEELINE_GATEWAY_PORT_1883_TCP=tcp://10.0.0.1:1883",
		"BEELINE_GATEWAY_PORT_1883_TCP_ADDR=10.0.0.1",
	})
	if err != nil {
		t.Fatal(err)
	}
	wantSettings(t, got, defaults())
}

func TestAnEmptyVariableEmptiesTextsAndLists(t *testing.T) {
	got, _, err := load(t, "", []string{"BEELINE_NAME=", "BEELINE_ORIGINS="})
	if err != nil {
		t.Fatal(err)
	}
	want := defaults()
	want.Name, want.Origins = "", []string{}
	wantSettings(t, got, want)
}

func TestTheLaterSourceWins(t *testing.T) {
	const file = "name: file\nzone: file\nmqtt: {port: 1, offset: 1}\n"
	environ := []string{"BEELINE_ZONE=env", "BEELINE_MQTT__OFFSET=2", "BEELINE_MQTT__RETAIN=false"}
	got, _, err := load(t, file, environ, "--mqtt.offset=3", "--mqtt.retain", "--origins", "x,y")
	if err != nil {
		t.Fatal(err)
	}
	want := defaults()
	want.Name, want.Zone, want.Origins = "file", "env", []string{"x", "y"}
	want.MQTT.Port, want.MQTT.Offset, want.MQTT.Retain = 1, 3, true
	wantSettings(t, got, want)
}

func TestTheFileMayBeNamedInTheEnvironmentAndTheFlagWins(t *testing.T) {
	path := filepath.Join(t.TempDir(), "env.yaml")
	if err := os.WriteFile(path, []byte("name: from-env-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	environ := []string{EnvFile + "=" + path}
	got, _, err := load(t, "", environ)
	if err != nil || got.Name != "from-env-file" {
		t.Errorf("name = %q, %v", got.Name, err)
	}
	got, _, err = load(t, "name: from-flag-file\n", environ)
	if err != nil || got.Name != "from-flag-file" {
		t.Errorf("name = %q, %v", got.Name, err)
	}
}

func TestLoadDoesNotChangeTheDefaults(t *testing.T) {
	given := defaults()
	if _, err := Load(given, Source{Args: []string{"--origins=x", "--name=y"}}); err != nil {
		t.Fatal(err)
	}
	wantSettings(t, given, defaults())
}

func TestWhatIsWrongIsNamedWithItsKeyAndSource(t *testing.T) {
	tests := []struct {
		name    string
		yaml    string
		environ []string
		args    []string
		want    []string
	}{
		{"unknown key in the file", "mqtt: {prot: 1}", nil, nil, []string{"beeline.yaml", "unknown key mqtt.prot"}},
		{"unknown section in the file", "tls: {file: x}", nil, nil, []string{"unknown key tls"}},
		{"several unknown keys", "a: 1\nb: 2", nil, nil, []string{"unknown key a", "unknown key b"}},
		{"unknown key in a list", "listeners: [{addr: x}]", nil, nil, []string{"unknown key listeners[0].addr"}},
		{"a key in the wrong case", "Name: x", nil, nil, []string{"unknown key Name"}},
		{"a path as a key", "mqtt.port: 1", nil, nil, []string{"unknown key mqtt.port"}},
		{"a field that is no key", "ignored: 1", nil, nil, []string{"unknown key ignored"}},
		{"unknown variable", "", []string{"BEELINE_MQTT_PORT=1"}, nil, []string{"environment", "BEELINE_MQTT_PORT"}},
		{"unknown nested variable", "", []string{"BEELINE_MQTT__PROT=1"}, nil, []string{"mqtt.prot", "BEELINE_MQTT__PROT"}},
		{"unknown flag", "", nil, []string{"--mqtt.prot=1"}, []string{"flag", "mqtt.prot"}},
		{"argument that is no flag", "", nil, []string{"serve"}, []string{`unexpected argument "serve"`}},
		{"list of sections as a flag", "", nil, []string{"--listeners=x"}, []string{"flag", "listeners"}},
		{"list of sections as a variable", "", []string{"BEELINE_LISTENERS=x"}, nil, []string{"listeners", "only the file"}},
		{"text for a number", "mqtt: {port: x}", nil, nil, []string{"mqtt.port", "uint16"}},
		{"quoted number in the file", `mqtt: {port: "1883"}`, nil, nil, []string{"mqtt.port", "uint16"}},
		{"text for a number in the environment", "", []string{"BEELINE_MQTT__PORT=x"}, nil, []string{"environment", "mqtt.port", `"x"`}},
		{"text for a number in a flag", "", nil, []string{"--mqtt.offset=x"}, []string{"flags", "mqtt.offset", `"x"`}},
		{"number for a text", "name: 1", nil, nil, []string{"name", "string"}},
		{"number for a bool", "mqtt: {retain: 1}", nil, nil, []string{"mqtt.retain", "bool"}},
		{"no bool in the environment", "", []string{"BEELINE_MQTT__RETAIN=yes"}, nil, []string{"mqtt.retain", `"yes"`}},
		{"number too big for its field", "mqtt: {port: 70000}", nil, nil, []string{"mqtt.port", "70000", "fit"}},
		{"number too big in the environment", "", []string{"BEELINE_MQTT__PORT=70000"}, nil, []string{"mqtt.port", "70000", "range"}},
		{"number too small for its field", "mqtt: {offset: -129}", nil, nil, []string{"mqtt.offset", "-129"}},
		{"negative number for an unsigned", "mqtt: {port: -1}", nil, nil, []string{"mqtt.port", "-1"}},
		{"fraction for a whole number", "mqtt: {port: 1.5}", nil, nil, []string{"mqtt.port", "1.5"}},
		{"duration without its unit", "mqtt: {keep_alive: 60}", nil, nil, []string{"mqtt.keep_alive", "unit"}},
		{"duration without its unit in a flag", "", nil, []string{"--mqtt.keep_alive=60"}, []string{"mqtt.keep_alive", "unit"}},
		{"size with an unknown unit", "mqtt: {max_packet: 64 Kib}", nil, nil, []string{"mqtt.max_packet", `"64 Kib"`}},
		{"negative size", "mqtt: {max_packet: -1}", nil, nil, []string{"mqtt.max_packet", "-1"}},
		{"unknown level", "level: loud", nil, nil, []string{"level", "loud"}},
		{"text for a list in the file", "origins: x", nil, nil, []string{"origins"}},
		{"wrong element of a list", "waits: [1s, 2]", nil, nil, []string{"waits[1]", "unit"}},
		{"section for a value", "name: {a: 1}", nil, nil, []string{"name"}},
		{"value for a section", "mqtt: 1", nil, nil, []string{"mqtt"}},
		{"key without a value", "name:\n", nil, nil, []string{"name: has no value"}},
		{"inner key without a value", "mqtt: {port: }", nil, nil, []string{"mqtt.port: has no value"}},
		{"squashed key without a value", "zone:\n", nil, nil, []string{"zone: has no value"}},
		{"key in a list without a value", "listeners: [{address: }]", nil, nil, []string{"listeners[0].address: has no value"}},
		{"element of a list without a value", "waits: [1s, ~]", nil, nil, []string{"waits[1]: has no value"}},
		{"section in a list without a value", "listeners: [~]", nil, nil, []string{"listeners[0]: has no value"}},
		{"text for a list of sections", "listeners: x", nil, nil, []string{"listeners"}},
		{"section for a list of sections", "listeners: {address: x}", nil, nil, []string{"listeners"}},
		{"list for a section", "mqtt: [1]", nil, nil, []string{"mqtt"}},
		{"unknown key without a value", "zones:\n", nil, nil, []string{"unknown key zones"}},
		{"key given twice", "name: a\nname: b", nil, nil, []string{"beeline.yaml", "already defined"}},
		{"no YAML", "{", nil, nil, []string{"read file", "beeline.yaml"}},
		{"no such file", "", nil, []string{"--config", "/no/such.yaml"}, []string{"/no/such.yaml"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := load(t, tt.yaml, tt.environ, tt.args...)
			wantError(t, err, tt.want...)
		})
	}
}

func TestZeroNeedsNoUnit(t *testing.T) {
	got, _, err := load(t, "mqtt: {keep_alive: 0s, max_packet: 10}", []string{"BEELINE_MQTT__KEEP_ALIVE=1s"})
	if err != nil || got.MQTT.MaxPacket != 10 {
		t.Errorf("mqtt = %+v, %v", got.MQTT, err)
	}
	_, _, err = load(t, "mqtt: {keep_alive: 0}", nil)
	wantError(t, err, "mqtt.keep_alive: must be at least 1s, is 0s")
}

func TestAStructThatCannotBeConfiguredIsRefused(t *testing.T) {
	_, err := Load(struct{ Name string }{}, Source{})
	wantError(t, err, "field Name has no usable koanf tag")
	_, err = Load(struct {
		Inner struct {
			M map[string]int `koanf:"m"`
		} `koanf:"inner"`
	}{}, Source{})
	wantError(t, err, "inner.m", "map[string]int")
}
