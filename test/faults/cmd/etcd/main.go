// Command etcd runs internal/etcd as a process of its own, so that fault tests can kill and pause it.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/beeline-mqtt/beeline/internal/etcd"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "etcd:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	dir := flag.String("dir", "", "where the data is kept")
	address := flag.String("address", "", "host:port for clients")
	flag.Parse()
	s, err := etcd.Start(ctx, etcd.Config{
		// What is written survives a kill of the process without being flushed to the disk.
		Dir: *dir, Address: *address, Unsynced: true, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "etcd serves on", s.Address())
	return s.Run(ctx)
}
