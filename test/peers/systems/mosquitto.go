//go:build linux

package systems

import (
	"context"
	"fmt"
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
			at, err := r.mosquittos(1)
			for _, a := range at {
				r.Brokers = append(r.Brokers, "mqtt://"+a)
			}
			return err
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

// mosquittos starts nodes that know nothing of each other, and returns where they take clients.
func (r *Running) mosquittos(nodes int) ([]string, error) {
	path, err := find("mosquitto")
	if err != nil {
		return nil, err
	}
	at, err := addresses(nodes)
	if err != nil {
		return nil, err
	}
	for i, a := range at {
		name := fmt.Sprintf("mosquitto-%d", i+1)
		host, port, _ := strings.Cut(a, ":")
		config, err := r.file(name+".conf", `listener %s %s
allow_anonymous true
persistence false
max_inflight_messages 128
max_queued_messages 0
set_tcp_nodelay true
log_type error
log_type warning
`, port, host)
		if err != nil {
			return nil, err
		}
		if err := r.run(name, path, "-c", config); err != nil {
			return nil, err
		}
	}
	return at, nil
}
