// Command devices is a backend that asks many devices for something at once: it sends each device that is connected a command, prints
// who answers what, and says who comes and goes. With -simulate it brings devices of its own.
//
//	bin/beeline up &
//	go run ./examples/devices -simulate 20
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/beeline-mqtt/beeline/examples/internal/dial"
)

// options are the flags.
type options struct {
	router   *dial.Flags
	prefix   string
	command  string
	every    time.Duration
	simulate int
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	o := options{router: dial.New(flag.CommandLine)}
	flag.StringVar(&o.prefix, "prefix", "meter-", "devices whose client ids begin with this")
	flag.StringVar(&o.command, "command", "read", "topic of the command")
	flag.DurationVar(&o.every, "every", 5*time.Second, "how often they are asked")
	flag.IntVar(&o.simulate, "simulate", 0, "so many devices, in this program")
	flag.Parse()
	if err := run(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "devices:", err)
		os.Exit(1)
	}
}

// run asks until ctx is over.
func run(ctx context.Context, o options, out io.Writer) error {
	b, err := o.router.Dial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }() // nothing is on its way any more
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop, err := simulate(ctx, o)
	if err != nil {
		return err
	}
	defer stop()
	f := &fleet{beeline: b, prefix: o.prefix, out: out}
	var watching sync.WaitGroup
	var watched error
	watching.Go(func() {
		watched = f.watch(ctx)
		cancel()
	})
	tick := time.NewTicker(o.every)
	defer tick.Stop()
	for ctx.Err() == nil {
		if err := f.ask(ctx, o.command); err != nil && ctx.Err() == nil {
			fmt.Fprintln(out, "not asked:", err) // the router may be back the next time
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	watching.Wait()
	return errors.Join(watched)
}
