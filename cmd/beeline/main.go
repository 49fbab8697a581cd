// Command beeline runs a whole Beeline on one machine, talks MQTT to any broker, and makes certificates. Its
// sub-commands are the files beside this one.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "beeline:", err)
		os.Exit(exitCode(err))
	}
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "beeline",
		Short:         "A clustered MQTT broker, and what is needed to try it",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(
		upCommand(), pubCommand(), subCommand(), benchCommand(), certsCommand(), tokenCommand(), passwordCommand(), storeCommand(),
		publishCommand(), subscribeCommand(), sendCommand(), commandCommand(), presenceCommand(), groupCommand(),
		clientsCommand(), explainTopicCommand(), retainedCommand(), traceCommand(),
		placementCommand(), clusterCommand(), gatewaysCommand(), rebalanceCommand(),
	)
	return root
}
