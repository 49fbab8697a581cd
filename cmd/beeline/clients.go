package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

func clientsCommand() *cobra.Command {
	var o routerOptions
	cmd := &cobra.Command{
		Use:   "clients",
		Short: "List and show clients, disconnect them, remove their sessions, change their subscriptions",
		Example: "  beeline clients list --prefix meter- --connected\n" +
			"  beeline clients show meter-7\n" +
			"  beeline clients disconnect meter-7",
	}
	o.flags(cmd)
	cmd.AddCommand(listClientsCommand(&o), showClientCommand(&o))
	cmd.AddCommand(
		eachClientCommand(&o, &cobra.Command{Use: "disconnect CLIENT...", Short: "End the connections of clients; their sessions stay"},
			func(ctx context.Context, s adminv1.AdminServiceClient, id string) error {
				_, err := s.DisconnectClient(ctx, &adminv1.DisconnectClientRequest{ClientId: id})
				return err
			}),
		eachClientCommand(&o, &cobra.Command{Use: "remove CLIENT...", Short: "End the connections and the sessions of clients, with all that is kept for them"},
			func(ctx context.Context, s adminv1.AdminServiceClient, id string) error {
				_, err := s.RemoveSession(ctx, &adminv1.RemoveSessionRequest{ClientId: id})
				return err
			}),
	)
	cmd.AddCommand(subscribeClientCommand(&o), unsubscribeClientCommand(&o))
	return cmd
}

func listClientsCommand(o *routerOptions) *cobra.Command {
	r := &adminv1.ListClientsRequest{}
	var connected, away bool
	var limit int
	cmd := &cobra.Command{
		Use: "list", Short: "List the clients of all gateways, and those that are away and have a session", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case connected:
				r.Presence = adminv1.Presence_PRESENCE_CONNECTED
			case away:
				r.Presence = adminv1.Presence_PRESENCE_AWAY
			}
			return o.askAdmin(cmd, func(s adminv1.AdminServiceClient) error {
				all, err := listClients(cmd, s, r, limit)
				if err != nil {
					return err
				}
				return o.show(cmd, all, func(out io.Writer) error { return printClients(out, all.GetClients()) })
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.ClientIdPrefix, "prefix", "", "only those whose ids begin with this")
	f.StringVar(&r.Username, "user", "", "only those of this user")
	f.StringVar(&r.Gateway, "gateway", "", "only those at this gateway, by its id")
	f.BoolVar(&connected, "connected", false, "only those that are connected")
	f.BoolVar(&away, "away", false, "only those that are away")
	f.IntVar(&limit, "limit", 0, "at most so many; 0: all")
	cmd.MarkFlagsMutuallyExclusive("connected", "away")
	return cmd
}

// listClients asks for clients, at most limit if that is not 0. What is missing it says on standard error.
func listClients(cmd *cobra.Command, s adminv1.AdminServiceClient, r *adminv1.ListClientsRequest, limit int) (*adminv1.ListClientsResponse, error) {
	all := &adminv1.ListClientsResponse{}
	err := pages(func(token string) (string, error) {
		r.PageSize, r.PageToken = 1000, token
		if limit > 0 {
			r.PageSize = uint32(min(limit-len(all.GetClients()), 1000))
		}
		l, err := s.ListClients(cmd.Context(), r)
		all.Clients = append(all.Clients, l.GetClients()...)
		for _, t := range l.GetTroubles() {
			if !slices.Contains(all.GetTroubles(), t) {
				all.Troubles = append(all.Troubles, t)
			}
		}
		if limit > 0 && len(all.GetClients()) >= limit {
			return "", err
		}
		return l.GetNextPageToken(), err
	})
	if err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	for _, t := range all.GetTroubles() {
		fmt.Fprintln(cmd.ErrOrStderr(), "clients are missing:", t)
	}
	return all, nil
}

func printClients(out io.Writer, all []*adminv1.ClientSummary) error {
	rows := [][]string{{"CLIENT", "USER", "STATE", "GATEWAY", "FROM", "MQTT", "SINCE", "DURABLE", "SUBSCRIPTIONS"}}
	for _, c := range all {
		rows = append(rows, []string{
			c.GetClientId(), or(c.GetUsername()), word(c.GetPresence()), or(c.GetGateway()), or(c.GetRemoteAddress()), or(c.GetVersion()),
			moment(c.GetConnectedSince()), yes(c.GetDurable()), strconv.FormatUint(uint64(c.GetSubscriptions()), 10),
		})
	}
	return table(out, rows...)
}

func showClientCommand(o *routerOptions) *cobra.Command {
	return &cobra.Command{
		Use: "show CLIENT", Short: "Show everything that is known of a client", Args: cobra.ExactArgs(1), ValidArgsFunction: o.complete(clientIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.askAdmin(cmd, func(s adminv1.AdminServiceClient) error {
				r, err := s.GetClient(cmd.Context(), &adminv1.GetClientRequest{ClientId: args[0]})
				if err != nil {
					return fmt.Errorf("show: %w", err)
				}
				return o.show(cmd, r, func(out io.Writer) error { return printClient(out, r) })
			})
		},
	}
}

// printClient prints what is known of a client, and nothing about what it has not.
func printClient(out io.Writer, r *adminv1.GetClientResponse) error {
	c, n, s := r.GetClient(), r.GetConnection(), r.GetSession()
	rows := [][]string{
		{"client", c.GetClientId()},
		{"user", or(c.GetUsername())},
		{"state", word(c.GetPresence())},
		{"held by", fmt.Sprintf("%s at epoch %d", or(r.GetHolder()), r.GetEpoch())},
	}
	if n != nil {
		rows = append(rows,
			[]string{"connection", fmt.Sprintf("MQTT %s from %s by %s since %s", c.GetVersion(), c.GetRemoteAddress(), n.GetListener(), moment(c.GetConnectedSince()))},
			[]string{"", fmt.Sprintf("keep alive %d s, idle for %d ms, clean start %s, will %s", n.GetKeepAliveSeconds(), n.GetIdleMs(), yes(n.GetCleanStart()), yes(n.GetWill()))},
			[]string{"", fmt.Sprintf("receive maximum %d, maximum packet size %d, %d bytes to write, paused %s", n.GetReceiveMaximum(), n.GetMaximumPacketSize(), n.GetOutputBytes(), yes(n.GetPaused()))})
	}
	if s != nil {
		rows = append(rows, sessionRows(s)...)
	}
	rows = append(rows, list("subscriptions", r.GetSubscriptions(), func(x *adminv1.Subscription) string {
		return fmt.Sprintf("%s QoS %s", x.GetFilter(), qosText(x.GetQos()))
	})...)
	rows = append(rows, list("groups", r.GetGroups(), func(g string) string { return g })...)
	rows = append(rows, list("last drops", s.GetDrops(), func(d *adminv1.Drop) string {
		return fmt.Sprintf("%s %s: %s QoS %s from %s", moment(d.GetTime()), d.GetReason(), d.GetTopic(), qosText(d.GetQos()), or(d.GetPublisher()))
	})...)
	rows = append(rows, list("last events", r.GetEvents(), eventText)...)
	return table(out, rows...)
}

// list are the rows of a list, the first of them with its name.
func list[T any](name string, all []T, text func(T) string) (rows [][]string) {
	for _, x := range all {
		rows = append(rows, []string{name, text(x)})
		name = ""
	}
	return rows
}

// eventText is an event of a known client.
func eventText(e *messagingv1.PresenceEvent) string {
	what := "connected"
	if e.GetKind() == messagingv1.PresenceEvent_KIND_DISCONNECTED {
		what = "disconnected (" + e.GetReason() + ")"
	}
	return fmt.Sprintf("%s %s at %s, epoch %d", moment(e.GetTime()), what, e.GetGateway(), e.GetEpoch())
}

func sessionRows(s *adminv1.Session) (rows [][]string) {
	rows = append(rows,
		[]string{"session", fmt.Sprintf("durable %s, expiry %d s", yes(s.GetDurable()), s.GetExpirySeconds())},
		[]string{"", fmt.Sprintf("%d queued (%d bytes), %d in flight, %d unsettled", s.GetQueuedMessages(), s.GetQueuedBytes(), s.GetInFlight(), s.GetUnsettled())})
	if s.ExpiresInMs != nil { //nolint:protogetter // absent is not 0
		rows = append(rows, []string{"", fmt.Sprintf("expires in %d ms", s.GetExpiresInMs())})
	}
	for _, name := range slices.Sorted(maps.Keys(s.GetCounters())) {
		rows = append(rows, []string{"", fmt.Sprintf("%d %s", s.GetCounters()[name], name)})
	}
	if s.GetInboxMessages() > 0 || s.GetInboxDropped() > 0 {
		rows = append(rows, []string{"inbox", fmt.Sprintf("%d messages (%d bytes), the oldest %d ms old; %d dropped (%s)",
			s.GetInboxMessages(), s.GetInboxBytes(), s.GetInboxOldestMs(), s.GetInboxDropped(), or(s.GetLastDropReason()))})
	}
	for _, m := range s.GetInbox() {
		rows = append(rows, []string{"", fmt.Sprintf("%d: %s QoS %s, %d bytes from %s", m.GetPosition(), m.GetTopic(), qosText(m.GetQos()), m.GetPayloadBytes(), or(m.GetPublisher()))})
	}
	return rows
}

// eachClientCommand is a command that does the same to each client that is named.
func eachClientCommand(o *routerOptions, cmd *cobra.Command, do func(ctx context.Context, s adminv1.AdminServiceClient, id string) error) *cobra.Command {
	cmd.Args, cmd.ValidArgsFunction = cobra.MinimumNArgs(1), o.complete(clientIDs)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return o.askAdmin(cmd, func(s adminv1.AdminServiceClient) error {
			for _, id := range args {
				if err := do(cmd.Context(), s, id); err != nil {
					return fmt.Errorf("%s %s: %w", cmd.Name(), id, err)
				}
			}
			return nil
		})
	}
	return cmd
}

func subscribeClientCommand(o *routerOptions) *cobra.Command {
	var filter string
	var qos uint8
	cmd := eachClientCommand(o, &cobra.Command{Use: "subscribe CLIENT...", Short: "Subscribe clients to a filter, as they could themselves"},
		func(ctx context.Context, s adminv1.AdminServiceClient, id string) error {
			if qos > 2 {
				return errQoS
			}
			_, err := s.SubscribeClient(ctx, &adminv1.SubscribeClientRequest{
				ClientId: id, Subscription: &adminv1.Subscription{Filter: filter, Qos: messagev1.Qos(qos + 1)},
			})
			return err
		})
	cmd.Flags().StringVarP(&filter, "topic", "t", "", "topic filter")
	cmd.Flags().Uint8VarP(&qos, "qos", "q", 1, "highest quality of service: 0, 1 or 2")
	return cmd
}

func unsubscribeClientCommand(o *routerOptions) *cobra.Command {
	var filter string
	cmd := eachClientCommand(o, &cobra.Command{Use: "unsubscribe CLIENT...", Short: "End a subscription of clients"},
		func(ctx context.Context, s adminv1.AdminServiceClient, id string) error {
			_, err := s.UnsubscribeClient(ctx, &adminv1.UnsubscribeClientRequest{ClientId: id, Filter: filter})
			return err
		})
	cmd.Flags().StringVarP(&filter, "topic", "t", "", "topic filter as it was subscribed to")
	return cmd
}
