package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/beeline-mqtt/beeline/cmd/beeline/bench"
)

// inboxFlags are those of scenarios with durable receivers that are away.
func inboxFlags(f *pflag.FlagSet, x *bench.Inboxes, receivers, publishers, messages int) {
	f.IntVar(&x.Receivers, "receivers", receivers, "durable receivers, spread over the brokers, with a topic each")
	f.IntVar(&x.Publishers, "publishers", publishers, "publishers, spread over the brokers")
	f.IntVar(&x.Messages, "messages", messages, "messages of all publishers together, shared out evenly to the receivers")
	f.Uint8VarP(&x.QoS, "qos", "q", 1, "quality of service: 1 or 2")
	f.IntVar(&x.Size, "size", 64, fmt.Sprintf("bytes of a payload, at least %d", bench.MinSize))
	f.IntVar(&x.Window, "window", 64, "messages of one publisher that are not acknowledged")
}

// inboxScenario is a command whose run is made of the flags of all scenarios.
func inboxScenario(cmd *cobra.Command, x *bench.Inboxes, run func(bench.Config) func(context.Context) (*bench.Result, error)) *cobra.Command {
	var o benchOptions
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := o.config(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		return o.run(cmd, x.QoS, run(c))
	}
	o.flags(cmd.Flags())
	return cmd
}

func benchAwayCommand() *cobra.Command {
	var a bench.Away
	cmd := inboxScenario(&cobra.Command{
		Use:   "away",
		Short: "Durable receivers that are absent, and publishers that send to them",
		Long: "Receivers with a durable session connect, subscribe, and go. Publishers send to them as fast as they are " +
			"acknowledged. The sessions stay, for resume with the same --clients-prefix, --receivers, --publishers, --messages, " +
			"--qos and --size.",
		Example: "  beeline bench away -u mqtt://127.0.0.1:18831,mqtt://127.0.0.1:18832 --clients-prefix x --messages 500000",
	}, &a.Inboxes, func(c bench.Config) func(context.Context) (*bench.Result, error) {
		a.Config = c
		return a.Run
	})
	inboxFlags(cmd.Flags(), &a.Inboxes, 256, 256, 500_000)
	return cmd
}

func benchResumeCommand() *cobra.Command {
	var r bench.Resume
	cmd := inboxScenario(&cobra.Command{
		Use:     "resume",
		Short:   "The receivers of away return, and get what waits for them",
		Long:    "The receivers of an away before, with the same flags, return and get what waits for them. Their sessions end.",
		Example: "  beeline bench resume -u mqtt://127.0.0.1:18831,mqtt://127.0.0.1:18832 --clients-prefix x --messages 500000",
	}, &r.Inboxes, func(c bench.Config) func(context.Context) (*bench.Result, error) {
		r.Config = c
		return r.Run
	})
	inboxFlags(cmd.Flags(), &r.Inboxes, 256, 256, 500_000)
	cmd.Flags().IntVar(&r.Rate, "rate", 0, "receivers that return in a second; 0: as fast as they are answered")
	if err := cmd.MarkFlagRequired("clients-prefix"); err != nil {
		panic(err) // there is no such flag: a mistake of this file
	}
	return cmd
}

func benchStormCommand() *cobra.Command {
	var s bench.Storm
	cmd := inboxScenario(&cobra.Command{
		Use:   "storm",
		Short: "Durable clients that all return within a time",
		Long: "Clients with a durable session connect, subscribe, and go; publishers send to them; and the clients return, evenly " +
			"within a time. What counts is when the last one has what waited for it. Their sessions end.",
		Example: "  beeline bench storm -u mqtt://127.0.0.1:18831,mqtt://127.0.0.1:18832 --receivers 10000 --messages 20000 --within 5s",
	}, &s.Inboxes, func(c bench.Config) func(context.Context) (*bench.Result, error) {
		s.Config = c
		return s.Run
	})
	inboxFlags(cmd.Flags(), &s.Inboxes, 6000, 16, 12_000)
	cmd.Flags().DurationVar(&s.Within, "within", 5*time.Second, "the time in which they return")
	return cmd
}
