package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// plainKeys are the keys that every source can set, each with a maker of texts for it.
func plainKeys() map[string]*rapid.Generator[string] {
	number := func(low, high int) *rapid.Generator[string] {
		return rapid.Map(rapid.IntRange(low, high), func(n int) string { return fmt.Sprint(n) })
	}
	return map[string]*rapid.Generator[string]{
		"name":            rapid.StringMatching(`[a-z][a-z =.-]{0,8}`),
		"zone":            rapid.StringMatching(`[a-m]{1,4}`),
		"token":           rapid.StringMatching(`[A-Za-z]{1,8}`),
		"level":           rapid.SampledFrom([]string{"debug", "INFO", "Warn", "error", "INFO+2"}),
		"mqtt.keep_alive": rapid.Map(rapid.IntRange(1, 5000), func(n int) string { return fmt.Sprintf("%ds", n) }),
		"mqtt.max_packet": rapid.Map(rapid.IntRange(1, 5000), func(n int) string { return fmt.Sprintf("%dKiB", n) }),
		"mqtt.retain":     rapid.SampledFrom([]string{"true", "false"}),
		"mqtt.port":       number(0, 65535),
		"mqtt.offset":     number(-128, 127),
		"mqtt.share":      rapid.SampledFrom([]string{"0.5", "0.25", "-1", "3"}),
	}
}

// drawValues draws texts for some of the keys.
func drawValues(t *rapid.T, label string) map[string]string {
	values := map[string]string{}
	keys := plainKeys()
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if rapid.Bool().Draw(t, label+" sets "+key) {
			values[key] = keys[key].Draw(t, label+" "+key)
		}
	}
	return values
}

// quoted are the keys whose values a file has to write as text.
var quoted = []string{"name", "zone", "token", "level"}

// asFile writes values as YAML.
func asFile(values map[string]string) string {
	var top, inner strings.Builder
	for key, value := range values {
		if slices.Contains(quoted, key) {
			value = fmt.Sprintf("%q", value)
		}
		if name, nested := strings.CutPrefix(key, "mqtt."); nested {
			fmt.Fprintf(&inner, "  %s: %s\n", name, value)
		} else {
			fmt.Fprintf(&top, "%s: %s\n", key, value)
		}
	}
	if inner.Len() > 0 {
		fmt.Fprintf(&top, "mqtt:\n%s", inner.String())
	}
	return top.String()
}

// asEnviron writes values as variables.
func asEnviron(values map[string]string) []string {
	var environ []string
	for key, value := range values {
		environ = append(environ, EnvPrefix+strings.ToUpper(strings.ReplaceAll(key, ".", "__"))+"="+value)
	}
	return environ
}

// asFlags writes values as arguments.
func asFlags(values map[string]string) []string {
	var args []string
	for key, value := range values {
		args = append(args, "--"+key+"="+value)
	}
	return args
}

// source makes a Source of values for each layer, with the file at path.
func source(t *rapid.T, path string, file, environ, flags map[string]string) Source {
	if err := os.WriteFile(path, []byte(asFile(file)), 0o600); err != nil {
		t.Fatal(err)
	}
	return Source{Args: append(asFlags(flags), "--config", path), Environ: asEnviron(environ)}
}

func TestAValueIsTheSameFromEverySource(t *testing.T) {
	path := filepath.Join(t.TempDir(), "beeline.yaml")
	rapid.Check(t, func(t *rapid.T) {
		values := drawValues(t, "source")
		fromFile, err := Load(defaults(), source(t, path, values, nil, nil))
		if err != nil {
			t.Fatalf("file: %v", err)
		}
		fromEnviron, err := Load(defaults(), source(t, path, nil, values, nil))
		if err != nil {
			t.Fatalf("environment: %v", err)
		}
		fromFlags, err := Load(defaults(), source(t, path, nil, nil, values))
		if err != nil {
			t.Fatalf("flags: %v", err)
		}
		if diff := cmp.Diff(fromFile, fromEnviron); diff != "" {
			t.Errorf("environment (-file +environment):\n%s", diff)
		}
		if diff := cmp.Diff(fromFile, fromFlags); diff != "" {
			t.Errorf("flags (-file +flags):\n%s", diff)
		}
	})
}

func TestTheLaterSourceWinsKeyByKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "beeline.yaml")
	rapid.Check(t, func(t *rapid.T) {
		file, environ, flags := drawValues(t, "file"), drawValues(t, "environment"), drawValues(t, "flags")
		merged := maps.Clone(file)
		maps.Copy(merged, environ)
		maps.Copy(merged, flags)
		want, err := Load(defaults(), source(t, path, nil, nil, merged))
		if err != nil {
			t.Fatal(err)
		}
		got, err := Load(defaults(), source(t, path, file, environ, flags))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("settings (-want +got):\n%s", diff)
		}
	})
}

func TestAWrongValueOfASecretIsNotShown(t *testing.T) {
	for _, yaml := range []string{"token: {hidden: hidden}", "token: [hidden]", "token: 12345"} {
		_, out, err := load(t, yaml, nil, "--print-config")
		wantError(t, err, "token")
		if said := out + err.Error(); strings.Contains(said, "hidden") || strings.Contains(said, "12345") {
			t.Errorf("%q is answered with %s", yaml, said)
		}
	}
}

func TestAllThatIsWrongInASourceIsSaidAtOnce(t *testing.T) {
	_, _, err := load(t, "nonsense: 1\nname: 2\nmqtt: {port: x, keep_alive: 3, offset: 999}\nlisteners: [{address: 4}, {adr: x}]", nil)
	wantError(t, err, "unknown key nonsense", "name: ", "mqtt.port: ", "mqtt.keep_alive: ", "mqtt.offset: ",
		"listeners[0].address: ", "unknown key listeners[1].adr")
	for line := range strings.Lines(err.Error()) {
		if !strings.HasPrefix(line, "file ") {
			t.Errorf("line without its source: %s", line)
		}
	}
}

// FuzzFile: whatever a file holds, Load returns an error or a configuration that can be printed and read back.
func FuzzFile(f *testing.F) {
	for _, seed := range []string{
		"", "name: x", "mqtt:\n  port: 1\n", "listeners: [{address: x}]", "- 1", "a: &a [*a]", "mqtt: {max_packet: 1e3}",
		"waits: [1s, null]", "origins: [~]", "? [a]\n: b", "mqtt: !!binary aGk=", "name: !!str 1", "level: 3", "1: 2",
		"<<: {name: x}", "name: |\n  a\n  b\n", "mqtt: {keep_alive: 2562047h}", "token: \"\\0\"", "listeners: [null]",
	} {
		f.Add(seed)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(dir, fmt.Sprintf("%d.yaml", os.Getpid()))
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := Load(defaults(), Source{Args: []string{"--config", path}})
		if err != nil {
			if strings.TrimSpace(err.Error()) == "" || errors.Is(err, ErrDone) {
				t.Errorf("error %q", err)
			}
			return
		}
		var printed strings.Builder
		if err := writeYAML(&printed, got); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(printed.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := Load(defaults(), Source{Args: []string{"--config", path}})
		if err != nil {
			t.Fatalf("read back: %v\n%s", err, printed.String())
		}
		got.Token, again.Token = "", "" // masked
		if diff := cmp.Diff(normal(got), normal(again)); diff != "" {
			t.Errorf("read back (-want +got):\n%s\n%s", diff, printed.String())
		}
	})
}

// normal makes empty lists and no lists the same.
func normal(s settings) settings {
	s.Origins = append([]string{}, s.Origins...)
	s.Waits = append([]time.Duration{}, s.Waits...)
	s.Listeners = append([]listener{}, s.Listeners...)
	return s
}

// FuzzBytes: what is a size is written as a text that is the same size.
func FuzzBytes(f *testing.F) {
	for _, seed := range []string{"1", "64KiB", "1 MB", "7TiB", "-1", "99999999999TiB", "B", " 1B"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var b, again Bytes
		if b.UnmarshalText([]byte(text)) != nil {
			return
		}
		if b < 0 {
			t.Fatalf("%q is %d", text, b)
		}
		if err := again.UnmarshalText([]byte(b.String())); err != nil || again != b {
			t.Errorf("%q is %d, written as %q, which is %d (%v)", text, b, b, again, err)
		}
	})
}
