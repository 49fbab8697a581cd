//go:build linux

package systems

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
)

// NATS is a cluster of NATS servers. Their MQTT needs JetStream, of which every node has a copy, as in earnest.
func NATS(nodes int) System {
	return System{
		Name: fmt.Sprintf("NATS, %d nodes", nodes),
		start: func(_ context.Context, r *Running) error {
			at, err := addresses(3 * nodes)
			if err != nil {
				return err
			}
			clients, cluster, mqtt := at[:nodes], at[nodes:2*nodes], at[2*nodes:]
			for i := range nodes {
				name := fmt.Sprintf("nats-%d", i+1)
				config, err := r.file(name+".conf", `server_name: %[1]s
listen: "%[2]s"
cluster { name: peers, listen: "%[3]s", routes: ["nats://%[4]s"] }
jetstream { store_dir: "%[5]s" }
mqtt { listen: "%[6]s", stream_replicas: %[7]d }
`, name, clients[i], cluster[i], strings.Join(cluster, `", "nats://`), filepath.Join(r.Dir, name), mqtt[i], nodes)
				if err != nil {
					return err
				}
				if err := r.run(name, r.program("nats-server"), "-c", config); err != nil {
					return err
				}
				r.Brokers = append(r.Brokers, "mqtt://"+mqtt[i])
			}
			return nil
		},
		version: func(ctx context.Context, env Env) (string, error) {
			return firstLine(ctx, env.program("nats-server"), "--version") // "nats-server: v2.15.2"
		},
	}
}
