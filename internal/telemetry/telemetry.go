// Package telemetry makes what an operator sees of a process: its logger, its metrics registry, and the admin
// HTTP server that shows health, readiness, metrics and, when enabled, profiles.
//
// It owns no metric beyond those of the Go runtime, the process and the build; every package registers its own
// on the registry that it is given. Everything here may be used by several goroutines.
package telemetry

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/beeline-mqtt/beeline/internal/config"
)

// LogConfig configures the logger.
type LogConfig struct {
	// Level is the lowest level that is written.
	Level slog.Level `koanf:"level" help:"debug, info, warn or error"`
	// Format is "text" or "json".
	Format string `koanf:"format" help:"text or json"`
}

// DefaultLogConfig returns lines of JSON from the level info on.
func DefaultLogConfig() LogConfig {
	return LogConfig{Level: slog.LevelInfo, Format: "json"}
}

// Validate checks the format.
func (c LogConfig) Validate() error {
	if c.Format != "text" && c.Format != "json" {
		return config.Invalid("format", "must be text or json, is %q", c.Format)
	}
	return nil
}

// NewLogger returns a logger that writes to w, each line with the name of the service. c is valid.
func NewLogger(w io.Writer, c LogConfig, service string) *slog.Logger {
	opts := &slog.HandlerOptions{Level: c.Level}
	var h slog.Handler = slog.NewJSONHandler(w, opts)
	if c.Format == "text" {
		h = slog.NewTextHandler(w, opts)
	}
	return slog.New(h).With(slog.String("service", service))
}

// Build says what was built.
type Build struct {
	// Version is the version of the module, "(devel)" for a build from a working copy.
	Version string
	// Revision is the commit, with "-dirty" when the working copy had changes; empty when it is not known.
	Revision string
}

// ReadBuild reads what the linker recorded.
func ReadBuild() Build {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return Build{}
	}
	return buildOf(info)
}

func buildOf(info *debug.BuildInfo) Build {
	b := Build{Version: info.Main.Version}
	dirty := false
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.modified":
			dirty = s.Value == "true"
		}
	}
	if dirty && b.Revision != "" {
		b.Revision += "-dirty"
	}
	return b
}

// NewRegistry returns a registry with the metrics of the Go runtime and the process, and beeline_build_info.
func NewRegistry(service string) (*prometheus.Registry, error) {
	build := ReadBuild()
	info := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "beeline_build_info",
		Help: "What was built; always 1.",
		ConstLabels: prometheus.Labels{
			"service": service, "version": build.Version, "revision": build.Revision, "go_version": runtime.Version(),
		},
	}, func() float64 { return 1 })
	r := prometheus.NewRegistry()
	err := errors.Join(
		r.Register(collectors.NewGoCollector()),
		r.Register(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})),
		r.Register(info),
	)
	if err != nil {
		return nil, fmt.Errorf("register process metrics: %w", err)
	}
	return r, nil
}
