package telemetry

import (
	"encoding/json"
	"errors"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/beeline-mqtt/beeline/internal/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTheLoggerWritesLinesOfJSONWithTheService(t *testing.T) {
	var out strings.Builder
	log := NewLogger(&out, DefaultLogConfig(), "gateway")
	log.Debug("not written")
	log.Info("mesh link up", slog.String("peer", "p1"))
	var line map[string]any
	if err := json.Unmarshal([]byte(out.String()), &line); err != nil {
		t.Fatalf("%v in %q", err, out.String())
	}
	if line["msg"] != "mesh link up" || line["service"] != "gateway" || line["peer"] != "p1" || line["level"] != "INFO" {
		t.Errorf("line = %v", line)
	}
}

func TestTheLoggerWritesTextAndHonoursTheLevel(t *testing.T) {
	tests := []struct {
		level slog.Level
		want  []string
	}{
		{slog.LevelDebug, []string{"msg=d", "msg=i", "msg=w"}},
		{slog.LevelInfo, []string{"msg=i", "msg=w"}},
		{slog.LevelWarn, []string{"msg=w"}},
		{slog.LevelError, nil},
	}
	for _, tt := range tests {
		t.Run(tt.level.String(), func(t *testing.T) {
			var out strings.Builder
			log := NewLogger(&out, LogConfig{Level: tt.level, Format: "text"}, "session")
			log.Debug("d")
			log.Info("i")
			log.Warn("w")
			var got []string
			for line := range strings.Lines(out.String()) {
				if !strings.Contains(line, "service=session") {
					t.Errorf("line without its service: %s", line)
				}
				got = append(got, strings.Fields(line)[2])
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("written: %v, want %v", got, tt.want)
			}
		})
	}
}

func TestConfigurationsSayWhichKeyIsWrong(t *testing.T) {
	tests := []struct {
		name string
		cfg  interface{ Validate() error }
		key  string
	}{
		{"default log", DefaultLogConfig(), ""},
		{"text log", LogConfig{Format: "text"}, ""},
		{"unknown log format", LogConfig{Format: "xml"}, "format"},
		{"no admin server", AdminConfig{}, ""},
		{"admin on any port", AdminConfig{Address: "127.0.0.1:0"}, ""},
		{"admin without a port", AdminConfig{Address: "127.0.0.1"}, "address"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.cfg.Validate()
			var bad *config.KeyError
			if errors.As(err, &bad) != (tt.key != "") || bad != nil && bad.Key != tt.key {
				t.Errorf("Validate = %v, want an error of key %q", err, tt.key)
			}
		})
	}
}

func TestTheBuildNamesVersionAndCommit(t *testing.T) {
	setting := func(key, value string) debug.BuildSetting { return debug.BuildSetting{Key: key, Value: value} }
	tests := []struct {
		name     string
		settings []debug.BuildSetting
		want     Build
	}{
		{"outside version control", nil, Build{"v1.2.3", ""}},
		{"clean", []debug.BuildSetting{setting("vcs.revision", "abc"), setting("vcs.modified", "false")}, Build{"v1.2.3", "abc"}},
		{"with changes", []debug.BuildSetting{setting("vcs.modified", "true"), setting("vcs.revision", "abc")}, Build{"v1.2.3", "abc-dirty"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := buildOf(&debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}, Settings: tt.settings})
			if got != tt.want {
				t.Errorf("build = %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestTheRegistryHasRuntimeProcessAndBuildMetrics(t *testing.T) {
	registry, err := NewRegistry("gateway")
	if err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string]map[string]string{}
	for _, f := range families {
		labels[f.GetName()] = map[string]string{}
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels[f.GetName()][l.GetName()] = l.GetValue()
		}
	}
	for _, want := range []string{"go_goroutines", "process_start_time_seconds", "beeline_build_info"} {
		if labels[want] == nil {
			t.Errorf("no metric %s", want)
		}
	}
	if got := labels["beeline_build_info"]; got["service"] != "gateway" || !strings.HasPrefix(got["go_version"], "go") {
		t.Errorf("build info has labels %v", got)
	}
}
