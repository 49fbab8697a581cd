//go:build linux

package systems

import (
	"context"
	"strings"
)

// Mosquitto is one node of Eclipse mosquitto, which has no cluster. With its defaults it closes publishers that have
// more than 20 messages of QoS 2 in flight, drops what a subscriber does not take at once, and lets messages wait for
// the TCP of the other end. So it gets as much in flight as a gateway takes, all the room for queues that there is,
// and writes at once, as the others do.
func Mosquitto() System {
	return System{
		Name: "mosquitto, 1 node",
		start: func(_ context.Context, r *Running) error {
			path, err := find("mosquitto")
			if err != nil {
				return err
			}
			at, err := addresses(1)
			if err != nil {
				return err
			}
			host, port, _ := strings.Cut(at[0], ":")
			config, err := r.file("mosquitto.conf", `listener %s %s
allow_anonymous true
persistence false
max_inflight_messages 128
max_queued_messages 0
set_tcp_nodelay true
log_type error
log_type warning
`, port, host)
			if err != nil {
				return err
			}
			r.Brokers = []string{"mqtt://" + at[0]}
			return r.run("mosquitto", path, "-c", config)
		},
		version: func(ctx context.Context, _ Env) (string, error) {
			path, err := find("mosquitto")
			if err != nil {
				return "", err
			}
			return firstLine(ctx, path, "-h") // "mosquitto version 2.0.11"
		},
	}
}
