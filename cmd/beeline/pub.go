package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
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
	f.DurationVar(&o.m.expiry, "expiry", 0, "message expiry interval (MQTT 5)")
	f.StringVar(&o.m.contentType, "content-type", "", "content type (MQTT 5)")
	f.StringVar(&o.m.responseTopic, "response-topic", "", "response topic (MQTT 5)")
	f.StringVar(&o.m.correlation, "correlation", "", "correlation data (MQTT 5)")
	f.StringArrayVarP(&o.properties, "property", "P", nil, "user property name=value, any number, in order (MQTT 5)")
	f.DurationVar(&o.timeout, "timeout", 30*time.Second, "give up after so long")
	return cmd
}

func (o *pubOptions) run(ctx context.Context, in io.Reader) error {
	if o.m.topic == "" {
		return errNoTopic
	}
	if o.m.qos > 2 {
		return errors.New("--qos: 0, 1 or 2")
	}
	for _, p := range o.properties {
		name, value, ok := strings.Cut(p, "=")
		if !ok {
			return fmt.Errorf("--property %q: want name=value", p)
		}
		o.m.properties = append(o.m.properties, pair{name, value})
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	p, err := connect(ctx, &o.target, func(received) {})
	if err != nil {
		return err
	}
	defer p.close()
	if !o.stdin {
		o.m.payload = []byte(o.message)
		for range o.count {
			if err := p.publish(ctx, o.m); err != nil {
				return err
			}
		}
		return nil
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 2<<20)
	for lines.Scan() {
		o.m.payload = lines.Bytes()
		if err := p.publish(ctx, o.m); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read standard input: %w", err)
	}
	return nil
}
