//go:build linux

package processes

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/beeline-mqtt/beeline/internal/pki"
	"github.com/beeline-mqtt/beeline/test/process"
)

// members makes the processes of etcd.
func (c *Cluster) members(t testing.TB, n int) {
	t.Helper()
	if n == 1 {
		c.etcd = []string{address(t)}
		c.Etcds = []*Process{c.process("etcd", "etcd", "-dir", filepath.Join(c.dir, "etcd"), "-address", c.etcd[0])}
	} else {
		peers := make([]string, n)
		for i := range peers {
			peers[i] = address(t)
		}
		for i, peer := range peers {
			name := fmt.Sprintf("etcd-%d", i)
			c.etcd = append(c.etcd, address(t))
			c.Etcds = append(c.Etcds, c.process(name, "etcd", "-dir", filepath.Join(c.dir, name), "-address", c.etcd[i],
				"-peer", peer, "-members", strings.Join(peers, ",")))
		}
	}
	c.Etcd = c.Etcds[0]
}

// wire makes the wire of a process to etcd, and returns where it reaches etcd.
func (c *Cluster) wire(t testing.TB) (x *Proxy, endpoints string) {
	t.Helper()
	x = NewProxy(t, c.etcd[0], nil)
	if len(c.etcd) > 1 {
		return x, strings.Join(c.etcd, `", "`)
	}
	return x, x.Address()
}

// settings fill the templates of configuration files.
type settings struct {
	Cluster                        *Cluster
	Cert                           pki.Files
	Etcd, Listen, Admin, Advertise string
	MQTT, Data, Behind             string
	Blind                          time.Duration
}

const sessionYAML = `
log: {level: info, format: text}
listen: {{.Listen}}
admin: {address: "{{.Admin}}"}
etcd: {endpoints: ["{{.Etcd}}"]}
rpc: {tls: {cert_file: {{.Cert.Cert}}, key_file: {{.Cert.Key}}, ca_file: {{.Cert.CA}}}}
advertise: {{.Advertise}}
session: {ttl: {{.Cluster.TTL}}, blind_after: {{.Blind}}, data: {{.Data}}}
`

const gatewayYAML = `
log: {level: info, format: text}
listen: {{.Listen}}
admin: {address: "{{.Admin}}"}
etcd: {endpoints: ["{{.Etcd}}"]}
rpc: {tls: {cert_file: {{.Cert.Cert}}, key_file: {{.Cert.Key}}, ca_file: {{.Cert.CA}}}}
advertise: {{.Advertise}}
anonymous: true
gateway:
  lease_ttl: {{.Cluster.TTL}}
  public_address: "{{.MQTT}}"
  listeners:
    - {name: mqtt, address: "{{.MQTT}}"}
{{- if .Cluster.Config.Router}}
    - {name: router, address: "{{.Behind}}", proxy_from: [loopback]}
{{- end}}
  limits: { {{.Cluster.Limits}} }
  {{.Cluster.Gateway}}
`

const routerYAML = `
log: {level: info, format: text}
listen: {{.Listen}}
admin: {address: "{{.Admin}}"}
etcd: {endpoints: ["{{.Etcd}}"]}
rpc: {tls: {cert_file: {{.Cert.Cert}}, key_file: {{.Cert.Key}}, ca_file: {{.Cert.CA}}}}
router:
  secret: no-secret-but-at-least-32-characters
  listeners: [{name: mqtt, address: "{{.MQTT}}"}]
`

// configure writes a configuration file and returns its path.
func (c *Cluster) configure(t testing.TB, name, text string, s settings) string {
	t.Helper()
	var b bytes.Buffer
	s.Cluster = c
	if err := template.Must(template.New(name).Parse(text)).Execute(&b, s); err != nil {
		t.Fatalf("configure %s: %v", name, err)
	}
	path := filepath.Join(c.dir, name+".yaml")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatalf("configure %s: %v", name, err)
	}
	return path
}

func (c *Cluster) certificate(t testing.TB, name, role string) pki.Files {
	t.Helper()
	files, err := c.ca.Issue(pki.Request{Name: name, Role: role})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func (c *Cluster) session(t testing.TB, i int) *Session {
	t.Helper()
	name := fmt.Sprintf("session-%d", i)
	listen := address(t)
	wire, endpoints := c.wire(t)
	s := &Session{Etcd: wire, peers: NewProxy(t, listen, c.pids), admin: address(t)}
	path := c.configure(t, name, sessionYAML, settings{
		Cert: c.certificate(t, name, "session"),
		Etcd: endpoints, Listen: listen, Admin: s.admin, Advertise: s.peers.Address(), Blind: c.TTL / 4,
		Data: filepath.Join(c.dir, "session"),
	})
	s.Process = c.process(name, "session", "--config", path)
	return s
}

func (c *Cluster) gateway(t testing.TB, i int) *Gateway {
	t.Helper()
	name := fmt.Sprintf("gateway-%d", i)
	listen := address(t)
	wire, endpoints := c.wire(t)
	g := &Gateway{MQTT: address(t), Etcd: wire, peers: NewProxy(t, listen, c.pids), admin: address(t)}
	path := c.configure(t, name, gatewayYAML, settings{
		Cert: c.certificate(t, name, "gateway"),
		Etcd: endpoints, Listen: listen, Admin: g.admin, Advertise: g.peers.Address(), MQTT: g.MQTT,
		Behind: address(t),
	})
	g.Process = c.process(name, "gateway", "--config", path)
	return g
}

func (c *Cluster) router(t testing.TB) *Router {
	t.Helper()
	wire, endpoints := c.wire(t)
	r := &Router{MQTT: address(t), GRPC: address(t), Operator: c.certificate(t, "operator", "operator"), Etcd: wire, admin: address(t)}
	path := c.configure(t, "router", routerYAML, settings{
		Cert: c.certificate(t, "router", "router"), Etcd: endpoints, Listen: r.GRPC, Admin: r.admin, MQTT: r.MQTT,
	})
	r.Process = c.process("router", "router", "--config", path)
	return r
}

func address(t testing.TB) string {
	t.Helper()
	a, err := process.Address()
	if err != nil {
		t.Fatal(err)
	}
	return a
}
