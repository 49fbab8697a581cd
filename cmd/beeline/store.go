package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/beeline-mqtt/beeline/cmd/beeline/local"
	"github.com/beeline-mqtt/beeline/internal/node"
	"github.com/beeline-mqtt/beeline/services/session"
)

func storeCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "store",
		Short: "Back up and restore what beeline up keeps for clients",
		Long: "The store of beeline up has durable sessions, the messages that they are owed, wills, and retained messages. " +
			"Separate processes have \"session backup\" and \"session restore\".",
	}
	cmd.PersistentFlags().StringVar(&dir, "data", "beeline-data", "directory of beeline up")
	cmd.AddCommand(&cobra.Command{
		Use:   "backup [name]",
		Short: "Make a copy of the store, whether beeline up runs or not, and print where it is",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			copied, err := backup(cmd.Context(), dir, append(args, "")[0])
			if err == nil {
				fmt.Fprintln(cmd.OutOrStdout(), copied)
			}
			return err
		},
	}, &cobra.Command{
		Use:   "restore <directory>",
		Short: "Put a copy in the place of the store, while beeline up does not run",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return restore(dir, args[0], cmd.OutOrStdout())
		},
	})
	return cmd
}

func backup(ctx context.Context, dir, name string) (string, error) {
	if _, err := os.Stat(dir); err != nil {
		return "", fmt.Errorf("--data: %w", err)
	}
	unlock, err := lock(dir)
	if err == nil {
		defer unlock()
		return session.BackupStopped(local.Store(dir), name)
	}
	// It runs, then: it has to make the copy.
	text, err := os.ReadFile(filepath.Join(dir, "endpoints.json"))
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("beeline up has %s and is not ready: try again", dir)
	}
	var e endpoints
	if err == nil {
		err = json.Unmarshal(text, &e)
	}
	if err != nil || len(e.Sessions) == 0 {
		return "", fmt.Errorf("read endpoints.json: %w", err)
	}
	return node.Post(ctx, e.Sessions[0].Admin+session.BackupPath+"?name="+url.QueryEscape(name))
}

func restore(dir, from string, out io.Writer) error {
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	former, err := session.Restore(local.Store(dir), from)
	if former != "" {
		fmt.Fprintln(out, "the former store is", former)
	}
	return err
}
