package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/beeline-mqtt/beeline/services/router"
)

// tokenOptions are the flags of beeline token.
type tokenOptions struct {
	role, file string
	remove     bool
	limited    bool
	limits     router.Limits
}

func tokenCommand() *cobra.Command {
	var o tokenOptions
	cmd := &cobra.Command{
		Use:   "token [flags] NAME",
		Short: "Make a token for a service or an operator",
		Long: "Make a bearer token for whoever calls the routers' services, and the entry for the token file of the routers " +
			"(router.access.tokens_file), which has the hash of the token and not the token. Routers read the file again when it " +
			"changes. The token is printed once: nobody can find it out later.\n\n" +
			"As soon as one limit is given, what no limit names is not allowed.",
		Example: "  beeline token meters --role publisher --client-prefix meter- --subscribe 'meters/#' --file tokens.yaml\n" +
			"  beeline token meters --remove --file tokens.yaml",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, limit := range []string{"publish", "subscribe", "client-prefix", "user-prefix", "group-prefix"} {
				o.limited = o.limited || cmd.Flags().Changed(limit)
			}
			return o.run(cmd.OutOrStdout(), args[0])
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.role, "role", "", "viewer, publisher or operator")
	f.StringVar(&o.file, "file", "", "token file to add the entry to; it is made if it is not there. Default: the entry is printed")
	f.BoolVar(&o.remove, "remove", false, "remove what has that name from the token file instead: its tokens are nobody's then")
	f.StringArrayVar(&o.limits.Publish, "publish", nil, "topic filter whose topics may be published to; may be repeated, as all limits")
	f.StringArrayVar(&o.limits.Subscribe, "subscribe", nil, "topic filter that may be subscribed to, and read of retained messages")
	f.StringArrayVar(&o.limits.ClientPrefixes, "client-prefix", nil, "beginning of the ids of clients that may be sent to")
	f.StringArrayVar(&o.limits.UserPrefixes, "user-prefix", nil, "beginning of the names of users that may be sent to")
	f.StringArrayVar(&o.limits.GroupPrefixes, "group-prefix", nil, "beginning of the names of groups that may be sent to and changed")
	return cmd
}

func (o *tokenOptions) run(out io.Writer, name string) error {
	if o.remove {
		return o.runRemove(name)
	}
	if o.role == "" {
		return errors.New("--role: viewer, publisher or operator")
	}
	var limits *router.Limits
	if o.limited {
		limits = &o.limits
	}
	token, entry, err := router.NewToken(name, o.role, limits)
	if err != nil {
		return fmt.Errorf("token: %w", err)
	}
	if o.file == "" {
		fmt.Fprintf(out, "%s\n\nEntry for the token file, below tokens:\n\n%s", token, entry)
		return nil
	}
	if err := router.AppendToken(o.file, entry); err != nil {
		return fmt.Errorf("--file: %w", err)
	}
	fmt.Fprintln(out, token)
	return nil
}

func (o *tokenOptions) runRemove(name string) error {
	if o.file == "" || o.role != "" || o.limited {
		return errors.New("--remove: give the --file, and neither role nor limits")
	}
	if err := router.RemoveToken(o.file, name); err != nil {
		return fmt.Errorf("--file: %w", err)
	}
	return nil
}
