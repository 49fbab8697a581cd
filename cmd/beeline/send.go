package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/beeline-mqtt/beeline/api/beeline"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

// errNotEverywhere is that a message was sent, and that not every receiver has it or gets it.
var errNotEverywhere = errors.New("not every receiver has the message")

// waits are the values of --wait.
func waits() map[string]messagingv1.Wait {
	return map[string]messagingv1.Wait{
		"accepted": messagingv1.Wait_WAIT_ACCEPTED, "delivered": messagingv1.Wait_WAIT_DELIVERED, "acknowledged": messagingv1.Wait_WAIT_ACKNOWLEDGED,
	}
}

// sendOptions are the flags of beeline send.
type sendOptions struct {
	router              routerOptions
	message             messageOptions
	client, user, group string
	wait                string
	how                 beeline.SendOptions
}

func sendCommand() *cobra.Command {
	var o sendOptions
	cmd := &cobra.Command{
		Use:   "send",
		Short: "Send a message to a client, a user or a group, and say what became of it",
		Long: "Send a message to a client, to all clients of a user or to a group. No subscription is needed. What became of it is said " +
			"for each receiver. It ends with status 2 if some receiver neither has the message nor gets it later.",
		Example: "  beeline send --client ann -t note -m hello --wait acknowledged\n" +
			"  beeline send --group drivers -t alert -f alert.json --content-type application/json --summary",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	o.router.flags(cmd)
	o.message.flags(cmd)
	o.message.answerFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.client, "client", "", "the client with this id gets it as p2p/<id>/<topic>")
	f.StringVar(&o.user, "user", "", "all clients of this user get it as user/<user>/<topic>")
	f.StringVar(&o.group, "group", "", "all members of this group get it as group/<group>/<topic>")
	f.StringVar(&o.wait, "wait", "delivered", "until it is accepted, delivered or acknowledged (by the device)")
	f.DurationVar(&o.how.Timeout, "timeout", 5*time.Second, "after this time say what is known")
	f.BoolVar(&o.how.SummaryOnly, "summary", false, "only how many receivers there are of each outcome")
	choices(cmd, "wait", "accepted", "delivered", "acknowledged")
	completes(cmd, &o.router, "client", clientIDs)
	completes(cmd, &o.router, "group", groupNames)
	cmd.MarkFlagsOneRequired("client", "user", "group")
	cmd.MarkFlagsMutuallyExclusive("client", "user", "group")
	return cmd
}

func (o *sendOptions) run(cmd *cobra.Command) error {
	m, err := o.message.message(cmd)
	if err != nil {
		return err
	}
	var known bool
	if o.how.Wait, known = waits()[o.wait]; !known {
		return fmt.Errorf("--wait %q: accepted, delivered or acknowledged", o.wait)
	}
	to := beeline.ToClient(o.client)
	switch {
	case o.user != "":
		to = beeline.ToUser(o.user)
	case o.group != "":
		to = beeline.ToGroup(o.group)
	}
	return o.router.connect(cmd, func(c *beeline.Client) error {
		r, err := c.Send(cmd.Context(), to, m, o.how)
		if err != nil {
			return err
		}
		if err := o.router.show(cmd, r, func(out io.Writer) error { return printReceipts(out, r) }); err != nil {
			return err
		}
		for _, n := range r.GetCounts() {
			if !has(n.GetOutcome()) {
				return errNotEverywhere
			}
		}
		return nil
	})
}

// has reports whether a receiver has the message, gets it later, or may: it was not waited for.
func has(o messagingv1.Outcome) bool {
	switch o {
	case messagingv1.Outcome_OUTCOME_ACCEPTED, messagingv1.Outcome_OUTCOME_DELIVERED,
		messagingv1.Outcome_OUTCOME_ACKNOWLEDGED, messagingv1.Outcome_OUTCOME_QUEUED:
		return true
	}
	return false
}

func printReceipts(out io.Writer, r *messagingv1.SendResponse) error {
	rows := [][]string{{"CLIENT", "OUTCOME", "HOLDER", "EPOCH", ""}}
	for _, x := range r.GetReceipts() {
		rows = append(rows, []string{x.GetClientId(), word(x.GetOutcome()), or(x.GetHolder()), strconv.FormatUint(x.GetEpoch(), 10), x.GetReason()})
	}
	if len(rows) > 1 {
		if err := table(out, rows...); err != nil {
			return err
		}
	}
	counts := []string{}
	for _, n := range r.GetCounts() {
		counts = append(counts, fmt.Sprintf("%d %s", n.GetReceivers(), word(n.GetOutcome())))
	}
	if len(counts) == 0 {
		counts = append(counts, "no receivers")
	}
	fmt.Fprintln(out, strings.Join(counts, ", "))
	return nil
}

func commandCommand() *cobra.Command {
	var o routerOptions
	var message messageOptions
	var client string
	var how beeline.CommandOptions
	cmd := &cobra.Command{
		Use:   "command",
		Short: "Send a command to a client and print its answer",
		Long: "Send a message to a client as p2p/<id>/<topic>, wait until it answers, and print what it answers. A device of MQTT 5 publishes " +
			"the answer to the message's response topic, with its correlation data. For one of MQTT 3.1.1 --reply-topic says where it answers.",
		Example: "  beeline command --client meter-7 -t read\n" +
			"  beeline command --client old-meter -t read --reply-topic meters/old-meter/read/answer --timeout 20s",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := message.message(cmd)
			if err != nil {
				return err
			}
			return o.connect(cmd, func(c *beeline.Client) error {
				r, err := c.Command(cmd.Context(), client, m, how)
				if err != nil {
					return err
				}
				return o.show(cmd, r, func(out io.Writer) error {
					fmt.Fprintf(out, "%s\n", r.GetMessage().GetPayload())
					return nil
				})
			})
		},
	}
	o.flags(cmd)
	message.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&client, "client", "", "client id")
	f.StringVar(&how.ReplyTopic, "reply-topic", "", "topic to which a device of MQTT 3.1.1 answers")
	f.DurationVar(&how.Timeout, "timeout", 5*time.Second, "how long the answer may take")
	completes(cmd, &o, "client", clientIDs)
	cmd.MarkFlagsOneRequired("client")
	return cmd
}
