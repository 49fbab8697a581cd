package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
)

// subOptions are the flags of beeline sub.
type subOptions struct {
	target  target
	topics  []string
	qos     byte
	count   int
	output  string
	timeout time.Duration
}

func subCommand() *cobra.Command {
	var o subOptions
	cmd := &cobra.Command{
		Use:   "sub",
		Short: "Subscribe and print what comes",
		Long: "Subscribe to topic filters and print every message. Without a filter only messages for this client id come: " +
			"those published to p2p/<client id>/...",
		Example: `  beeline sub -t 'news/#'
  beeline sub -u mqtt://127.0.0.1:18833 -i ann            # p2p/ann/...
  beeline sub -t '$share/workers/jobs/+' -q 1 -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	o.target.flags(f)
	f.StringArrayVarP(&o.topics, "topic", "t", nil, "topic filter, any number; $share/<group>/<filter> shares")
	f.Uint8VarP(&o.qos, "qos", "q", 0, "quality of service: 0, 1 or 2")
	f.IntVarP(&o.count, "count", "n", 0, "end after so many messages; 0: never")
	f.StringVarP(&o.output, "output", "o", "text", "text (topic and payload), payload, or json")
	f.DurationVar(&o.timeout, "timeout", 0, "give up, with an error, after so long; 0: never")
	return cmd
}

func (o *subOptions) run(ctx context.Context, out, notes io.Writer) error {
	if len(o.topics) == 0 && o.target.clientID == "" {
		return errors.New("give a --topic, or an --id to which others can publish under p2p/")
	}
	switch {
	case o.qos > 2:
		return errQoS
	case o.count < 0:
		return errors.New("--count: not negative")
	case o.timeout < 0:
		return errTimeout
	}
	if o.output != "text" && o.output != "payload" && o.output != "json" {
		return fmt.Errorf("--output %q: text, payload or json", o.output)
	}
	if o.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("not done within %v", o.timeout))
		defer cancel()
	}
	messages, over := make(chan received), make(chan struct{})
	p, err := connect(ctx, &o.target, func(r received) {
		select {
		case messages <- r:
		case <-over:
		}
	})
	if err != nil {
		return err
	}
	defer func() {
		close(over) // first: closing waits for the message that is being delivered
		p.close()
	}()
	if len(o.topics) > 0 {
		if err := p.subscribe(ctx, o.topics, o.qos); err != nil {
			return err
		}
	}
	fmt.Fprintln(notes, "ready")
	for n := 0; o.count == 0 || n < o.count; n++ {
		select {
		case r := <-messages:
			if err := write(out, o.output, r); err != nil {
				return err
			}
		case err := <-p.lost():
			return err
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
				return cause
			}
			return nil
		}
	}
	return nil
}

func write(out io.Writer, format string, r received) error {
	var err error
	switch format {
	case "json":
		err = json.NewEncoder(out).Encode(r)
	case "payload":
		_, err = fmt.Fprintln(out, r.Payload)
	default:
		_, err = fmt.Fprintln(out, r.Topic, r.Payload)
	}
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}
