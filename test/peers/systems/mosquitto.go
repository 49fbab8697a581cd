//go:build linux

package systems

import (
	"context"
	"strings"
)

// Mosquitto is one node of Eclipse mosquitto, which has no cluster. It may keep as many messages for a client as
// there are, and writes them at once: with its defaults it drops some, or lets them wait for the TCP of the other
// end.
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
			return firstLine(ctx, path, "-h")
		},
	}
}
