package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

// messageOptions are a message that a service publishes. The flags are those of beeline pub.
type messageOptions struct {
	m           messagingv1.Message
	payload     string
	file        string
	qos         uint8
	expiry      time.Duration
	correlation string
	properties  []string
}

func (o *messageOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&o.m.Topic, "topic", "t", "", "topic")
	f.StringVarP(&o.payload, "message", "m", "", "payload")
	f.StringVarP(&o.file, "file", "f", "", "file with the payload, - for standard input")
	f.Uint8VarP(&o.qos, "qos", "q", 1, "quality of service: 0, 1 or 2")
	f.DurationVar(&o.expiry, "expiry", 0, "message expiry interval, whole seconds")
	f.StringVar(&o.m.ContentType, "content-type", "", "content type")
	f.StringArrayVarP(&o.properties, "property", "P", nil, "user property name=value, any number, in order")
	cmd.MarkFlagsMutuallyExclusive("message", "file")
}

// answerFlags are for messages whose receiver may answer to somebody else.
func (o *messageOptions) answerFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.m.ResponseTopic, "response-topic", "", "response topic")
	f.StringVar(&o.correlation, "correlation", "", "correlation data")
}

// message reads the payload, and is the message.
func (o *messageOptions) message(cmd *cobra.Command) (*messagingv1.Message, error) {
	switch e := o.expiry; {
	case o.m.GetTopic() == "":
		return nil, errors.New("give a --topic")
	case o.qos > 2:
		return nil, errQoS
	case e < 0 || e%time.Second != 0 || e/time.Second > math.MaxUint32:
		return nil, errors.New("--expiry: whole seconds, like 90s or 5m")
	case e > 0:
		seconds := uint32(e / time.Second)
		o.m.MessageExpirySeconds = &seconds
	}
	o.m.Qos = messagev1.Qos(o.qos + 1)
	if cmd.Flags().Changed("correlation") {
		o.m.CorrelationData = []byte(o.correlation)
	}
	for _, p := range o.properties {
		name, value, ok := strings.Cut(p, "=")
		if !ok {
			return nil, fmt.Errorf("--property %q: want name=value", p)
		}
		o.m.UserProperties = append(o.m.UserProperties, &messagev1.UserProperty{Name: name, Value: value})
	}
	var err error
	switch o.file {
	case "":
		o.m.Payload = []byte(o.payload)
	case "-":
		o.m.Payload, err = io.ReadAll(cmd.InOrStdin())
	default:
		o.m.Payload, err = os.ReadFile(o.file)
	}
	if err != nil {
		return nil, fmt.Errorf("--file: %w", err)
	}
	return &o.m, nil
}

// eachLine calls f with each line of in until there are no more, f fails, or ctx ends, which is no error.
func eachLine(ctx context.Context, in io.Reader, f func(line []byte) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lines := make(chan []byte)
	failed := make(chan error, 1)
	// It ends with its input, which nothing can interrupt: at the latest with the process.
	go func() {
		defer close(lines)
		s := bufio.NewScanner(in)
		s.Buffer(nil, maxLine)
		for s.Scan() {
			select {
			case lines <- []byte(s.Text()):
			case <-ctx.Done():
				return
			}
		}
		failed <- s.Err()
	}()
	for {
		select {
		case line, more := <-lines:
			if !more {
				return readError(<-failed)
			}
			if err := f(line); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// printMessage prints a message that came, for people.
func printMessage(out io.Writer, m *messagingv1.Message) {
	fmt.Fprintf(out, "%s %s\n", m.GetTopic(), m.GetPayload())
}
