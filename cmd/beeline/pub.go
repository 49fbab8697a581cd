package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// pubOptions are the flags of beeline pub.
type pubOptions struct {
	target     target
	m          sent
	message    string
	stdin      bool
	properties []string
	count      int
	timeout    time.Duration
}

func pubCommand() *cobra.Command {
	var o pubOptions
	cmd := &cobra.Command{
		Use:   "pub",
		Short: "Publish messages",
		Long:  "Publish one message, or one for each line of standard input, and wait until the broker has acknowledged it.",
		Example: `  beeline pub -t news/today -m hello -q 1
  beeline pub -u mqtt://127.0.0.1:18832 -t p2p/ann/inbox -m 'for Ann alone' -q 1`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), cmd.InOrStdin()) },
	}
	f := cmd.Flags()
	o.target.flags(f)
	f.StringVarP(&o.m.topic, "topic", "t", "", "topic to publish to; p2p/<client id>/... reaches one client")
	f.StringVarP(&o.message, "message", "m", "", "payload")
	f.BoolVar(&o.stdin, "stdin", false, "one message for each line of standard input")
	f.Uint8VarP(&o.m.qos, "qos", "q", 0, "quality of service: 0, 1 or 2")
	f.BoolVarP(&o.m.retain, "retain", "r", false, "retain the message")
	f.IntVarP(&o.count, "count", "n", 1, "publish the message so many times")
	f.DurationVar(&o.m.expiry, "expiry", 0, "message expiry interval, whole seconds (MQTT 5)")
	f.StringVar(&o.m.contentType, "content-type", "", "content type (MQTT 5)")
	f.StringVar(&o.m.responseTopic, "response-topic", "", "response topic (MQTT 5)")
	f.StringVar(&o.m.correlation, "correlation", "", "correlation data (MQTT 5)")
	f.StringArrayVarP(&o.properties, "property", "P", nil, "user property name=value, any number, in order (MQTT 5)")
	f.DurationVar(&o.timeout, "timeout", 30*time.Second, "give up when the broker takes so long to answer; 0: never")
	cmd.MarkFlagsMutuallyExclusive("stdin", "message")
	cmd.MarkFlagsMutuallyExclusive("stdin", "count")
	return cmd
}

// check reports the first flag that cannot be, and reads the user properties.
func (o *pubOptions) check() error {
	switch e := o.m.expiry; {
	case o.m.topic == "":
		return errors.New("give a --topic")
	case o.m.qos > 2:
		return errQoS
	case o.count < 1:
		return errors.New("--count: at least 1")
	case o.timeout < 0:
		return errTimeout
	case e < 0 || e%time.Second != 0 || e/time.Second > math.MaxUint32:
		return errors.New("--expiry: whole seconds, like 90s or 5m")
	}
	for _, p := range o.properties {
		name, value, ok := strings.Cut(p, "=")
		if !ok {
			return fmt.Errorf("--property %q: want name=value", p)
		}
		o.m.properties = append(o.m.properties, pair{name, value})
	}
	v5, err := o.target.v5()
	if err == nil && !v5 && o.m.needsV5() {
		return errors.New("--expiry, --content-type, --response-topic, --correlation and --property need --mqtt-version 5")
	}
	return err
}

func (o *pubOptions) run(ctx context.Context, in io.Reader) error {
	if err := o.check(); err != nil {
		return err
	}
	p, err := o.connect(ctx)
	if err != nil {
		return err
	}
	defer p.close()
	if o.stdin {
		return o.publishLines(ctx, p, in)
	}
	o.m.payload = []byte(o.message)
	for range o.count {
		if err := o.publish(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

func (o *pubOptions) connect(ctx context.Context) (peer, error) {
	ctx, cancel := bounded(ctx, o.timeout)
	defer cancel()
	return connect(ctx, &o.target, func(received) bool { return true })
}

func (o *pubOptions) publish(ctx context.Context, p peer) error {
	ctx, cancel := bounded(ctx, o.timeout)
	defer cancel()
	return p.publish(ctx, o.m)
}

// publishLines publishes every line until there are no more, the connection is lost, or the user has enough.
func (o *pubOptions) publishLines(ctx context.Context, p peer, in io.Reader) error {
	reading, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	lost := make(chan struct{})
	go func() {
		defer close(lost)
		select {
		case err := <-p.lost():
			stop(err)
		case <-reading.Done():
		}
	}()
	err := eachLine(reading, in, func(line []byte) error {
		o.m.payload = line
		return o.publish(ctx, p)
	})
	stop(nil)
	<-lost
	if cause := context.Cause(reading); err == nil && ctx.Err() == nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// maxLine bounds a line of standard input. It is what a gateway takes by default.
const maxLine = 2 << 20

func readError(err error) error {
	if err != nil {
		return fmt.Errorf("read standard input: %w", err)
	}
	return nil
}
