package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/beeline-mqtt/beeline/api/beeline"
	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	"github.com/beeline-mqtt/beeline/internal/pki"
)

// routerOptions say which router is asked, by whom, and how its answers are printed.
type routerOptions struct {
	data, address, tokenFile string
	files                    pki.Files
	insecure                 bool
	output                   string
}

func (o *routerOptions) flags(cmd *cobra.Command) {
	f := cmd.PersistentFlags()
	f.StringVar(&o.data, "data", "beeline-data", "directory of the beeline up whose router is asked, unless --router is given")
	f.StringVar(&o.address, "router", "", "host:port of a router's gRPC server")
	f.StringVar(&o.files.Cert, "cert-file", "", "certificate (PEM) that names a role: viewer, publisher or operator")
	f.StringVar(&o.files.Key, "key-file", "", "its key")
	f.StringVar(&o.tokenFile, "token-file", "", "file with a bearer token, instead of a certificate or before it")
	f.StringVar(&o.files.CA, "ca-file", "", "authority of the router's certificate (PEM)")
	f.BoolVar(&o.insecure, "insecure", false, "without TLS, for a router that has none")
	f.StringVarP(&o.output, "output", "o", "text", "text, for people, or json, for programs: the answers as the protos name their fields")
	choices(cmd, "output", "text", "json")
}

// endpoints reads what beeline up says of its router.
func (o *routerOptions) endpoints() error {
	b, err := os.ReadFile(filepath.Join(o.data, "endpoints.json"))
	if err != nil {
		return fmt.Errorf("which router? Give --router, or --data of a beeline up that runs: %w", err)
	}
	var e endpoints
	if err := json.Unmarshal(b, &e); err != nil {
		return fmt.Errorf("--data: %w", err)
	}
	o.address, o.files.CA = e.Router.GRPC, e.CAFile
	if o.files.Cert == "" && o.tokenFile == "" {
		o.files.Cert, o.files.Key = e.Operator.CertFile, e.Operator.KeyFile
	}
	return nil
}

// ask connects to the router and has f ask it about placement.
func (o *routerOptions) ask(cmd *cobra.Command, f func(adminv1.PlacementServiceClient) error) error {
	return o.connect(cmd, func(c *beeline.Client) error { return f(c.Placement()) })
}

// askGateways connects to the router and has f ask it about gateways.
func (o *routerOptions) askGateways(cmd *cobra.Command, f func(adminv1.GatewayServiceClient) error) error {
	return o.connect(cmd, func(c *beeline.Client) error { return f(c.Gateways()) })
}

// askAdmin connects to the router and has f ask it about clients and topics.
func (o *routerOptions) askAdmin(cmd *cobra.Command, f func(adminv1.AdminServiceClient) error) error {
	return o.connect(cmd, func(c *beeline.Client) error { return f(c.Admin()) })
}

// connect connects to the router for as long as f lasts. Of its error it says what can be done.
func (o *routerOptions) connect(cmd *cobra.Command, f func(*beeline.Client) error) error {
	if o.output != "text" && o.output != "json" {
		return fmt.Errorf("--output %q: text or json", o.output)
	}
	if o.address == "" {
		if err := o.endpoints(); err != nil {
			return err
		}
	}
	c, err := beeline.Dial(cmd.Context(), o.address, beeline.Options{
		CAFile: o.files.CA, CertFile: o.files.Cert, KeyFile: o.files.Key, TokenFile: o.tokenFile, Insecure: o.insecure, FailFast: true,
	})
	if err != nil {
		return advised(fmt.Errorf("--router: %w", err))
	}
	return advised(errors.Join(f(c), c.Close()))
}
