package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
)

func gatewaysCommand() *cobra.Command {
	var o routerOptions
	cmd := &cobra.Command{
		Use:   "gateways",
		Short: "List the gateways, drain them and have them take clients again",
		Long: "List the gateways that are alive, with the clients of each. A gateway that is drained has all its clients go to the " +
			"others, at a rate, and takes none until it is resumed. GATEWAY is its id, its address or its MQTT address, as they are listed.",
		Example: "  beeline gateways\n" +
			"  beeline gateways drain 10.0.0.11:7946 --wait\n" +
			"  beeline gateways resume 10.0.0.11:7946",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.askGateways(cmd, func(s adminv1.GatewayServiceClient) error {
				l, err := s.ListGateways(cmd.Context(), &adminv1.ListGatewaysRequest{})
				if err != nil {
					return fmt.Errorf("list: %w", err)
				}
				return o.show(cmd, l, func(out io.Writer) error { return printGateways(out, l.GetGateways()) })
			})
		},
	}
	o.flags(cmd)
	cmd.AddCommand(drainCommand(&o), resumeCommand(&o))
	return cmd
}

func printGateways(out io.Writer, all []*adminv1.Gateway) error {
	rows := [][]string{{"GATEWAY", "ADDRESS", "MQTT", "ZONE", "WEIGHT", "STATE", "CLIENTS", "MOVED", "TO MOVE", ""}}
	for _, g := range all {
		clients := strconv.FormatUint(g.GetClients(), 10)
		if g.GetState() == adminv1.GatewayState_GATEWAY_STATE_UNSPECIFIED {
			clients = "-"
		}
		rows = append(rows, []string{
			g.GetId(), g.GetAddress(), or(g.GetMqttAddress()), or(g.GetZone()), strconv.FormatUint(uint64(g.GetWeight()), 10), stateName(g),
			clients, strconv.FormatUint(g.GetMoved(), 10), strconv.FormatUint(g.GetLeft(), 10), g.GetTrouble(),
		})
	}
	return table(out, rows...)
}

func stateName(g *adminv1.Gateway) string {
	if g.GetState() == adminv1.GatewayState_GATEWAY_STATE_UNSPECIFIED {
		return "unknown"
	}
	return strings.ToLower(strings.TrimPrefix(g.GetState().String(), "GATEWAY_STATE_"))
}

func drainCommand(o *routerOptions) *cobra.Command {
	var wait bool
	r := &adminv1.DrainGatewayRequest{}
	cmd := &cobra.Command{
		Use: "drain GATEWAY", Short: "Have all clients of a gateway go to the others", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Gateway = args[0]
			return o.askGateways(cmd, func(s adminv1.GatewayServiceClient) error {
				d, err := s.DrainGateway(cmd.Context(), r)
				if err != nil {
					return fmt.Errorf("drain: %w", err)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%d clients are to go\n", d.GetGateway().GetClients())
				if !wait {
					return nil
				}
				return follow(cmd.Context(), cmd.OutOrStdout(), s, d.GetGateway().GetId())
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&wait, "wait", false, "show how far it is, until all have gone")
	f.Uint32Var(&r.Rate, "rate", 0, "clients told to go in a second (default: as the gateway is configured)")
	return cmd
}

// followInterval is how often a gateway is asked how far it is.
const followInterval = 500 * time.Millisecond

// follow prints how far a gateway is until it is drained.
func follow(ctx context.Context, out io.Writer, s adminv1.GatewayServiceClient, id string) error {
	tick := time.NewTicker(followInterval)
	defer tick.Stop()
	for said := ""; ; {
		l, err := s.ListGateways(ctx, &adminv1.ListGatewaysRequest{})
		if err != nil {
			return fmt.Errorf("wait: %w", err)
		}
		g := &adminv1.Gateway{State: adminv1.GatewayState_GATEWAY_STATE_UNSPECIFIED, Trouble: "the gateway has ended"}
		for _, x := range l.GetGateways() {
			if x.GetId() == id {
				g = x
			}
		}
		if line := fmt.Sprintf("%s: %d moved, %d to move", stateName(g), g.GetMoved(), g.GetLeft()); line != said {
			fmt.Fprintln(out, line)
			said = line
		}
		drained := g.GetState() == adminv1.GatewayState_GATEWAY_STATE_DRAINED
		switch {
		case drained && g.GetLeft() == 0:
			return nil
		case g.GetTrouble() != "":
			return errors.New(g.GetTrouble())
		case !drained && g.GetState() != adminv1.GatewayState_GATEWAY_STATE_DRAINING:
			return fmt.Errorf("the gateway is %s: somebody has told it something else", stateName(g))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func resumeCommand(o *routerOptions) *cobra.Command {
	return &cobra.Command{
		Use: "resume GATEWAY", Short: "Have a gateway take clients again", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.askGateways(cmd, func(s adminv1.GatewayServiceClient) error {
				r, err := s.ResumeGateway(cmd.Context(), &adminv1.ResumeGatewayRequest{Gateway: args[0]})
				if err != nil {
					return fmt.Errorf("resume: %w", err)
				}
				fmt.Fprintln(cmd.OutOrStdout(), stateName(r.GetGateway()))
				return nil
			})
		},
	}
}

func rebalanceCommand() *cobra.Command {
	var o routerOptions
	r := &adminv1.RebalanceRequest{}
	cmd := &cobra.Command{
		Use:   "rebalance",
		Short: "Have the gateways share the clients by weight",
		Long: "Have the gateways that have more than their share of the clients move the surplus to the others, as after one was added, " +
			"and print what each is to have. It goes on when the command has ended: beeline gateways shows how far it is, and beeline " +
			"gateways resume ends it at a gateway.",
		Example: "  beeline rebalance --dry-run\n  beeline rebalance --rate 200",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.askGateways(cmd, func(s adminv1.GatewayServiceClient) error {
				plan, err := s.Rebalance(cmd.Context(), r)
				if err != nil {
					return fmt.Errorf("rebalance: %w", err)
				}
				rows := [][]string{{"GATEWAY", "ADDRESS", "WEIGHT", "CLIENTS", "TARGET", "TO MOVE"}}
				for _, x := range plan.GetShares() {
					rows = append(rows, []string{
						x.GetGateway(), x.GetAddress(), strconv.FormatUint(uint64(x.GetWeight()), 10), strconv.FormatUint(x.GetClients(), 10),
						strconv.FormatUint(x.GetTarget(), 10), strconv.FormatUint(x.GetToMove(), 10),
					})
				}
				return o.show(cmd, plan, func(out io.Writer) error { return table(out, rows...) })
			})
		},
	}
	o.flags(cmd)
	f := cmd.Flags()
	f.BoolVar(&r.DryRun, "dry-run", false, "only print what would be done")
	f.Uint32Var(&r.Rate, "rate", 0, "clients told to go in a second, over all gateways (default 1000)")
	return cmd
}
