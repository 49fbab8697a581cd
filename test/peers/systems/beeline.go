//go:build linux

package systems

import (
	"bufio"
	"context"
	"debug/buildinfo"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/beeline-mqtt/beeline/internal/pki"
)

// Beeline is etcd, which flushes what it writes, one session instance and gateways. Services trust each other as
// the peers' do, unless they are to use mutual TLS. All else is the default.
func Beeline(gateways int, mutualTLS bool) System {
	name := fmt.Sprintf("Beeline, %d gateways", gateways)
	if gateways == 1 {
		name = "Beeline, 1 gateway"
	}
	if mutualTLS {
		name += ", mTLS"
	}
	return System{
		Name:    name,
		start:   func(ctx context.Context, r *Running) error { return startBeeline(ctx, r, gateways, mutualTLS) },
		version: func(context.Context, Env) (string, error) { return "Beeline: this commit", nil },
	}
}

func startBeeline(ctx context.Context, r *Running, gateways int, mutualTLS bool) error {
	at, err := addresses(2 + 3*gateways)
	if err != nil {
		return err
	}
	etcd, err := startEtcd(ctx, r)
	if err != nil {
		return err
	}
	service := func(name, program, listen, admin string, more ...string) error {
		args := append(more, "--etcd.endpoints", etcd, "--listen", listen, "--admin.address", admin)
		trust, err := trust(filepath.Join(r.Dir, "pki"), name, program, mutualTLS)
		if err != nil {
			return err
		}
		return r.run(name, r.program(program), append(args, trust...)...)
	}
	if err := service("session", "session", at[0], at[1], "--session.data", filepath.Join(r.Dir, "store")); err != nil {
		return err
	}
	for i := range gateways {
		name := fmt.Sprintf("gateway-%d", i+1)
		listen, admin, mqtt := at[2+3*i], at[3+3*i], at[4+3*i]
		config, err := r.file(name+".yaml", "gateway: {listeners: [{name: mqtt, address: %q}]}\n", mqtt)
		if err != nil {
			return err
		}
		if err := service(name, "gateway", listen, admin, "--config", config, "--anonymous"); err != nil {
			return err
		}
		r.Brokers = append(r.Brokers, "mqtt://"+mqtt)
		r.Metrics = append(r.Metrics, "http://"+admin+"/metrics")
	}
	return nil
}

// startEtcd starts an etcd that flushes what it writes, and returns its address when it listens.
func startEtcd(ctx context.Context, r *Running) (string, error) {
	at, err := addresses(1)
	if err != nil {
		return "", err
	}
	r.etcd = at[0]
	if err := r.run("etcd", r.program("etcd"), "-synced", "-dir", filepath.Join(r.Dir, "etcd"), "-address", r.etcd); err != nil {
		return "", err
	}
	return r.etcd, r.await(ctx, func() error { return listens(ctx, r.etcd) })
}

// trust are the flags that say how a service and its peers know each other, with its certificate if they need one.
func trust(dir, name, role string, mutualTLS bool) ([]string, error) {
	if !mutualTLS {
		return []string{"--rpc.tls.insecure"}, nil
	}
	authority, err := pki.Open(dir, time.Now)
	if err != nil {
		return nil, err
	}
	files, err := authority.Issue(pki.Request{Name: name, Role: role})
	return []string{"--rpc.tls.cert_file", files.Cert, "--rpc.tls.key_file", files.Key, "--rpc.tls.ca_file", files.CA}, err
}

// awaitPeers waits until every gateway knows all the others, and the session instance.
func (r *Running) awaitPeers(ctx context.Context) error {
	return r.await(ctx, func() error {
		all, err := r.ReadMetrics(ctx)
		for i, m := range all {
			if got := m["beeline_mesh_peers"]; got != float64(len(all)) {
				return fmt.Errorf("gateway %d knows %v others of %d", i+1, got, len(all))
			}
		}
		return err
	})
}

// ReadMetrics reads the metrics of every node, by name and labels as they are written. It is empty for systems
// whose metrics are not read.
func (r *Running) ReadMetrics(ctx context.Context) ([]map[string]float64, error) {
	all := make([]map[string]float64, len(r.Metrics))
	for i, url := range r.Metrics {
		var err error
		if all[i], err = readMetrics(ctx, url); err != nil {
			return nil, fmt.Errorf("read %s: %w", url, err)
		}
	}
	return all, nil
}

func readMetrics(ctx context.Context, url string) (map[string]float64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	request.Close = true
	answer, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	metrics := map[string]float64{}
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		var value float64
		name, rest, _ := strings.Cut(lines.Text(), " ")
		if _, err := fmt.Sscan(rest, &value); err == nil {
			metrics[name] = value
		}
	}
	return metrics, lines.Err()
}

// listens reports whether anybody takes connections at an address.
func listens(ctx context.Context, address string) error {
	nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return nc.Close()
}

// moduleVersion says which version of a module is built into a program.
func moduleVersion(path, module string) (string, error) {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read what %s was built from: %w", path, err)
	}
	for _, d := range info.Deps {
		if d.Path == module {
			return d.Version, nil
		}
	}
	return "", fmt.Errorf("%s is not built with %s", path, module)
}
