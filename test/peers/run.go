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
	"syscall"
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
					err = r.measure(ctx, l, s, &sample)
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

// measure starts a system, puts it under a load, stops it, and fills in what there is to know.
func (r runner) measure(ctx context.Context, l load, s systems.System, sample *report.Sample) error {
	dir, err := os.MkdirTemp("", "beeline-peers-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	running, err := s.Start(ctx, systems.Env{Bin: r.bin, Dir: dir})
	if err != nil {
		return err
	}
	defer running.Stop()
	before, err := running.ReadMetrics(ctx)
	if err != nil {
		return err
	}
	if sample.Raw, err = r.bench(ctx, l, running); err != nil {
		return err
	}
	if err := running.Check(); err != nil {
		return err
	}
	after, err := running.ReadMetrics(ctx)
	if err != nil {
		return err
	}
	involved := len(running.Brokers)
	if l.directed {
		involved = 2
	}
	sample.Mesh = report.MeshOf(before, after, involved)
	if err := json.Unmarshal(sample.Raw, &sample.Result); err != nil {
		return fmt.Errorf("read the result of beeline bench: %w", err)
	}
	return nil
}

// bench runs beeline bench against a system and returns what it says.
func (r runner) bench(ctx context.Context, l load, running *systems.Running) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	args := slices.Concat([]string{"bench", l.Scenario, "--output", "json", "--quiet"}, l.brokers(running.Brokers), l.args,
		[]string{"--pid", strings.Join(running.Processes(), ",")})
	if l.Scenario == "pairs" || l.Scenario == "fanout" {
		args = append(args, "--warmup", r.warmup.String(), "--duration", r.duration.String())
	}
	cmd := exec.CommandContext(ctx, filepath.Join(r.bin, "beeline"), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // should we be killed, nobody would end it
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%w: %s\nbeeline %s", err, strings.TrimSpace(complaint.String()), strings.Join(args, " "))
	}
	return out.Bytes(), nil
}
