package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
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
	clean   bool
	expiry  time.Duration
	answer  string
	answers bool // there is an answer, which may be empty
}

func subCommand() *cobra.Command {
	var o subOptions
	cmd := &cobra.Command{
		Use:   "sub",
		Short: "Subscribe and print what comes",
		Long: "Subscribe to topic filters and print every message. Without a filter only messages for this client id come: " +
			"those published to p2p/<client id>/...\n\n" +
			"With --clean=false the session stays when the command ends: what is published meanwhile at QoS 1 and 2 comes when " +
			"it is run again with the same --id, at any gateway. A message is acknowledged when it has been printed.\n\n" +
			"With --answer it is a device for trying commands: what asks for an answer gets this one.",
		Example: `  beeline sub -t 'news/#'
  beeline sub -u mqtt://127.0.0.1:18833 -i ann            # p2p/ann/...
  beeline sub -i ann --clean=false -t 'news/#' -q 2       # keeps the session
  beeline sub -t '$share/workers/jobs/+' -q 1 -o json
  beeline sub -i meter-1 --answer '42 kWh'                # beeline command --client meter-1 -t read`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.answers = cmd.Flags().Changed("answer")
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
	f.BoolVar(&o.clean, "clean", true, "begin a new session; --clean=false goes on with the one that --id has, and keeps it")
	f.DurationVar(&o.expiry, "session-expiry", 0,
		"how long the session stays when this ends, whole seconds (MQTT 5; with --clean=false the default is as long as the broker lets it)")
	f.StringVar(&o.answer, "answer", "",
		"publish this, at QoS 1, to the Response Topic of each message that has one, with its Correlation Data (MQTT 5)")
	return cmd
}

// check reports the first flag that cannot be.
func (o *subOptions) check() error {
	if len(o.topics) == 0 && o.target.clientID == "" {
		return errors.New("give a --topic, or an --id to which others can publish under p2p/")
	}
	switch e := o.expiry; {
	case o.qos > 2:
		return errQoS
	case o.count < 0:
		return errors.New("--count: not negative")
	case o.timeout < 0:
		return errTimeout
	case e < 0 || e%time.Second != 0 || e/time.Second > math.MaxUint32:
		return errors.New("--session-expiry: whole seconds, like 90s or 24h")
	case (!o.clean || e > 0) && o.target.clientID == "":
		return errors.New("--clean=false and --session-expiry: give an --id, by which the session is found again")
	}
	if o.output != "text" && o.output != "payload" && o.output != "json" {
		return fmt.Errorf("--output %q: text, payload or json", o.output)
	}
	v5, err := o.target.v5()
	if err == nil && !v5 && o.answers {
		return errors.New("--answer needs --mqtt-version 5: in 3.1.1 nothing says where to")
	}
	if err == nil && !v5 && o.expiry > 0 {
		return errors.New("--session-expiry needs --mqtt-version 5; in 3.1.1 --clean=false keeps the session")
	}
	return err
}

// session sets what the target says about its session.
func (o *subOptions) session() {
	o.target.resume, o.target.sessionExpiry = !o.clean, uint32(o.expiry/time.Second)
	if !o.clean && o.expiry == 0 {
		o.target.sessionExpiry = math.MaxUint32
	}
}

// arriving hands messages from a connection to whoever prints them, one after the other.
type arriving struct {
	messages chan received
	printed  chan struct{} // one for each message
	over     chan struct{} // closed when no more are printed
}

// deliver returns when the message has been printed, or says that it will not be: a session has to keep it.
func (a arriving) deliver(r received) (taken bool) {
	select {
	case a.messages <- r:
	case <-a.over:
		return false
	}
	select {
	case <-a.printed:
		return true
	case <-a.over:
		return false
	}
}

func (o *subOptions) run(ctx context.Context, out, notes io.Writer) error {
	if err := o.check(); err != nil {
		return err
	}
	o.session()
	if o.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("not done within %v", o.timeout))
		defer cancel()
	}
	a := arriving{messages: make(chan received), printed: make(chan struct{}), over: make(chan struct{})}
	p, err := connect(ctx, &o.target, a.deliver)
	if err != nil {
		return err
	}
	defer func() {
		close(a.over) // first: closing waits for the message that is being delivered
		p.close()
	}()
	return o.follow(ctx, p, a, out, notes)
}

// follow prints what comes, from the beginning: a session may have much for us before our subscriptions are answered.
func (o *subOptions) follow(ctx context.Context, p peer, a arriving, out, notes io.Writer) error {
	subscribing, cancel := context.WithCancel(ctx)
	inForce := make(chan error, 1)
	var running sync.WaitGroup
	running.Go(func() {
		if len(o.topics) == 0 {
			inForce <- nil
			return
		}
		inForce <- p.subscribe(subscribing, o.topics, o.qos)
	})
	defer func() {
		cancel()
		running.Wait()
	}()
	// Until then subscribe itself ends with the context, and with the connection.
	var done <-chan struct{}
	var lost <-chan error
	for n := 0; o.count == 0 || n < o.count; {
		select {
		case err := <-inForce:
			if err != nil {
				return err
			}
			fmt.Fprintln(notes, "ready")
			done, lost = ctx.Done(), p.lost()
		case r := <-a.messages:
			if err := write(out, o.output, r); err != nil {
				return err
			}
			a.printed <- struct{}{}
			n++
			if err := o.reply(ctx, p, r); err != nil {
				return err
			}
		case err := <-lost:
			return err
		case <-done:
			if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
				return cause
			}
			return nil
		}
	}
	return nil
}

// reply answers what asks for an answer, if there is one to give.
func (o *subOptions) reply(ctx context.Context, p peer, r received) error {
	if !o.answers || r.ResponseTopic == "" {
		return nil
	}
	m := sent{topic: r.ResponseTopic, correlation: string(r.Correlation), payload: []byte(o.answer), qos: 1}
	if err := p.publish(ctx, m); err != nil {
		return fmt.Errorf("--answer: %w", err)
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
