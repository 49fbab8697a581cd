package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/beeline-mqtt/beeline/internal/node"
	"github.com/beeline-mqtt/beeline/services/session"
)

// storeUsage is what the help says about the commands for the store.
const storeUsage = `  backup [NAME]    have the process with this configuration back up its store, and print where; it has to be active
  restore DIR      put a back-up in the place of the store, while no instance runs
`

// storeCommand is what is to be done with the store in place of running.
type storeCommand struct{ verb, argument string }

// storeCommandOf takes the command off the arguments of the program, if they begin with one.
func storeCommandOf(args []string) (storeCommand, []string) {
	if len(args) == 0 || args[0] != "backup" && args[0] != "restore" {
		return storeCommand{}, args
	}
	c := storeCommand{verb: args[0]}
	args = args[1:]
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		c.argument, args = args[0], args[1:]
	}
	return c, args
}

func (c storeCommand) run(ctx context.Context, cfg settings) error {
	if c.verb == "restore" {
		if c.argument == "" {
			return errors.New("restore: which directory?")
		}
		former, err := session.Restore(cfg.Session, c.argument)
		if former != "" {
			fmt.Println("the former store is", former)
		}
		return err
	}
	admin, err := cfg.Node.AdminURL()
	if err != nil {
		return err
	}
	dir, err := node.Post(ctx, admin+session.BackupPath+"?name="+url.QueryEscape(c.argument))
	if err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	fmt.Println(dir)
	return nil
}
