//go:build linux

package systems

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// secret is what the router's hashes are keyed with. Nobody else reads them.
const secret = "a secret of measurements, no other"

// Router is Beeline's router in front of mosquitto nodes, which are a cluster to it that is not its own. It comes with
// the etcd that it keeps clients' nodes in. Everybody connects to the router.
func Router(nodes int) System {
	return System{
		Name: fmt.Sprintf("Beeline's router, %d mosquitto", nodes),
		start: func(ctx context.Context, r *Running) error {
			behind, err := r.mosquittos(nodes)
			if err != nil {
				return err
			}
			etcd, err := startEtcd(ctx, r)
			if err != nil {
				return err
			}
			rpc, err := startRouter(r, etcd)
			if err != nil {
				return err
			}
			return r.await(ctx, func() error { return sendAllTo(ctx, r, rpc, behind) })
		},
		version: func(ctx context.Context, e Env) (string, error) {
			_, err := Mosquitto().version(ctx, e)
			return "Beeline: this commit", err
		},
	}
}

// BeelineBehindRouter is Beeline with a router, which everybody connects to.
func BeelineBehindRouter(gateways int) System {
	s := Beeline(gateways, false)
	s.Name += ", router"
	s.start = func(ctx context.Context, r *Running) error {
		if err := startBeeline(ctx, r, gateways, false); err != nil {
			return err
		}
		_, err := startRouter(r, r.etcd)
		return err
	}
	return s
}

// startRouter starts a router, which is the only broker from then on, and returns the address of its gRPC server.
func startRouter(r *Running, etcd string) (rpc string, err error) {
	at, err := addresses(3)
	if err != nil {
		return "", err
	}
	config, err := r.file("router.yaml", "router: {secret: %q, listeners: [{name: mqtt, address: %q}]}\n", secret, at[0])
	if err != nil {
		return "", err
	}
	r.Brokers = []string{"mqtt://" + at[0]}
	return at[1], r.run("router", r.program("router"), "--config", config, "--rpc.tls.insecure", "--etcd.endpoints", etcd,
		"--listen", at[1], "--admin.address", at[2], "--admin.pprof")
}

// sendAllTo has a router send all clients to a cluster of brokers.
func sendAllTo(ctx context.Context, r *Running, rpc string, brokers []string) error {
	const name = "behind"
	for _, args := range [][]string{
		{"cluster", "add", name, "--static", strings.Join(brokers, ",")},
		{"placement", "assign", "--default", "--cluster", name},
	} {
		args = append(args, "--router", rpc, "--insecure")
		if out, err := exec.CommandContext(ctx, r.program("beeline"), args...).CombinedOutput(); err != nil {
			return fmt.Errorf("beeline %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

// HAProxy is HAProxy in front of mosquitto nodes. It reads the CONNECT and keeps which node a client id was at, in its
// memory: the nearest to what the router does. All else is the default, but for numbers and time-outs, which are as
// large as the router's.
func HAProxy(nodes int) System {
	return System{
		Name: fmt.Sprintf("HAProxy, %d mosquitto", nodes),
		start: func(_ context.Context, r *Running) error {
			behind, err := r.mosquittos(nodes)
			if err != nil {
				return err
			}
			path, err := find("haproxy")
			if err != nil {
				return err
			}
			at, err := addresses(1)
			if err != nil {
				return err
			}
			config, err := r.file("haproxy.cfg", haproxyConfig, at[0], haproxyServers(behind))
			if err != nil {
				return err
			}
			r.Brokers = []string{"mqtt://" + at[0]}
			return r.run("haproxy", path, "-db", "-f", config)
		},
		version: func(ctx context.Context, e Env) (string, error) {
			_, missing := Mosquitto().version(ctx, e)
			path, err := find("haproxy")
			if err = errors.Join(err, missing); err != nil {
				return "", err
			}
			line, err := firstLine(ctx, path, "-v") // "HAProxy version 2.6.12-1 2023/12/16 - https://haproxy.org/"
			line, _, _ = strings.Cut(line, " - ")
			return line, err
		},
	}
}

const haproxyConfig = `global
  maxconn 9000
defaults
  mode tcp
  timeout connect 3s
  timeout client 1h
  timeout server 1h
frontend mqtt
  bind %s
  tcp-request inspect-delay 10s
  tcp-request content reject unless { req.payload(0,0),mqtt_is_valid }
  default_backend nodes
backend nodes
  balance roundrobin
  stick-table type string len 64 size 250k expire 30m
  stick on req.payload(0,0),mqtt_field_value(connect,client_identifier)
%s`

// haproxyServers are the lines of the configuration for the nodes behind.
func haproxyServers(nodes []string) string {
	var lines strings.Builder
	for i, at := range nodes {
		fmt.Fprintf(&lines, "  server node%d %s check\n", i+1, at)
	}
	return lines.String()
}
