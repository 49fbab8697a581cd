package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/beeline-mqtt/beeline/cmd/beeline/bench"
)

// benchOptions are the flags of all scenarios of beeline bench.
type benchOptions struct {
	target    target
	brokers   []string
	processes []string
	prefix    string
	warmup    time.Duration
	duration  time.Duration
	output    string
	quiet     bool
	check     bool
}

func benchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure an MQTT broker, any",
		Long: "Put load on an MQTT broker, check every message that comes, and report delays, and the CPU time and memory of " +
			"processes on this machine.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(benchPairsCommand(), benchFanoutCommand(), benchConnectCommand(), benchMoveCommand(),
		benchAwayCommand(), benchResumeCommand(), benchStormCommand(), benchServicesCommand())
	return cmd
}

func (o *benchOptions) flags(f *pflag.FlagSet) {
	f.StringSliceVarP(&o.brokers, "broker", "u", []string{"mqtt://127.0.0.1:18831"},
		"brokers that the clients are spread over: mqtt://, mqtts://, ws:// or wss://host:port[/path]")
	f.StringVarP(&o.target.version, "mqtt-version", "V", "3.1.1", "protocol version: 5 or 3.1.1")
	o.target.authFlags(f)
	f.StringSliceVar(&o.processes, "pid", nil, "NAME=PID of processes whose CPU time and memory are reported")
	f.StringVar(&o.prefix, "clients-prefix", "", "begins every client id and topic; default: random")
	f.DurationVar(&o.warmup, "warmup", 2*time.Second, "how long messages flow before they count (pairs, fanout)")
	f.DurationVar(&o.duration, "duration", 10*time.Second, "how long they count (pairs, fanout)")
	f.StringVarP(&o.output, "output", "o", "table", "table or json")
	f.BoolVarP(&o.quiet, "quiet", "Q", false, "no progress on standard error")
	f.BoolVar(&o.check, "check", false, "exit with 2 when messages are lost (QoS 1, 2), doubled, corrupt or out of order, or a client is lost, twice there or forgotten")
}

// loadFlags are those of scenarios in which messages flow.
func loadFlags(f *pflag.FlagSet, l *bench.Load, rate int) {
	f.IntVar(&l.Rate, "rate", rate, "messages a second, of all publishers; 0: as many as the window lets them")
	f.Uint8VarP(&l.QoS, "qos", "q", 0, "quality of service: 0, 1 or 2")
	f.BoolVar(&l.Durable, "durable", false, "subscribers have sessions that outlive their connections")
	f.IntVar(&l.Size, "size", 64, fmt.Sprintf("bytes of a payload, at least %d", bench.MinSize))
	f.DurationVar(&l.Tick, "tick", 250*time.Microsecond, "what is due in it is sent at once, by several publishers; 10us: every message by itself")
	f.IntVar(&l.Window, "window", 64, "messages of one publisher that are not acknowledged; at QoS 0 with --rate 0, not received")
}

func benchPairsCommand() *cobra.Command {
	var o benchOptions
	var p bench.Pairs
	var to []string
	cmd := &cobra.Command{
		Use:     "pairs",
		Short:   "Publishers, each with a subscriber of its own",
		Example: "  beeline bench pairs -u mqtt://127.0.0.1:18831,mqtt://127.0.0.1:18832 --rate 3000 -q 1",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if p.Config, err = o.config(cmd.ErrOrStderr()); err != nil {
				return err
			}
			if p.To, err = o.places("--to", to); err != nil {
				return err
			}
			return o.run(cmd, p.QoS, p.Run)
		},
	}
	f := cmd.Flags()
	o.flags(f)
	loadFlags(f, &p.Load, 15000)
	f.IntVar(&p.Pairs, "pairs", 60, "how many")
	f.IntVar(&p.Shift, "shift", 1, "publisher i is on broker i, its subscriber so many further on")
	f.StringSliceVar(&to, "to", nil, "brokers of the subscribers, without --shift; default: those of the publishers")
	cmd.MarkFlagsMutuallyExclusive("to", "shift")
	return cmd
}

func benchFanoutCommand() *cobra.Command {
	var o benchOptions
	var p bench.Fanout
	cmd := &cobra.Command{
		Use:     "fanout",
		Short:   "One publisher, whose messages all subscribers get",
		Example: "  beeline bench fanout -u mqtt://127.0.0.1:18831,mqtt://127.0.0.1:18832 --subscribers 1000",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if p.Config, err = o.config(cmd.ErrOrStderr()); err != nil {
				return err
			}
			return o.run(cmd, p.QoS, p.Run)
		},
	}
	f := cmd.Flags()
	o.flags(f)
	loadFlags(f, &p.Load, 10)
	f.IntVar(&p.Subscribers, "subscribers", 1000, "how many, spread over the brokers")
	return cmd
}

func benchConnectCommand() *cobra.Command {
	var o benchOptions
	var c bench.Connect
	cmd := &cobra.Command{
		Use:   "connect",
		Short: "Clients that connect, subscribe to a topic of their own, and stay",
		Long: "Clients that connect, subscribe to a topic of their own, and stay. CPU time is divided by connections, from the " +
			"first CONNECT to the last SUBACK; memory is what the processes have grown by.",
		Example: "  beeline bench connect -u mqtt://127.0.0.1:18831,mqtt://127.0.0.1:18832 --clients 6000 --pid gateway=4711",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if c.Config, err = o.config(cmd.ErrOrStderr()); err != nil {
				return err
			}
			return o.run(cmd, 0, c.Run)
		},
	}
	f := cmd.Flags()
	o.flags(f)
	f.IntVar(&c.Clients, "clients", 6000, "how many, spread over the brokers")
	f.IntVar(&c.Rate, "rate", 1000, "clients a second; 0: as fast as they are answered")
	f.IntVar(&c.Parallel, "parallel", 64, "clients that connect at the same time, with --rate 0")
	f.DurationVar(&c.Hold, "hold", 0, "stay so long, and look at the memory again")
	return cmd
}

func benchMoveCommand() *cobra.Command {
	var o benchOptions
	var m bench.Move
	cmd := &cobra.Command{
		Use:   "move",
		Short: "Connected clients that connect again elsewhere, with the same client id",
		Long: "Clients that are connected to one broker connect to the next one with the same client id. The first connection " +
			"has to end; five seconds after the last, every client is looked for on both.",
		Example: "  beeline bench move -u mqtt://127.0.0.1:18831,mqtt://127.0.0.1:18832 --clients 1000 --rate 500",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if m.Config, err = o.config(cmd.ErrOrStderr()); err != nil {
				return err
			}
			return o.run(cmd, 0, m.Run)
		},
	}
	f := cmd.Flags()
	o.flags(f)
	f.IntVar(&m.Clients, "clients", 1000, "how many, spread over the brokers")
	f.IntVar(&m.Rate, "rate", 500, "clients that move in a second; 0: as fast as they are answered")
	return cmd
}

// config reads the flags. An error names one.
func (o *benchOptions) config(progress io.Writer) (bench.Config, error) {
	c := bench.Config{Prefix: o.prefix, Warmup: o.warmup, Duration: o.duration}
	if !o.quiet {
		c.Progress = progress
	}
	if c.Prefix == "" {
		c.Prefix = rand.Text()[:8]
	}
	var err error
	if c.Brokers, err = o.places("--broker", o.brokers); err != nil {
		return c, err
	}
	if c.Login.V5, err = o.target.v5(); err != nil {
		return c, err
	}
	c.Login.Username = o.target.username
	if c.Login.Password, err = o.target.password(); err != nil {
		return c, err
	}
	if !c.Login.V5 && c.Login.Password != nil && c.Login.Username == "" {
		return c, errors.New("--password-file: MQTT 3.1.1 has no password without a --username")
	}
	for _, p := range o.processes {
		name, number, _ := strings.Cut(p, "=")
		pid, err := strconv.Atoi(number)
		if err != nil || pid < 1 || name == "" {
			return c, fmt.Errorf("--pid %q: want NAME=PID", p)
		}
		c.Processes = append(c.Processes, bench.Process{Name: name, PID: pid})
	}
	if o.output != "table" && o.output != "json" {
		return c, fmt.Errorf("--output %q: table or json", o.output)
	}
	return c, nil
}

func (o *benchOptions) places(flag string, urls []string) ([]bench.Broker, error) {
	var brokers []bench.Broker
	for _, u := range urls {
		t := o.target
		t.url, t.urlFlag = u, flag
		dial, err := t.dialer()
		if err != nil {
			return nil, err
		}
		brokers = append(brokers, bench.Broker{Name: u, Dial: dial})
	}
	return brokers, nil
}

// run carries out a scenario and writes its result.
func (o *benchOptions) run(cmd *cobra.Command, qos byte, scenario func(context.Context) (*bench.Result, error)) error {
	r, err := scenario(cmd.Context())
	switch {
	case err != nil && cmd.Context().Err() != nil:
		return errors.New("interrupted, before there was a result")
	case err != nil:
		return err
	}
	r.Config = flagValues(cmd.Flags())
	write := r.Table
	if o.output == "json" {
		write = r.JSON
	}
	if err := write(cmd.OutOrStdout()); err != nil {
		return err
	}
	if o.check {
		return r.Check(qos)
	}
	return nil
}

// flagValues are the values of all flags that say what was measured.
func flagValues(f *pflag.FlagSet) map[string]any {
	values := make(map[string]any)
	f.VisitAll(func(f *pflag.Flag) {
		text := f.Value.String()
		if slices.Contains([]string{"help", "output", "quiet", "check"}, f.Name) {
			return
		}
		values[f.Name] = text
		switch f.Value.Type() {
		case "bool":
			values[f.Name] = text == "true"
		case "int", "uint8":
			values[f.Name] = json.Number(text)
		case "stringSlice":
			if list, ok := f.Value.(pflag.SliceValue); ok {
				values[f.Name] = append([]string{}, list.GetSlice()...) // [] rather than null
			}
		}
	})
	return values
}

// exitCode is 1 for what could not be done, and 2 for what was done and is not as it should be.
func exitCode(err error) int {
	if errors.Is(err, bench.ErrNotClean) || errors.Is(err, errNotEverywhere) {
		return 2
	}
	return 1
}
