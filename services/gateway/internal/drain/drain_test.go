package drain

import (
	"math"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/beeline-mqtt/beeline/internal/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWrongConfigurationNamesTheKey(t *testing.T) {
	type file struct {
		Drain Config `koanf:"drain"`
	}
	tests := []struct {
		name   string
		change func(*Config)
		want   string // "": valid
	}{
		{"defaults", func(*Config) {}, ""},
		{"no rate", func(c *Config) { c.Rate = 0 }, "drain.rate: "},
		{"no time: nobody is moved", func(c *Config) { c.Timeout = 0 }, ""},
		{"no time and no grace", func(c *Config) { c.Timeout, c.Grace = 0, 0 }, ""},
		{"less than no time", func(c *Config) { c.Timeout = -1 }, "drain.timeout: "},
		{"less than no grace", func(c *Config) { c.Grace = -1 }, "drain.grace: "},
		{"less than no time to settle", func(c *Config) { c.Settle = -1 }, "drain.settle: "},
		{"nothing but grace", func(c *Config) { c.Grace = c.Timeout }, "drain.grace: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := DefaultConfig()
			tt.change(&c)
			_, err := config.Load(file{c}, config.Source{Program: "gateway"})
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v, want %q in it", err, tt.want)
			}
		})
	}
}

func TestHowManyAreDue(t *testing.T) {
	tests := []struct {
		name           string
		rate, clients  int
		within, passed time.Duration
		want           int
	}{
		{"at the beginning", 1000, 5000, 30 * time.Second, 0, 0},
		{"before the first is", 10, 50, 30 * time.Second, 99 * time.Millisecond, 0},
		{"the first", 10, 50, 30 * time.Second, 100 * time.Millisecond, 1},
		{"at the rate", 1000, 5000, 30 * time.Second, 2500 * time.Millisecond, 2500},
		{"just as many as the rate is good for", 1000, 30_000, 30 * time.Second, 15 * time.Second, 15_000},
		{"more than the rate is good for", 1000, 90_000, 30 * time.Second, 15 * time.Second, 45_000},
		{"just before the end", 1, 1000, 10 * time.Second, 9_999 * time.Millisecond, 999},
		{"at the end", 1, 1000, 10 * time.Second, 10 * time.Second, math.MaxInt},
		{"nobody is there", 1, 0, 10 * time.Second, time.Second, 1},
		{"no time", 1, 1000, 0, 0, math.MaxInt},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := paceOf(tt.rate, tt.clients, tt.within).due(tt.passed); got != tt.want {
				t.Errorf("%d are due, want %d", got, tt.want)
			}
		})
	}
}
