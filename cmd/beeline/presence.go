package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/beeline-mqtt/beeline/api/beeline"
	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

func presenceCommand() *cobra.Command {
	var o routerOptions
	var p beeline.PresenceOptions
	var watch bool
	cmd := &cobra.Command{
		Use:   "presence",
		Short: "Say who is connected, and who comes and goes",
		Long: "List the clients that are connected; with --watch print who connects and disconnects, until it is interrupted. With -o json each " +
			"line has the cursor behind its events, with which --cursor goes on.",
		Example: "  beeline presence --prefix meter-\n  beeline presence --watch -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !watch {
				return listConnected(cmd, &o, p.ClientIDPrefix)
			}
			return o.connect(cmd, func(c *beeline.Client) error {
				err := c.WatchPresence(cmd.Context(), p, func(events []*messagingv1.PresenceEvent, cursor string) error {
					r := &messagingv1.WatchPresenceResponse{Events: events, Cursor: cursor}
					return o.showLine(cmd, r, func(out io.Writer) { printPresence(out, events) })
				})
				if errors.Is(err, beeline.ErrMissedEvents) {
					return errors.Join(err, errors.New("list who is connected, and watch without --cursor"))
				}
				return err
			})
		},
	}
	o.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&p.ClientIDPrefix, "prefix", "", "only clients whose ids begin with this")
	f.BoolVar(&watch, "watch", false, "print who connects and disconnects")
	f.StringVar(&p.Cursor, "cursor", "", "with --watch, begin behind this point")
	return cmd
}

func printPresence(out io.Writer, events []*messagingv1.PresenceEvent) {
	for _, e := range events {
		fmt.Fprintf(out, "%s  %-12s  %s  at %s, epoch %d  %s\n",
			moment(e.GetTime()), word(e.GetKind()), e.GetClientId(), or(e.GetGateway()), e.GetEpoch(), e.GetReason())
	}
}

func listConnected(cmd *cobra.Command, o *routerOptions, prefix string) error {
	return o.askAdmin(cmd, func(s adminv1.AdminServiceClient) error {
		r := &adminv1.ListClientsRequest{ClientIdPrefix: prefix, Presence: adminv1.Presence_PRESENCE_CONNECTED}
		all, err := listClients(cmd, s, r, 0)
		if err != nil {
			return err
		}
		return o.show(cmd, all, func(out io.Writer) error { return printClients(out, all.GetClients()) })
	})
}
