// Command gateway runs one gateway as a process of its own.
package main

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"github.com/beeline-mqtt/beeline/internal/config"
	"github.com/beeline-mqtt/beeline/internal/lifecycle"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/node"
	"github.com/beeline-mqtt/beeline/internal/processors"
	"github.com/beeline-mqtt/beeline/services/gateway"
)

// settings is the whole configuration of the process.
type settings struct {
	// Named, not embedded: it has a Validate of its own, which would become that of settings, too.
	Node node.Config `koanf:",squash"`

	Gateway gateway.Config `koanf:"gateway"`
	// Anonymous lets every client in. Without it Gateway.Auth has to say who is.
	Anonymous bool `koanf:"anonymous" help:"let every client in, as whom it says it is, and permit everything; instead of gateway.auth"`
}

// Validate reports what does not go together.
func (s settings) Validate() error {
	if s.Anonymous && s.Gateway.Auth.Enabled() {
		return config.Invalid("anonymous", "must not be set together with gateway.auth.methods")
	}
	return nil
}

func main() { node.Main("gateway", run) }

func run(ctx context.Context) error {
	defaults := settings{Node: node.DefaultConfig(), Gateway: gateway.DefaultConfig()}
	probe, args := node.ProbeOf(os.Args[1:])
	cfg, err := config.Load(defaults, config.Source{
		Program: "gateway", Commands: node.ProbeUsage, Args: args, Environ: os.Environ(), Output: os.Stdout,
	})
	if err != nil {
		return err
	}
	if probe != "" {
		return probe.Ask(ctx, cfg.Node)
	}
	cfg.Node.StopGrace += cfg.Gateway.Drain.Timeout // which is not to be taken from the other parts
	n, err := node.New(ctx, cfg.Node, "gateway", os.Stderr, node.Options{Server: mesh.ServerOptions(), Dial: mesh.DialOptions()})
	if err != nil {
		return err
	}
	deps := gateway.Deps{Etcd: n.Etcd, Dial: n.Dialer.Dial, Metrics: n.Metrics, Logger: n.Logger}
	if cfg.Anonymous {
		n.Logger.WarnContext(ctx, "every client is let in", slog.String("because", "anonymous is set"))
		gateway.AllowAnonymous(&deps)
	}
	g, err := gateway.New(cfg.Gateway, deps)
	if err != nil {
		return errors.Join(err, n.Close())
	}
	if !cfg.Anonymous && !cfg.Gateway.Auth.Enabled() {
		n.Logger.WarnContext(ctx, "every client is refused", slog.String("because", "neither gateway.auth.methods nor anonymous is set"))
	}
	g.Register(n.Server)
	n.Readiness.Add("gateway", g.Ready)
	return n.Run(ctx, processors.Part(), lifecycle.Simple("gateway", func(ctx context.Context) error { return g.Run(ctx, n.Address()) }))
}
