package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	"github.com/beeline-mqtt/beeline/internal/pki"
)

// anyRevision is for changes from the command line: the last one wins.
const anyRevision = -1

// routerOptions say which router is asked.
type routerOptions struct {
	data, address string
	files         pki.Files
	insecure      bool
}

func (o *routerOptions) flags(cmd *cobra.Command) {
	f := cmd.PersistentFlags()
	f.StringVar(&o.data, "data", "beeline-data", "directory of the beeline up whose router is asked, unless --router is given")
	f.StringVar(&o.address, "router", "", "host:port of a router's gRPC server")
	f.StringVar(&o.files.Cert, "cert-file", "", "certificate (PEM) with the role operator")
	f.StringVar(&o.files.Key, "key-file", "", "its key")
	f.StringVar(&o.files.CA, "ca-file", "", "authority of the router's certificate (PEM)")
	f.BoolVar(&o.insecure, "insecure", false, "without TLS, for a router that has none")
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
	o.address = e.Router.GRPC
	o.files = pki.Files{Cert: e.Operator.CertFile, Key: e.Operator.KeyFile, CA: e.CAFile}
	return nil
}

// ask connects to the router and has f ask it about placement.
func (o *routerOptions) ask(f func(adminv1.PlacementServiceClient) error) error {
	return o.connect(func(conn *grpc.ClientConn) error { return f(adminv1.NewPlacementServiceClient(conn)) })
}

// askGateways connects to the router and has f ask it about gateways.
func (o *routerOptions) askGateways(f func(adminv1.GatewayServiceClient) error) error {
	return o.connect(func(conn *grpc.ClientConn) error { return f(adminv1.NewGatewayServiceClient(conn)) })
}

// connect connects to the router for as long as f lasts.
func (o *routerOptions) connect(f func(*grpc.ClientConn) error) error {
	if o.address == "" {
		if err := o.endpoints(); err != nil {
			return err
		}
	}
	c := insecure.NewCredentials()
	if !o.insecure {
		t, err := o.files.Mutual()
		if err != nil {
			return fmt.Errorf("--cert-file, --key-file and --ca-file: %w", err)
		}
		c = credentials.NewTLS(t)
	}
	// Nothing is asked of the DNS but the address: who has no answer to the rest may take ten seconds to say so.
	conn, err := grpc.NewClient(o.address, grpc.WithTransportCredentials(c), grpc.WithDisableServiceConfig())
	if err != nil {
		return fmt.Errorf("--router: %w", err)
	}
	return errors.Join(f(conn), conn.Close())
}

// clientOptions are a client as it would connect.
type clientOptions struct{ id, username, passwordFile string }

func (o *clientOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.id, "client-id", "", "client id")
	f.StringVar(&o.username, "username", "", "user name")
	f.StringVar(&o.passwordFile, "password-file", "", "file with the password, - for standard input")
}

func (o *clientOptions) client(cmd *cobra.Command) (*adminv1.Client, error) {
	c := &adminv1.Client{ClientId: o.id}
	if cmd.Flags().Changed("username") {
		c.Username = &o.username
	}
	if o.passwordFile == "" {
		return c, nil
	}
	var err error
	if o.passwordFile == "-" {
		c.Password, err = io.ReadAll(cmd.InOrStdin())
	} else {
		c.Password, err = os.ReadFile(o.passwordFile)
	}
	if err != nil {
		return nil, fmt.Errorf("--password-file: %w", err)
	}
	c.Password = []byte(strings.TrimRight(string(c.Password), "\r\n"))
	return c, nil
}

func placementCommand() *cobra.Command {
	var o routerOptions
	cmd := &cobra.Command{
		Use:   "placement",
		Short: "Say where devices go, and decide it",
		Long: "Ask a router where a client would go, and manage to which cluster clients belong. Every router answers, and all " +
			"see a change within a second. Clients that are connected stay where they are.",
		Example: "  beeline placement explain --client-id meter-1 --username joe\n" +
			"  beeline placement assign --cluster old --prefix meter-",
	}
	o.flags(cmd)
	cmd.AddCommand(explainCommand(&o), assignCommand(&o), unassignCommand(&o), assignmentsCommand(&o))
	return cmd
}

func explainCommand(o *routerOptions) *cobra.Command {
	var who clientOptions
	cmd := &cobra.Command{
		Use: "explain", Short: "Say where a client would go if it connected now, and why", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := who.client(cmd)
			if err != nil {
				return err
			}
			return o.ask(func(s adminv1.PlacementServiceClient) error {
				e, err := s.Explain(cmd.Context(), &adminv1.ExplainRequest{Client: c})
				if err != nil {
					return fmt.Errorf("explain: %w", err)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "cluster %s\nnode    %s\naddress %s\n%s\n", e.GetCluster(), e.GetNode(), e.GetAddress(), e.GetReason())
				return nil
			})
		},
	}
	who.flags(cmd)
	return cmd
}

// ruleOptions say which clients an assignment is for: one of them.
type ruleOptions struct {
	clientOptions

	prefix          string
	exact, fallback bool
}

func (o *ruleOptions) flags(cmd *cobra.Command) {
	o.clientOptions.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.prefix, "prefix", "", "clients whose ids begin with this")
	f.BoolVar(&o.exact, "exact", false, "the client with --client-id, --username and --password-file, all three")
	f.BoolVar(&o.fallback, "default", false, "all clients without another assignment")
}

// assignment is what the flags say, without a cluster; the client is set for an exact one.
func (o *ruleOptions) assignment(cmd *cobra.Command) (*adminv1.Assignment, *adminv1.Client, error) {
	given := func(names ...string) bool {
		for _, n := range []string{"client-id", "prefix", "username", "exact", "default"} {
			wanted := false
			for _, w := range names {
				wanted = wanted || w == n
			}
			if cmd.Flags().Changed(n) != wanted {
				return false
			}
		}
		return true
	}
	switch {
	case given("client-id"):
		return &adminv1.Assignment{Rule: adminv1.Rule_RULE_CLIENT_ID, Value: o.id}, nil, nil
	case given("prefix"):
		return &adminv1.Assignment{Rule: adminv1.Rule_RULE_CLIENT_ID_PREFIX, Value: o.prefix}, nil, nil
	case given("username"):
		return &adminv1.Assignment{Rule: adminv1.Rule_RULE_USERNAME, Value: o.username}, nil, nil
	case given("default"):
		return &adminv1.Assignment{Rule: adminv1.Rule_RULE_DEFAULT}, nil, nil
	case given("exact", "client-id", "username"):
		c, err := o.client(cmd)
		return &adminv1.Assignment{Rule: adminv1.Rule_RULE_EXACT}, c, err
	}
	return nil, nil, errors.New("which clients? Give --client-id, --prefix, --username or --default, or --exact with --client-id and --username")
}

func assignCommand(o *routerOptions) *cobra.Command {
	var who ruleOptions
	var cluster string
	var weight uint32
	cmd := &cobra.Command{
		Use: "assign", Short: "Assign clients to a cluster", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, c, err := who.assignment(cmd)
			if err != nil {
				return err
			}
			a.Cluster, a.Weight, a.Revision = cluster, weight, anyRevision
			return o.ask(func(s adminv1.PlacementServiceClient) error {
				p, err := s.PutAssignment(cmd.Context(), &adminv1.PutAssignmentRequest{Assignment: a, Client: c})
				if err != nil {
					return fmt.Errorf("assign: %w", err)
				}
				printAssignment(cmd.OutOrStdout(), p.GetAssignment())
				return nil
			})
		},
	}
	who.flags(cmd)
	cmd.Flags().StringVar(&cluster, "cluster", "", "name of the cluster")
	cmd.Flags().Uint32Var(&weight, "weight", 0, "with --default, the share of this cluster among several")
	return cmd
}

func unassignCommand(o *routerOptions) *cobra.Command {
	var who ruleOptions
	var key, cluster string
	cmd := &cobra.Command{
		Use: "unassign", Short: "End an assignment", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r := &adminv1.DeleteAssignmentRequest{Rule: adminv1.Rule_RULE_EXACT, Value: key, Revision: anyRevision}
			if key == "" {
				a, _, err := who.assignment(cmd)
				if err != nil {
					return err
				}
				if r.Rule, r.Value = a.GetRule(), a.GetValue(); r.GetRule() == adminv1.Rule_RULE_DEFAULT {
					r.Value = cluster
				}
			}
			return o.ask(func(s adminv1.PlacementServiceClient) error {
				if _, err := s.DeleteAssignment(cmd.Context(), r); err != nil {
					return fmt.Errorf("unassign: %w", err)
				}
				return nil
			})
		},
	}
	who.flags(cmd)
	cmd.Flags().StringVar(&key, "key", "", "the key of an exact assignment, as it is listed")
	cmd.Flags().StringVar(&cluster, "cluster", "", "with --default, the cluster that gets no share any more")
	return cmd
}

func assignmentsCommand(o *routerOptions) *cobra.Command {
	var cluster string
	cmd := &cobra.Command{
		Use: "list", Short: "List the assignments", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.ask(func(s adminv1.PlacementServiceClient) error {
				for token, first := "", true; first || token != ""; first = false {
					l, err := s.ListAssignments(cmd.Context(), &adminv1.ListAssignmentsRequest{Cluster: cluster, PageSize: 1000, PageToken: token})
					if err != nil {
						return fmt.Errorf("list: %w", err)
					}
					for _, a := range l.GetAssignments() {
						printAssignment(cmd.OutOrStdout(), a)
					}
					token = l.GetNextPageToken()
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&cluster, "cluster", "", "only those to this one")
	return cmd
}

func printAssignment(out io.Writer, a *adminv1.Assignment) {
	rule := strings.ToLower(strings.TrimPrefix(a.GetRule().String(), "RULE_"))
	value := fmt.Sprintf("%q", a.GetValue())
	if a.GetRule() == adminv1.Rule_RULE_DEFAULT {
		value = fmt.Sprintf("weight %d", a.GetWeight())
	}
	fmt.Fprintf(out, "%-16s %s -> %s\n", rule, value, a.GetCluster())
}

// table prints rows of columns, the first being the head.
func table(out io.Writer, rows ...[]string) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	return w.Flush()
}
