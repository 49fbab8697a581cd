package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/beeline-mqtt/beeline/api/beeline"
	"github.com/beeline-mqtt/beeline/cmd/beeline/bench"
)

// servicesOptions are the flags of all scenarios of services.
type servicesOptions struct {
	router routerOptions
	bench  benchOptions
	size   int
}

func benchServicesCommand() *cobra.Command {
	var o servicesOptions
	cmd := &cobra.Command{
		Use:   "services",
		Short: "Measure what services ask of a router",
		Long: "Publish, send, command and subscribe over a router's gRPC, with devices at the gateways, and report delays, and the CPU " +
			"time of processes on this machine.",
		Example: "  beeline bench services command --devices 100 --parallel 10 -u mqtt://127.0.0.1:18831,mqtt://127.0.0.1:18832",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	o.router.flags(cmd)
	f := cmd.PersistentFlags()
	f.StringSliceVarP(&o.bench.brokers, "broker", "u", []string{"mqtt://127.0.0.1:18831"}, "gateways that the devices are spread over")
	f.StringSliceVar(&o.bench.processes, "pid", nil, "NAME=PID of processes whose CPU time is reported")
	f.DurationVar(&o.bench.duration, "duration", 10*time.Second, "how long it goes on")
	f.IntVar(&o.size, "size", 64, "bytes of a payload")
	for _, x := range []struct {
		use, short        string
		devices, parallel int
		run               func(bench.Services, context.Context) (*bench.Result, error)
	}{
		{"publish", "One stream publishes; the result of each message is awaited", 1, 10_000, bench.Services.Publish},
		{"send", "Messages to a group of all devices, each until all have acknowledged it", 10_000, 1, bench.Services.Send},
		{"command", "Commands that devices of MQTT 5 answer", 100, 1, bench.Services.Command},
		{"subscribe", "Devices publish to one subscription of a service", 8, 64, bench.Services.Subscribe},
	} {
		var s bench.Services
		sub := &cobra.Command{Use: x.use, Short: x.short, Args: cobra.NoArgs}
		sub.RunE = func(cmd *cobra.Command, _ []string) error { return o.run(cmd, s, x.run) }
		sub.Flags().IntVar(&s.Devices, "devices", x.devices, "devices, spread over the gateways")
		sub.Flags().IntVar(&s.Parallel, "parallel", x.parallel, "how many are under way at once; of subscribe: for each device")
		cmd.AddCommand(sub)
	}
	return cmd
}

func (o *servicesOptions) run(cmd *cobra.Command, s bench.Services, scenario func(bench.Services, context.Context) (*bench.Result, error)) error {
	o.bench.target.version, o.bench.output, o.bench.quiet = "5", "table", true
	c, err := o.bench.config(nil)
	if err != nil {
		return err
	}
	return o.router.connect(cmd, func(client *beeline.Client) error {
		s.Config, s.Client, s.Size = c, client, o.size
		r, err := scenario(s, cmd.Context())
		switch {
		case err != nil && cmd.Context().Err() != nil:
			return errors.New("interrupted, before there was a result")
		case err != nil:
			return err
		}
		r.Config = flagValues(cmd.Flags())
		if o.router.output == "json" {
			return r.JSON(cmd.OutOrStdout())
		}
		return r.Table(cmd.OutOrStdout())
	})
}
