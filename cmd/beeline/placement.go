package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
)

// anyRevision is for changes from the command line: the last one wins.
const anyRevision = -1

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
			return o.ask(cmd, func(s adminv1.PlacementServiceClient) error {
				e, err := s.Explain(cmd.Context(), &adminv1.ExplainRequest{Client: c})
				if err != nil {
					return fmt.Errorf("explain: %w", err)
				}
				return o.show(cmd, e, func(out io.Writer) error {
					fmt.Fprintf(out, "cluster %s\nnode    %s\naddress %s\n%s\n", e.GetCluster(), e.GetNode(), e.GetAddress(), e.GetReason())
					return nil
				})
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
			return o.ask(cmd, func(s adminv1.PlacementServiceClient) error {
				p, err := s.PutAssignment(cmd.Context(), &adminv1.PutAssignmentRequest{Assignment: a, Client: c})
				if err != nil {
					return fmt.Errorf("assign: %w", err)
				}
				return o.show(cmd, p, func(out io.Writer) error {
					printAssignment(out, p.GetAssignment())
					return nil
				})
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
			return o.ask(cmd, func(s adminv1.PlacementServiceClient) error {
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
			return o.ask(cmd, func(s adminv1.PlacementServiceClient) error {
				all := &adminv1.ListAssignmentsResponse{}
				err := pages(func(token string) (string, error) {
					l, err := s.ListAssignments(cmd.Context(), &adminv1.ListAssignmentsRequest{Cluster: cluster, PageSize: 1000, PageToken: token})
					all.Assignments = append(all.Assignments, l.GetAssignments()...)
					return l.GetNextPageToken(), err
				})
				if err != nil {
					return fmt.Errorf("list: %w", err)
				}
				return o.show(cmd, all, func(out io.Writer) error {
					for _, a := range all.GetAssignments() {
						printAssignment(out, a)
					}
					return nil
				})
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
