package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/beeline-mqtt/beeline/api/beeline"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

// publishOptions are the flags of beeline publish.
type publishOptions struct {
	router  routerOptions
	message messageOptions
	lines   bool
	resend  bool
}

func publishCommand() *cobra.Command {
	var o publishOptions
	cmd := &cobra.Command{
		Use:   "publish",
		Short: "Publish messages, as a service does",
		Long: "Publish a message through a router, or with --stdin one for each line of standard input, over one stream, and wait until every " +
			"receiver's gateway has it. beeline pub publishes as an MQTT client.",
		Example: "  beeline publish -t news/today -m hello\n  generate | beeline publish -t readings --stdin",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := o.message.message(cmd)
			if err != nil {
				return err
			}
			return o.router.connect(cmd, func(c *beeline.Client) error {
				if o.lines {
					return o.publishLines(cmd, c, m)
				}
				matched, err := c.Publish(cmd.Context(), m)
				if err != nil {
					return err
				}
				return o.router.show(cmd, &messagingv1.PublishResponse{Matched: matched}, func(out io.Writer) error {
					if !matched {
						fmt.Fprintln(out, "taken, and nobody has subscribed to it")
					}
					return nil
				})
			})
		},
	}
	o.router.flags(cmd)
	o.message.flags(cmd)
	o.message.answerFlags(cmd)
	f := cmd.Flags()
	f.BoolVarP(&o.message.m.Retain, "retain", "r", false, "the topic keeps the message")
	f.BoolVar(&o.lines, "stdin", false, "one message for each line of standard input")
	f.BoolVar(&o.resend, "resend", false, "with --stdin: publish again what has no result when the stream breaks; some messages may come twice")
	cmd.MarkFlagsMutuallyExclusive("stdin", "message", "file")
	return cmd
}

// publishLines publishes a message like m for each line, and says of each that was not taken why.
func (o *publishOptions) publishLines(cmd *cobra.Command, c *beeline.Client, like *messagingv1.Message) error {
	p := c.Publisher(beeline.PublisherOptions{Resend: o.resend})
	pending := make(chan *beeline.Pending, 1) // the publisher bounds how many are without a result
	failed := make(chan int, 1)
	go func() {
		n, line := 0, 0
		for x := range pending {
			line++
			// It ends with the publisher, which gives each a result.
			if _, err := x.Wait(context.WithoutCancel(cmd.Context())); err != nil {
				n++
				fmt.Fprintf(cmd.ErrOrStderr(), "line %d: %v\n", line, err)
			}
		}
		failed <- n
	}()
	err := eachLine(cmd.Context(), cmd.InOrStdin(), func(line []byte) error {
		m := &messagingv1.Message{
			Topic: like.GetTopic(), Payload: line, Qos: like.GetQos(), Retain: like.GetRetain(), MessageExpirySeconds: like.MessageExpirySeconds, //nolint:protogetter // absent is not 0
			ContentType: like.GetContentType(), ResponseTopic: like.GetResponseTopic(), CorrelationData: like.GetCorrelationData(), UserProperties: like.GetUserProperties(),
		}
		x, err := p.Publish(cmd.Context(), m)
		if err == nil {
			pending <- x
		}
		return err
	})
	err = errors.Join(err, p.Close(cmd.Context()))
	close(pending)
	if n := <-failed; n > 0 {
		return errors.Join(err, fmt.Errorf("%d messages were not taken, or it is not known", n))
	}
	return err
}
