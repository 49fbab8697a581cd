// Command router runs one router as a process of its own.
package main

import (
	"context"
	"errors"
	"os"
	"runtime/debug"

	"github.com/beeline-mqtt/beeline/internal/config"
	"github.com/beeline-mqtt/beeline/internal/lifecycle"
	"github.com/beeline-mqtt/beeline/internal/node"
	"github.com/beeline-mqtt/beeline/internal/processors"
	"github.com/beeline-mqtt/beeline/services/router"
)

// settings is the whole configuration of the process.
type settings struct {
	// Named, not embedded: it has a Validate of its own, which would become that of settings, too.
	Node node.Config `koanf:",squash"`

	Router router.Config `koanf:"router"`
}

func main() { node.Main("router", run) }

func run(ctx context.Context) error {
	defaults := settings{Node: node.DefaultConfig(), Router: router.DefaultConfig()}
	probe, args := node.ProbeOf(os.Args[1:])
	cfg, err := config.Load(defaults, config.Source{
		Program: "router", Commands: node.ProbeUsage, Args: args, Environ: os.Environ(), Output: os.Stdout,
	})
	if err != nil {
		return err
	}
	if probe != "" {
		return probe.Ask(ctx, cfg.Node)
	}
	n, err := node.New(ctx, cfg.Node, "router", os.Stderr, node.Options{Public: true})
	if err != nil {
		return err
	}
	spareMemory()
	r, err := router.New(cfg.Router, router.Deps{Etcd: n.Etcd, Dial: n.Dialer.Dial, Metrics: n.Metrics, Logger: n.Logger})
	if err != nil {
		return errors.Join(err, n.Close())
	}
	if err := r.Serve(n.Server); err != nil {
		return errors.Join(err, n.Close())
	}
	n.Readiness.Add("router", r.Ready)
	return n.Run(ctx, processors.Part(), lifecycle.Simple("router", r.Run))
}

// garbage is how much of it, in percent of what is alive, piles up before it is collected. Go's own 100 counts stacks as
// alive, which are half of what a router holds for an idle client: with it a client costs 1 KiB more. Only clients that
// come make garbage, and to collect it sooner makes each of them a twentieth dearer.
const garbage = 50

// spareMemory has it collected sooner, unless whoever started the process has chosen.
func spareMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbage)
	}
}
