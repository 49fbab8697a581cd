package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/beeline-mqtt/beeline/api/beeline"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

// subscribeOptions are the flags of beeline subscribe.
type subscribeOptions struct {
	router routerOptions
	s      beeline.Subscription
	count  int
}

func subscribeCommand() *cobra.Command {
	var o subscribeOptions
	cmd := &cobra.Command{
		Use:   "subscribe",
		Short: "Print what clients publish, as a service gets it",
		Long: "Subscribe through a router and print every message. It is acknowledged when it has been printed. With --name it goes on " +
			"where it was when it is run again. beeline sub subscribes as an MQTT client.",
		Example: "  beeline subscribe -t 'meters/+/reading'\n" +
			"  beeline subscribe -t 'meters/#' --group billing --name billing-1 -o json",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	o.router.flags(cmd)
	f := cmd.Flags()
	f.StringArrayVarP(&o.s.Filters, "topic", "t", nil, "topic filter, any number")
	f.StringVar(&o.s.ConsumerGroup, "group", "", "share the messages with all who subscribe with the same group and filter")
	f.StringVar(&o.s.DurableName, "name", "", "keep what is published while nobody subscribes under this name")
	f.DurationVar(&o.s.DurableExpiry, "keep", 24*time.Hour, "with --name, for how long")
	f.IntVar(&o.s.MaxUnacknowledged, "max-unacknowledged", 100, "how many messages are sent ahead")
	f.BoolVar(&o.s.WithRetained, "retained", false, "retained messages first")
	f.IntVarP(&o.count, "count", "n", 0, "end after so many messages; 0: never")
	return cmd
}

func (o *subscribeOptions) run(cmd *cobra.Command) error {
	if len(o.s.Filters) == 0 || o.count < 0 || o.s.MaxUnacknowledged < 1 {
		return errors.New("give a --topic; --count is not negative, and --max-unacknowledged at least 1")
	}
	o.s.OnOpen = func(resumed bool) {
		if resumed {
			fmt.Fprintln(cmd.ErrOrStderr(), "resumed")
			return
		}
		fmt.Fprintln(cmd.ErrOrStderr(), "ready")
	}
	o.s.OnDropped = func(n uint64) {
		fmt.Fprintf(cmd.ErrOrStderr(), "%d messages of QoS 0 were dropped: this was too slow\n", n)
	}
	return o.router.connect(cmd, func(c *beeline.Client) error {
		ctx, enough := context.WithCancel(cmd.Context())
		defer enough()
		printed := 0
		return c.Subscribe(ctx, o.s, func(ctx context.Context, m *messagingv1.ReceivedMessage) error {
			if ctx.Err() != nil {
				return ctx.Err() // it is one too many
			}
			if err := o.router.showLine(cmd, m, func(out io.Writer) { printMessage(out, m.GetMessage()) }); err != nil {
				return err
			}
			if printed++; printed == o.count {
				enough() // with what has been printed acknowledged
			}
			return nil
		})
	})
}
