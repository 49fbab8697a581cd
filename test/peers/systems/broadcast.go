//go:build linux

package systems

import (
	"context"
	"fmt"
	"strings"
)

// Broadcast is the design that sends every message to every node: stock mochi-mqtt servers that share one channel
// of Redis, which keeps nothing.
func Broadcast(nodes int) System {
	return System{
		Name: fmt.Sprintf("broadcast, %d nodes", nodes),
		start: func(ctx context.Context, r *Running) error {
			store, err := find("redis-server")
			if err != nil {
				return err
			}
			at, err := addresses(nodes + 1)
			if err != nil {
				return err
			}
			host, port, _ := strings.Cut(at[nodes], ":")
			if err := r.run("redis", store, "--bind", host, "--port", port, "--dir", r.Dir, "--save", "", "--appendonly", "no"); err != nil {
				return err
			}
			if err := r.await(ctx, func() error { return listens(ctx, at[nodes]) }); err != nil {
				return err
			}
			for i := range nodes {
				err := r.run(fmt.Sprintf("node-%d", i+1), r.program("broadcast"), "-listen", at[i], "-redis", at[nodes])
				if err != nil {
					return err
				}
				r.Brokers = append(r.Brokers, "mqtt://"+at[i])
			}
			return nil
		},
		version: func(ctx context.Context, env Env) (string, error) {
			store, err := find("redis-server")
			if err != nil {
				return "", err
			}
			redis, err := firstLine(ctx, store, "--version") // "Redis server v=7.0.15 sha=..."
			if err != nil {
				return "", err
			}
			redis, _, _ = strings.Cut(redis, " sha")
			mochi, err := moduleVersion(env.program("broadcast"), "github.com/mochi-mqtt/server/v2")
			return fmt.Sprintf("broadcast: mochi-mqtt %s and %s", mochi, redis), err
		},
	}
}
