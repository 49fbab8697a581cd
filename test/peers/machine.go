//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// machine describes what figures were taken on, for people.
func machine(ctx context.Context) string {
	var memory float64
	for line := range strings.Lines(read("/proc/meminfo")) {
		if _, err := fmt.Sscanf(line, "MemTotal: %f kB", &memory); err == nil {
			break
		}
	}
	model := "unknown processor"
	for line := range strings.Lines(read("/proc/cpuinfo")) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	busy, _, _ := strings.Cut(read("/proc/loadavg"), " ")
	return fmt.Sprintf("%d cores (%s, %s), %.0f GiB of memory, Linux %s, %s, load before the run %s; %s, commit %s",
		runtime.NumCPU(), model, runtime.GOARCH, memory/(1<<20), strings.TrimSpace(read("/proc/sys/kernel/osrelease")),
		runtime.Version(), busy, time.Now().UTC().Format(time.DateOnly), commit(ctx))
}

// read returns a file of the kernel, "" when it is not there.
func read(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(b)
}

// commit is what was measured of this repository.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--abbrev=10").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
