package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/beeline-mqtt/beeline/api/beeline"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

func groupCommand() *cobra.Command {
	var o routerOptions
	cmd := &cobra.Command{
		Use:   "group",
		Short: "Manage groups of clients and users",
		Long: "Members of a group get what is published to group/<group>/..., and what is sent to the group, without subscribing; those that are " +
			"away and have a durable session get it when they return.",
		Example: "  beeline group create drivers\n" +
			"  beeline group add drivers --client van-1,van-2 --user joe\n" +
			"  beeline send --group drivers -t alert -m snow",
	}
	o.flags(cmd)
	cmd.AddCommand(
		createGroupCommand(&o), deleteGroupCommand(&o), listGroupsCommand(&o),
		addMembersCommand(&o), removeMembersCommand(&o), membersCommand(&o), groupsOfCommand(&o),
	)
	return cmd
}

// askGroups connects to the router and has f ask it about groups.
func (o *routerOptions) askGroups(cmd *cobra.Command, f func(messagingv1.GroupServiceClient) error) error {
	return o.connect(cmd, func(c *beeline.Client) error { return f(c.Groups()) })
}

func createGroupCommand(o *routerOptions) *cobra.Command {
	return &cobra.Command{
		Use: "create GROUP...", Short: "Make groups without members", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.askGroups(cmd, func(s messagingv1.GroupServiceClient) error {
				for _, g := range args {
					if _, err := s.CreateGroup(cmd.Context(), &messagingv1.CreateGroupRequest{Name: g}); err != nil {
						return fmt.Errorf("create %s: %w", g, err)
					}
				}
				return nil
			})
		},
	}
}

func deleteGroupCommand(o *routerOptions) *cobra.Command {
	return &cobra.Command{
		Use: "delete GROUP...", Short: "End groups and all memberships", Args: cobra.MinimumNArgs(1), ValidArgsFunction: o.complete(groupNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.askGroups(cmd, func(s messagingv1.GroupServiceClient) error {
				for _, g := range args {
					if _, err := s.DeleteGroup(cmd.Context(), &messagingv1.DeleteGroupRequest{Name: g}); err != nil {
						return fmt.Errorf("delete %s: %w", g, err)
					}
				}
				return nil
			})
		},
	}
}

func listGroupsCommand(o *routerOptions) *cobra.Command {
	var prefix string
	cmd := &cobra.Command{
		Use: "list", Short: "List the groups", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.askGroups(cmd, func(s messagingv1.GroupServiceClient) error {
				all := &messagingv1.ListGroupsResponse{}
				err := pages(func(token string) (string, error) {
					l, err := s.ListGroups(cmd.Context(), &messagingv1.ListGroupsRequest{Prefix: prefix, PageSize: 1000, PageToken: token})
					all.Groups = append(all.Groups, l.GetGroups()...)
					return l.GetNextPageToken(), err
				})
				if err != nil {
					return fmt.Errorf("list: %w", err)
				}
				rows := [][]string{{"GROUP", "MEMBERS", "CREATED"}}
				for _, g := range all.GetGroups() {
					rows = append(rows, []string{g.GetName(), strconv.FormatUint(g.GetMembers(), 10), moment(g.GetCreated())})
				}
				return o.show(cmd, all, func(out io.Writer) error { return table(out, rows...) })
			})
		},
	}
	cmd.Flags().StringVar(&prefix, "prefix", "", "only those whose names begin with this")
	return cmd
}

// memberOptions say which members.
type memberOptions struct {
	clients, users []string
	stdin          bool
}

func (o *memberOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringSliceVar(&o.clients, "client", nil, "client ids")
	f.StringSliceVar(&o.users, "user", nil, "users: all clients that connect as them")
	f.BoolVar(&o.stdin, "stdin", false, "a client id on each line of standard input")
	cmd.MarkFlagsOneRequired("client", "user", "stdin")
}

// mostMembers is how many members one request may have.
const mostMembers = 10_000

// members reads who is meant.
func (o *memberOptions) members(cmd *cobra.Command) ([]*messagingv1.Member, error) {
	if o.stdin {
		err := eachLine(cmd.Context(), cmd.InOrStdin(), func(line []byte) error {
			if len(line) > 0 {
				o.clients = append(o.clients, string(line))
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	var all []*messagingv1.Member
	for _, id := range o.clients {
		all = append(all, &messagingv1.Member{Member: &messagingv1.Member_ClientId{ClientId: id}})
	}
	for _, name := range o.users {
		all = append(all, &messagingv1.Member{Member: &messagingv1.Member_User{User: name}})
	}
	return all, nil
}

func addMembersCommand(o *routerOptions) *cobra.Command {
	var who memberOptions
	cmd := &cobra.Command{
		Use: "add GROUP", Short: "Add members", Args: cobra.ExactArgs(1), ValidArgsFunction: o.complete(groupNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.askGroups(cmd, func(s messagingv1.GroupServiceClient) error {
				all, err := who.members(cmd)
				if err != nil {
					return err
				}
				sum := &messagingv1.AddMembersResponse{}
				for some := range slices.Chunk(all, mostMembers) {
					r, err := s.AddMembers(cmd.Context(), &messagingv1.AddMembersRequest{Group: args[0], Members: some})
					if err != nil {
						return fmt.Errorf("add, after %d: %w", sum.GetAdded(), err)
					}
					sum.Added += r.GetAdded()
				}
				return o.show(cmd, sum, func(out io.Writer) error {
					_, err := fmt.Fprintf(out, "%d added\n", sum.GetAdded())
					return err
				})
			})
		},
	}
	who.flags(cmd)
	return cmd
}

func removeMembersCommand(o *routerOptions) *cobra.Command {
	var who memberOptions
	cmd := &cobra.Command{
		Use: "remove GROUP", Short: "Remove members", Args: cobra.ExactArgs(1), ValidArgsFunction: o.complete(groupNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.askGroups(cmd, func(s messagingv1.GroupServiceClient) error {
				all, err := who.members(cmd)
				if err != nil {
					return err
				}
				sum := &messagingv1.RemoveMembersResponse{}
				for some := range slices.Chunk(all, mostMembers) {
					r, err := s.RemoveMembers(cmd.Context(), &messagingv1.RemoveMembersRequest{Group: args[0], Members: some})
					if err != nil {
						return fmt.Errorf("remove, after %d: %w", sum.GetRemoved(), err)
					}
					sum.Removed += r.GetRemoved()
				}
				return o.show(cmd, sum, func(out io.Writer) error {
					_, err := fmt.Fprintf(out, "%d removed\n", sum.GetRemoved())
					return err
				})
			})
		},
	}
	who.flags(cmd)
	return cmd
}

func membersCommand(o *routerOptions) *cobra.Command {
	return &cobra.Command{
		Use: "members GROUP", Short: "List the members of a group", Args: cobra.ExactArgs(1), ValidArgsFunction: o.complete(groupNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.askGroups(cmd, func(s messagingv1.GroupServiceClient) error {
				all := &messagingv1.ListMembersResponse{}
				err := pages(func(token string) (string, error) {
					l, err := s.ListMembers(cmd.Context(), &messagingv1.ListMembersRequest{Group: args[0], PageSize: 10_000, PageToken: token})
					all.Members = append(all.Members, l.GetMembers()...)
					return l.GetNextPageToken(), err
				})
				if err != nil {
					return fmt.Errorf("members: %w", err)
				}
				return o.show(cmd, all, func(out io.Writer) error {
					for _, m := range all.GetMembers() {
						kind, name := "client", m.GetClientId()
						if m.GetUser() != "" {
							kind, name = "user", m.GetUser()
						}
						fmt.Fprintf(out, "%-6s  %s\n", kind, name)
					}
					return nil
				})
			})
		},
	}
}

func groupsOfCommand(o *routerOptions) *cobra.Command {
	var client, user string
	cmd := &cobra.Command{
		Use: "of", Short: "List the groups of a client or a user", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m := &messagingv1.Member{Member: &messagingv1.Member_ClientId{ClientId: client}}
			if user != "" {
				m.Member = &messagingv1.Member_User{User: user}
			}
			return o.askGroups(cmd, func(s messagingv1.GroupServiceClient) error {
				l, err := s.ListMemberGroups(cmd.Context(), &messagingv1.ListMemberGroupsRequest{Member: m})
				if err != nil {
					return fmt.Errorf("of: %w", err)
				}
				return o.show(cmd, l, func(out io.Writer) error {
					for _, g := range l.GetGroups() {
						fmt.Fprintln(out, g)
					}
					return nil
				})
			})
		},
	}
	cmd.Flags().StringVar(&client, "client", "", "client id")
	cmd.Flags().StringVar(&user, "user", "", "user")
	cmd.MarkFlagsOneRequired("client", "user")
	cmd.MarkFlagsMutuallyExclusive("client", "user")
	completes(cmd, o, "client", clientIDs)
	return cmd
}
