package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/beeline-mqtt/beeline/api/beeline"
	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

// completionTimeout is how long a shell waits for names that a router knows.
const completionTimeout = time.Second

// names asks a router for names that begin with a prefix.
type names func(ctx context.Context, c *beeline.Client, prefix string) ([]string, error)

func clientIDs(ctx context.Context, c *beeline.Client, prefix string) ([]string, error) {
	l, err := c.Admin().ListClients(ctx, &adminv1.ListClientsRequest{ClientIdPrefix: prefix})
	var all []string
	for _, x := range l.GetClients() {
		all = append(all, x.GetClientId())
	}
	return all, err
}

func groupNames(ctx context.Context, c *beeline.Client, prefix string) ([]string, error) {
	l, err := c.Groups().ListGroups(ctx, &messagingv1.ListGroupsRequest{Prefix: prefix})
	var all []string
	for _, x := range l.GetGroups() {
		all = append(all, x.GetName())
	}
	return all, err
}

// complete is n as the shell's completion asks for it. A router that does not answer has no names.
func (o *routerOptions) complete(n names) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, prefix string) (all []string, _ cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(context.Background(), completionTimeout)
		defer cancel()
		cmd.SetContext(ctx)
		err := o.connect(cmd, func(c *beeline.Client) (err error) {
			all, err = n(ctx, c, prefix)
			return err
		})
		if err != nil {
			cobra.CompErrorln(err.Error())
		}
		return all, cobra.ShellCompDirectiveNoFileComp
	}
}

// completes has a flag completed with names that a router knows.
func completes(cmd *cobra.Command, o *routerOptions, flag string, n names) {
	registered(cmd.RegisterFlagCompletionFunc(flag, o.complete(n)))
}

// choices has a flag completed with its values.
func choices(cmd *cobra.Command, flag string, values ...string) {
	registered(cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)))
}

// registered is for what fails only if the flag is not there, which is a mistake in this program that every run of it shows.
func registered(err error) {
	if err != nil {
		panic(errors.Join(errors.New("completion"), err))
	}
}
