package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/beeline-mqtt/beeline/internal/pki"
	"github.com/beeline-mqtt/beeline/services/router"
)

// groupMayRead is the mode of the secret and of the token file, which is that of delivered keys.
const groupMayRead = 0o640

// certsOptions are the flags of beeline certs.
type certsOptions struct {
	authority string
	out       string
	secret    string
	tokens    string
}

func certsCommand() *cobra.Command {
	var o certsOptions
	cmd := &cobra.Command{
		Use:   "certs [flags] ROLE/NAME[=HOST,...] ...",
		Short: "Make or renew the certificates of services",
		Long: "Make a certificate authority and, for each argument, a certificate with the identity beeline://ROLE/NAME for " +
			"the HOSTs (NAME, if none is given), localhost, 127.0.0.1 and ::1. Roles are gateway, session, router and operator, who " +
			"may manage routers; others, like etcd, may call none of them. NAME alone is the certificate of a server for MQTT clients.\n\n" +
			"Each certificate gets a directory of its own, OUT/NAME, with tls.crt, tls.key (for its owner and group) and " +
			"ca.crt. What is there and right stays, unless less than a third of its life is left. Certificates last a year, " +
			"the authority ten. Only one beeline certs at a time may use an authority.\n\n" +
			"With --secret it also makes the secret that routers share (router.secret_file), for its owner and group, and never " +
			"changes one that is there. With --tokens it makes a token file without tokens (router.access.tokens_file), likewise.",
		Example: "  beeline certs --authority ca --out pki session/session-1 gateway/gateway-1=gw1.example.com,10.0.0.11",
		Args:    cobra.MinimumNArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return o.run(cmd.OutOrStdout(), args) },
	}
	f := cmd.Flags()
	f.StringVar(&o.authority, "authority", "", "directory of the authority; keep it from the services")
	f.StringVar(&o.out, "out", "", "directory for a directory for each certificate")
	f.StringVar(&o.secret, "secret", "", "file for the secret of routers, made if it is not there; default: none is made")
	f.StringVar(&o.tokens, "tokens", "", "token file for routers, made without tokens if it is not there; default: none is made")
	return cmd
}

func (o *certsOptions) run(out io.Writer, args []string) error {
	if o.authority == "" || o.out == "" {
		return errors.New("give an --authority and an --out")
	}
	if o.secret != "" {
		if err := router.ProvideSecret(o.secret, groupMayRead); err != nil {
			return fmt.Errorf("--secret: %w", err)
		}
	}
	if o.tokens != "" {
		if err := router.ProvideTokens(o.tokens, groupMayRead); err != nil {
			return fmt.Errorf("--tokens: %w", err)
		}
	}
	ca, err := pki.Open(o.authority, time.Now)
	if err != nil {
		return err
	}
	for _, arg := range args {
		r := requestOf(arg)
		files, err := ca.Deliver(filepath.Join(o.out, r.Name), r)
		if err != nil {
			return fmt.Errorf("%s: %w", arg, err)
		}
		until, err := files.Expiry()
		if err != nil {
			return fmt.Errorf("%s: %w", arg, err)
		}
		fmt.Fprintf(out, "%s  valid until %s, for %s\n", filepath.Dir(files.Cert), until.Format(time.DateOnly), strings.Join(r.Hosts, ", "))
	}
	return nil
}

// requestOf reads an argument. What cannot be is for the authority to say.
func requestOf(arg string) pki.Request {
	var r pki.Request
	identity, hosts, given := strings.Cut(arg, "=")
	role, name, hasRole := strings.Cut(identity, "/")
	if hasRole {
		r.Role, r.Name = role, name
	} else {
		r.Name = identity
	}
	r.Hosts = []string{r.Name}
	if given {
		r.Hosts = strings.Split(hosts, ",")
	}
	return r
}
