//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/beeline-mqtt/beeline/test/peers/report"
	"github.com/beeline-mqtt/beeline/test/peers/systems"
)

// limit bounds one run of beeline bench: a system that hangs is not to hang the others.
const limit = 3 * time.Minute

// runner puts systems under loads, one after the other.
type runner struct {
	bin              string
	rounds           int
	warmup, duration time.Duration
	log              io.Writer
}

// run runs every load in rounds: in each of them all systems of the load, so that what the machine does besides hits
// them alike. A canceled context ends it with what there is.
func (r runner) run(ctx context.Context, loads []load, missing map[string]error) []report.Sample {
	var samples []report.Sample
	for _, l := range loads {
		for round := range r.rounds {
			for _, s := range l.systems {
				if ctx.Err() != nil {
					return samples
				}
				sample := report.Sample{Load: l.Name, System: s.Name, Round: round + 1}
				err := missing[s.Name]
				if err == nil {
					sample.Result, sample.Mesh, err = r.measure(ctx, l, s)
				}
				if err != nil {
					sample.Failure, _, _ = strings.Cut(err.Error(), "\n")
				}
				r.progress(sample, err)
				samples = append(samples, sample)
			}
		}
	}
	return samples
}

func (r runner) progress(s report.Sample, err error) {
	_, _ = fmt.Fprintf(r.log, "%s %s round %d of %d: %s: ", time.Now().Format(time.TimeOnly), s.Load, s.Round, r.rounds, s.System)
	if err != nil {
		_, _ = fmt.Fprintln(r.log, err)
		return
	}
	_, _ = fmt.Fprintf(r.log, "CPU %.1f us, p50 %.2f ms, p99 %.2f ms\n", s.Result.CPU.Total, s.Result.Latency.P50/1000, s.Result.Latency.P99/1000)
}

// measure starts a system, puts it under a load and stops it.
func (r runner) measure(ctx context.Context, l load, s systems.System) (result report.Result, mesh *report.Mesh, err error) {
	dir, err := os.MkdirTemp("", "beeline-peers-")
	if err != nil {
		return result, nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	running, err := s.Start(ctx, systems.Env{Bin: r.bin, Dir: dir})
	if err != nil {
		return result, nil, err
	}
	defer running.Stop()
	before, err := running.ReadMetrics(ctx)
	if err != nil {
		return result, nil, err
	}
	if result, err = r.bench(ctx, l, running); err != nil {
		return result, nil, err
	}
	if err := running.Check(); err != nil {
		return result, nil, err
	}
	after, err := running.ReadMetrics(ctx)
	if err != nil {
		return result, nil, err
	}
	involved := len(running.Brokers)
	if l.directed {
		involved = 2
	}
	return result, report.MeshOf(before, after, involved), nil
}

// bench runs beeline bench against a system.
func (r runner) bench(ctx context.Context, l load, running *systems.Running) (report.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	args := slices.Concat([]string{"bench", l.Scenario, "--output", "json", "--quiet"}, l.brokers(running.Brokers), l.args,
		[]string{"--pid", strings.Join(running.Processes(), ",")})
	if l.Scenario == "pairs" || l.Scenario == "fanout" {
		args = append(args, "--warmup", r.warmup.String(), "--duration", r.duration.String())
	}
	cmd := exec.CommandContext(ctx, filepath.Join(r.bin, "beeline"), args...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	var result report.Result
	if err := cmd.Run(); err != nil {
		return result, fmt.Errorf("beeline %s: %w: %s", strings.Join(args, " "), err, complaint.String())
	}
	if err := json.Unmarshal(out.Bytes(), &result); err != nil {
		return result, fmt.Errorf("read the result of beeline %s: %w", strings.Join(args, " "), err)
	}
	return result, nil
}
