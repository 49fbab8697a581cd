package gateway

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/internal/config"
)

// file is a configuration as a process has it.
type file struct {
	Gateway Config `koanf:"gateway"`
}

func TestWrongConfigurationNamesTheKey(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Config)
		want   string // "": valid
	}{
		{"defaults", func(*Config) {}, ""},
		{"no cluster", func(c *Config) { c.Cluster = "" }, "gateway.cluster: "},
		{"cluster with a slash", func(c *Config) { c.Cluster = "a/b" }, "gateway.cluster: "},
		{"short lease", func(c *Config) { c.LeaseTTL = time.Second }, "gateway.lease_ttl: "},
		{"lease of half a second", func(c *Config) { c.LeaseTTL = 2500 * time.Millisecond }, "gateway.lease_ttl: "},
		{"shortest lease", func(c *Config) { c.LeaseTTL = 2 * time.Second }, ""},
		{"router address without port", func(c *Config) { c.RouterAddress = "gateway-1" }, "gateway.router_address: "},
		{"public address without port", func(c *Config) { c.PublicAddress = "gateway-1" }, "gateway.public_address: "},
		{"public address", func(c *Config) { c.PublicAddress = "gateway-1.example:1883" }, ""},
		{"rate of a drain", func(c *Config) { c.Drain.Rate = 0 }, "gateway.drain.rate: "},
		{"grace of a drain", func(c *Config) { c.Drain.Grace = time.Minute }, "gateway.drain.grace: "},
		{"no clients", func(c *Config) { c.MaxClients = 0 }, "gateway.max_clients: "},
		{"no connections", func(c *Config) { c.MaxConnections = -1 }, "gateway.max_connections: "},
		{"no group members", func(c *Config) { c.GroupMembers = 0 }, "gateway.group_members: "},
		{"small links", func(c *Config) { c.LinkBytes = 128*config.KiB - 1 }, "gateway.link_bytes: "},
		{"no cache", func(c *Config) { c.CachedLeases = 0 }, "gateway.cached_leases: "},
		{"no room for look-ups", func(c *Config) { c.UnresolvedBytes = 0 }, "gateway.unresolved_bytes: "},
		{"no time for routes", func(c *Config) { c.RouteAckTimeout = 0 }, "gateway.route_ack_timeout: "},
		{"no listeners", func(c *Config) { c.Listeners = nil }, "gateway.listeners: "},
		{"listener without a name", func(c *Config) { c.Listeners[0].Name = "" }, "gateway.listeners[0].name: "},
		{"two listeners of one name", func(c *Config) {
			c.Listeners = []Listener{{Name: "a", Address: ":1"}, {Name: "b", Address: ":2"}, {Name: "a", Address: ":3"}}
		}, "gateway.listeners[2].name: "},
		{"listener without port", func(c *Config) { c.Listeners[0].Address = "localhost" }, "gateway.listeners[0].address: "},
		{"certificate without key", func(c *Config) { c.Listeners[0].CertFile = "x" }, "gateway.listeners[0].cert_file: "},
		{"proxy by name", func(c *Config) { c.Listeners[0].ProxyFrom = []string{"localhost"} }, "gateway.listeners[0].proxy_from: "},
		{"limits", func(c *Config) { c.Limits.PacketBytes = 1 }, "gateway.limits.packet_bytes: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := DefaultConfig()
			tt.change(&c)
			_, err := config.Load(file{Gateway: c}, config.Source{Program: "gateway"})
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("error: %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("error %v, want %q in it", err, tt.want)
			}
		})
	}
}

func TestEveryKeyCanBeSet(t *testing.T) {
	var help strings.Builder
	_, err := config.Load(file{Gateway: DefaultConfig()}, config.Source{Program: "gateway", Args: []string{"--help"}, Output: &help})
	if !errors.Is(err, config.ErrDone) {
		t.Fatal(err)
	}
	for line := range strings.Lines(help.String()) {
		fields := strings.Fields(line)
		if len(fields) > 1 && strings.HasPrefix(fields[0], "gateway.") && len(fields) < 3 && !strings.Contains(line, "(list") {
			t.Errorf("%s has no help", fields[0])
		}
	}
}
