// Command session runs one instance of the session service as a process of its own.
package main

import (
	"context"
	"errors"
	"os"

	"github.com/beeline-mqtt/beeline/internal/config"
	"github.com/beeline-mqtt/beeline/internal/lifecycle"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/node"
	"github.com/beeline-mqtt/beeline/internal/processors"
	"github.com/beeline-mqtt/beeline/services/session"
)

// settings is the whole configuration of the process.
type settings struct {
	// Named, not embedded: it has a Validate of its own, which would become that of settings, too.
	Node node.Config `koanf:",squash"`

	Session session.Config `koanf:"session"`
}

func main() { node.Main("session", run) }

func run(ctx context.Context) error {
	defaults := settings{Node: node.DefaultConfig(), Session: session.DefaultConfig()}
	probe, args := node.ProbeOf(os.Args[1:])
	store, args := storeCommandOf(args)
	cfg, err := config.Load(defaults, config.Source{
		Program: "session", Commands: node.ProbeUsage + storeUsage, Args: args, Environ: os.Environ(), Output: os.Stdout,
	})
	if err != nil {
		return err
	}
	if probe != "" {
		return probe.Ask(ctx, cfg.Node)
	}
	if store.verb != "" {
		return store.run(ctx, cfg)
	}
	n, err := node.New(ctx, cfg.Node, "session", os.Stderr, node.Options{Server: mesh.ServerOptions(), Dial: mesh.DialOptions()})
	if err != nil {
		return err
	}
	cfg.Session.Address = n.Address()
	s, err := session.New(cfg.Session, session.Deps{Etcd: n.Etcd, Logger: n.Logger, Metrics: n.Metrics, Dial: n.Dialer.Dial})
	if err != nil {
		return errors.Join(err, n.Close())
	}
	s.Register(n.Server)
	n.Readiness.Add("session", s.Ready)
	n.Handle("POST "+session.BackupPath, s.BackupHandler())
	return n.Run(ctx, processors.Part(), lifecycle.Simple("session", s.Run))
}
