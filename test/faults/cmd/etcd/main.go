// Command etcd runs etcd as a process of its own, so that fault tests can kill and pause it, and measurements see
// what it costs: the one member of internal/etcd, or one of several, which internal/etcd has no use for.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/beeline-mqtt/beeline/internal/etcd"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	dir := flag.String("dir", "", "where the data is kept")
	address := flag.String("address", "", "host:port for clients")
	peer := flag.String("peer", "", "host:port for the other members")
	members := flag.String("members", "", "host:port for the other members of all members, comma separated; empty: there is one")
	synced := flag.Bool("synced", false, "flush every write to the disk, when there is one member")
	flag.Parse()
	var err error
	if *members == "" {
		err = alone(ctx, *dir, *address, *synced)
	} else {
		err = together(ctx, *dir, *address, *peer, strings.Split(*members, ","))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "etcd:", err)
		os.Exit(1)
	}
}

func alone(ctx context.Context, dir, address string, synced bool) error {
	s, err := etcd.Start(ctx, etcd.Config{
		// What is written survives a kill of the process without being flushed to the disk.
		Dir: dir, Address: address, Unsynced: !synced, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "etcd serves on", s.Address())
	return s.Run(ctx)
}

func together(ctx context.Context, dir, address, peer string, members []string) error {
	at := func(address string) []url.URL { return []url.URL{{Scheme: "http", Host: address}} }
	cfg := embed.NewConfig()
	cfg.Dir, cfg.Name = dir, peer
	cfg.UnsafeNoFsync = true
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = at(address), at(address)
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = at(peer), at(peer)
	all := make([]string, len(members))
	for i, m := range members {
		all[i] = m + "=http://" + m
	}
	cfg.InitialCluster = strings.Join(all, ",")
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return fmt.Errorf("start etcd in %s: %w", dir, err)
	}
	defer e.Close()
	select {
	case <-ctx.Done():
		return nil
	case err := <-e.Err():
		return err
	case <-e.Server.StopNotify():
		return errors.New("etcd ended")
	}
}
