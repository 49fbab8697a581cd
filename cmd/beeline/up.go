package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/beeline-mqtt/beeline/cmd/beeline/local"
	"github.com/beeline-mqtt/beeline/internal/atomicfile"
	"github.com/beeline-mqtt/beeline/internal/telemetry"
	"github.com/beeline-mqtt/beeline/services/gateway"
)

// mqttPort is the port that is registered for MQTT.
const mqttPort = 1883

// upOptions are the flags of beeline up.
type upOptions struct {
	gateways  int
	dir       string
	firstPort int
	// routerPort is negative when it is to be free if the gateways' are, and the usual one otherwise.
	routerPort int
	// restPort likewise.
	restPort int
	// users and rules are files; without users every client is let in.
	users, rules string
	pprof        bool
	log          telemetry.LogConfig
}

func upCommand() *cobra.Command {
	o := upOptions{log: telemetry.DefaultLogConfig()}
	o.log.Level, o.log.Format = slog.LevelWarn, "text"
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run a whole cluster on this machine",
		Long: "Run etcd, the session service and several gateways in this process, on 127.0.0.1. Every client is let in, unless " +
			"--users says who is: it is for trying Beeline, and for developing against it.\n\n" +
			"When all is ready, endpoints.json in the data directory says where everything listens.",
		Example: "  beeline up --gateways 5 --data /tmp/beeline",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.gateways, "gateways", 3, "how many gateways")
	f.StringVar(&o.dir, "data", "beeline-data", "directory for data and certificates")
	f.IntVar(&o.firstPort, "first-port", 18831, "MQTT port of the first gateway, the others follow; 0 takes free ports")
	f.IntVar(&o.routerPort, "router-port", -1, "MQTT port of the router; default 1883, with TLS on 8883 and WebSocket on 8083, or free ports if --first-port is 0")
	f.IntVar(&o.restPort, "rest-port", -1, "port of the router's REST API; default 8080, or a free port if --first-port is 0")
	f.StringVar(&o.users, "users", "", "password file with those who are let in, see beeline password; default: every client is")
	f.StringVar(&o.rules, "rules", "", "file with the rules of what they may publish and subscribe to; default: everything")
	f.BoolVar(&o.pprof, "pprof", false, "serve profiles under /debug/pprof on the admin addresses")
	f.TextVar(&o.log.Level, "log-level", o.log.Level, "debug, info, warn or error")
	f.StringVar(&o.log.Format, "log-format", o.log.Format, "text or json")
	return cmd
}

func (o *upOptions) check() error {
	if o.gateways < 1 {
		return errors.New("--gateways: at least one")
	}
	if o.firstPort < 0 || o.firstPort+o.gateways-1 > math.MaxUint16 {
		return fmt.Errorf("--first-port %d: there is no such port, or none for the last gateway", o.firstPort)
	}
	if o.routerPort > math.MaxUint16 {
		return fmt.Errorf("--router-port %d: there is no such port", o.routerPort)
	}
	if o.restPort > math.MaxUint16 {
		return fmt.Errorf("--rest-port %d: there is no such port", o.restPort)
	}
	if o.rules != "" && o.users == "" {
		return errors.New("--rules: is of no use without --users")
	}
	if err := o.log.Validate(); err != nil {
		return fmt.Errorf("--log-%w", err)
	}
	return nil
}

// gateway says who is let in at a gateway.
func (o *upOptions) gateway(_ int, c *gateway.Config) {
	if o.users != "" {
		c.Auth.Methods, c.Auth.Password.File, c.Auth.RulesFile = []string{"password"}, o.users, o.rules
	}
}

// router is where the router listens.
func (o *upOptions) router() *local.RouterPorts {
	ports := &local.RouterPorts{}
	switch {
	case o.routerPort < 0 && o.firstPort == 0:
	case o.routerPort < 0, o.routerPort == mqttPort:
		ports.MQTT, ports.MQTTS, ports.WebSocket = mqttPort, 8883, 8083
	default:
		ports.MQTT = o.routerPort
	}
	switch {
	case o.restPort >= 0:
		ports.REST = o.restPort
	case o.firstPort > 0:
		ports.REST = 8080
	}
	return ports
}

// lock keeps the data directory for this process, until unlock is called or the process ends.
func lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("--data: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("--data: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("--data: another beeline up uses %s: %w", dir, err)
	}
	return func() { _ = f.Close() }, nil
}

func (o *upOptions) run(ctx context.Context, out, log io.Writer) error {
	if err := o.check(); err != nil {
		return err
	}
	var err error
	if o.dir, err = filepath.Abs(o.dir); err != nil { // endpoints.json is read from anywhere
		return fmt.Errorf("--data: %w", err)
	}
	unlock, err := lock(o.dir)
	if err != nil {
		return err
	}
	defer unlock()
	endpointsFile := filepath.Join(o.dir, "endpoints.json")
	if err := remove(endpointsFile); err != nil {
		return fmt.Errorf("--data: %w", err)
	}
	c, err := local.Start(ctx, local.Config{
		Dir: o.dir, Gateways: o.gateways, FirstPort: o.firstPort, Router: o.router(), Pprof: o.pprof, Log: log, LogLevel: o.log,
		Gateway: o.gateway,
	})
	switch {
	case ctx.Err() != nil && err != nil:
		return nil // the user has enough already
	case err != nil:
		return fmt.Errorf("start: %w", err)
	}
	e := endpointsOf(c)
	if err := e.write(endpointsFile); err != nil {
		return errors.Join(err, c.Close())
	}
	e.explain(out)
	select {
	case <-ctx.Done():
		fmt.Fprintln(out, "stopping")
	case err = <-c.Failed():
	}
	return errors.Join(err, remove(endpointsFile), c.Close())
}

// remove sees to it that there is no such file.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// endpoints is what endpoints.json holds. docs/operations.md describes it.
type endpoints struct {
	CAFile   string            `json:"ca_file"`
	Etcd     string            `json:"etcd"`
	Sessions []serviceEndpoint `json:"sessions"`
	Gateways []gatewayEndpoint `json:"gateways"`
	Router   routerEndpoint    `json:"router"`
	Operator operatorFiles     `json:"operator"`
}

// operatorFiles are the certificate with which the router can be managed, and the token that is as good.
type operatorFiles struct {
	CertFile  string `json:"cert_file"`
	KeyFile   string `json:"key_file"`
	TokenFile string `json:"token_file"`
}

type serviceEndpoint struct {
	GRPC  string `json:"grpc"`
	Admin string `json:"admin"`
}

type gatewayEndpoint struct {
	serviceEndpoint

	MQTT      string `json:"mqtt"`
	MQTTS     string `json:"mqtts"`
	WebSocket string `json:"ws"`
}

type routerEndpoint struct {
	gatewayEndpoint

	REST string `json:"rest"`
}

func endpointsOf(c *local.Cluster) endpoints {
	e := endpoints{CAFile: c.CAFile(), Etcd: c.Etcd()}
	of := func(p *local.Process) serviceEndpoint {
		return serviceEndpoint{GRPC: p.Node.Address(), Admin: "http://" + p.Node.AdminAddress()}
	}
	for _, s := range c.Sessions() {
		e.Sessions = append(e.Sessions, of(s))
	}
	for _, g := range c.Gateways() {
		e.Gateways = append(e.Gateways, gatewayEndpoint{
			serviceEndpoint: of(g.Process),
			MQTT:            "mqtt://" + g.Service.Addr("mqtt").String(),
			MQTTS:           "mqtts://" + g.Service.Addr("mqtts").String(),
			WebSocket:       "ws://" + g.Service.Addr("ws").String() + "/mqtt",
		})
	}
	r := c.Router()
	e.Router = routerEndpoint{
		gatewayEndpoint: gatewayEndpoint{
			serviceEndpoint: of(r.Process),
			MQTT:            "mqtt://" + r.Service.Addr("mqtt").String(),
			MQTTS:           "mqtts://" + r.Service.Addr("mqtts").String(),
			WebSocket:       "ws://" + r.Service.Addr("ws").String() + "/mqtt",
		},
		REST: "http://" + r.Service.REST().String(),
	}
	e.Operator = operatorFiles{CertFile: r.Operator.Cert, KeyFile: r.Operator.Key, TokenFile: r.OperatorToken}
	return e
}

// write replaces the file in one step: whoever sees it sees all of it.
func (e endpoints) write(path string) error {
	b, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return fmt.Errorf("encode endpoints: %w", err)
	}
	if err := atomicfile.Write(path, append(b, '\n'), atomicfile.NewMode); err != nil {
		return fmt.Errorf("write endpoints: %w", err)
	}
	return nil
}

func (e endpoints) explain(out io.Writer) {
	count := "one gateway"
	if n := len(e.Gateways); n > 1 {
		count = fmt.Sprintf("%d gateways, one broker", n)
	}
	fmt.Fprintf(out, "Beeline is up: %s.\n\n", count)
	fmt.Fprintf(out, "  router      %s   %s   %s   metrics %s/metrics\n", e.Router.MQTT, e.Router.MQTTS, e.Router.WebSocket, e.Router.Admin)
	for i, g := range e.Gateways {
		fmt.Fprintf(out, "  gateway %d   %s   %s   %s   metrics %s/metrics\n", i+1, g.MQTT, g.MQTTS, g.WebSocket, g.Admin)
	}
	fmt.Fprintf(out, "  services    grpc %s   REST %s   token in %s\n", e.Router.GRPC, e.Router.REST, e.Operator.TokenFile)
	fmt.Fprintf(out, "  authority   %s\n\nTry, in two other terminals:\n\n", e.CAFile)
	first, last := e.Gateways[0].MQTT, e.Gateways[len(e.Gateways)-1].MQTT
	fmt.Fprintf(out, "  bin/beeline sub -u %s -i ann -t 'news/#'\n", last)
	fmt.Fprintf(out, "  bin/beeline pub -u %s -t news/today -m hello -q 1\n", first)
	fmt.Fprintf(out, "  bin/beeline pub -u %s -t p2p/ann/note -m 'for Ann alone' -q 1\n\n", first)
}
