package config_test

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/beeline-mqtt/beeline/internal/config"
)

// gateway is the configuration of a small service.
type gateway struct {
	Listen string        `koanf:"listen" help:"host:port for MQTT"`
	Drain  time.Duration `koanf:"drain" help:"how long to wait before closing"`
	Auth   struct {
		Password config.Secret `koanf:"password" help:"password of the database"`
	} `koanf:"auth"`
}

// Validate is called by Load.
func (g gateway) Validate() error {
	if g.Drain > time.Minute {
		return config.Invalid("drain", "must be at most 1m, is %v", g.Drain)
	}
	return nil
}

func Example() {
	defaults := gateway{Listen: ":1883", Drain: 5 * time.Second}
	cfg, err := config.Load(defaults, config.Source{
		Program: "gateway",
		Args:    []string{"--drain=30s", "--print-config"},
		Environ: []string{"BEELINE_AUTH__PASSWORD=hunter2"},
		Output:  os.Stdout,
	})
	fmt.Println(cfg.Drain, errors.Is(err, config.ErrDone))

	_, err = config.Load(defaults, config.Source{Args: []string{"--drain=1h"}})
	fmt.Println(err)
	// Output:
	// listen: :1883
	// drain: 30s
	// auth:
	//   password: '********'
	// 30s true
	// configuration: drain: must be at most 1m, is 1h0m0s
}
