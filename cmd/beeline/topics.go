package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
)

func explainTopicCommand() *cobra.Command {
	var o routerOptions
	r := &adminv1.ExplainTopicRequest{}
	cmd := &cobra.Command{
		Use:     "explain TOPIC",
		Short:   "Say who would get a message on a topic, and why a client would not",
		Example: "  beeline explain news/today\n  beeline explain news/today --client-id ann",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Topic = args[0]
			return o.askAdmin(cmd, func(s adminv1.AdminServiceClient) error {
				x, err := s.ExplainTopic(cmd.Context(), r)
				if err != nil {
					return fmt.Errorf("explain: %w", err)
				}
				return o.show(cmd, x, func(out io.Writer) error { return printExplanation(out, x) })
			})
		},
	}
	o.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&r.ClientId, "client-id", "", "also say of this client whether it would get the message")
	f.Uint32Var(&r.MaxReceivers, "max", 100, "at most so many receivers")
	completes(cmd, &o, "client-id", clientIDs)
	return cmd
}

func printExplanation(out io.Writer, x *adminv1.ExplainTopicResponse) error {
	rows := [][]string{{"PROCESS", "FILTER", "SHARED BY", "MEMBERS THERE", "DURABLE"}}
	for _, r := range x.GetRoutes() {
		members := "-"
		if r.GetShareGroup() != "" {
			members = strconv.FormatUint(uint64(r.GetMembers()), 10)
		}
		rows = append(rows, []string{r.GetIncarnation(), r.GetFilter(), or(r.GetShareGroup()), members, yes(r.GetDurable())})
	}
	if len(rows) > 1 {
		if err := errors.Join(table(out, rows...), newLine(out)); err != nil {
			return err
		}
	}
	rows = [][]string{{"CLIENT", "HOLDER", "FILTERS", "QOS", "AWAY", ""}}
	for _, r := range x.GetReceivers() {
		note := ""
		if r.GetOneOfMany() {
			note = "or another member"
		}
		rows = append(rows, []string{r.GetClientId(), r.GetHolder(), or(strings.Join(r.GetFilters(), " ")), qosText(r.GetQos()), yes(r.GetAway()), note})
	}
	if len(rows) > 1 {
		if err := table(out, rows...); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "%d receivers\n", x.GetReceiversTotal())
	for _, t := range x.GetTroubles() {
		fmt.Fprintln(out, "receivers are missing:", t)
	}
	if x.GetClientAnswer() != "" {
		fmt.Fprintln(out, x.GetClientAnswer())
	}
	return nil
}

func newLine(out io.Writer) error {
	_, err := fmt.Fprintln(out)
	return err
}

func retainedCommand() *cobra.Command {
	var o routerOptions
	cmd := &cobra.Command{
		Use:     "retained",
		Short:   "List and delete retained messages",
		Example: "  beeline retained list -t 'meters/#' --payload\n  beeline retained delete meters/7/state",
	}
	o.flags(cmd)
	cmd.AddCommand(listRetainedCommand(&o), deleteRetainedCommand(&o))
	return cmd
}

func listRetainedCommand(o *routerOptions) *cobra.Command {
	r := &adminv1.ListRetainedRequest{PageSize: 1000}
	cmd := &cobra.Command{
		Use: "list", Short: "List retained messages", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.askAdmin(cmd, func(s adminv1.AdminServiceClient) error {
				all := &adminv1.ListRetainedResponse{}
				err := pages(func(token string) (string, error) {
					r.PageToken = token
					l, err := s.ListRetained(cmd.Context(), r)
					all.Messages = append(all.Messages, l.GetMessages()...)
					return l.GetNextPageToken(), err
				})
				if err != nil {
					return fmt.Errorf("list: %w", err)
				}
				return o.show(cmd, all, func(out io.Writer) error { return printRetained(out, all.GetMessages(), r.GetWithPayload()) })
			})
		},
	}
	cmd.Flags().StringVarP(&r.Filter, "topic", "t", "", "topic filter; all topics without it")
	cmd.Flags().BoolVar(&r.WithPayload, "payload", false, "with their payloads")
	return cmd
}

func printRetained(out io.Writer, all []*adminv1.RetainedMessage, payload bool) error {
	rows := [][]string{{"TOPIC", "QOS", "BYTES", "PUBLISHER", "EXPIRES"}}
	if payload {
		rows[0] = append(rows[0], "PAYLOAD")
	}
	for _, m := range all {
		expires := "-"
		if m.ExpiresInMs != nil { //nolint:protogetter // absent is not 0
			expires = "in " + (time.Duration(m.GetExpiresInMs()) * time.Millisecond).Round(time.Second).String()
		}
		row := []string{m.GetTopic(), qosText(m.GetQos()), strconv.FormatUint(m.GetPayloadBytes(), 10), or(m.GetPublisher()), expires}
		if payload {
			row = append(row, fmt.Sprintf("%q", m.GetPayload()))
		}
		rows = append(rows, row)
	}
	return table(out, rows...)
}

func deleteRetainedCommand(o *routerOptions) *cobra.Command {
	return &cobra.Command{
		Use: "delete TOPIC...", Short: "Delete the retained messages of topics", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.askAdmin(cmd, func(s adminv1.AdminServiceClient) error {
				for _, t := range args {
					if _, err := s.DeleteRetained(cmd.Context(), &adminv1.DeleteRetainedRequest{Topic: t}); err != nil {
						return fmt.Errorf("delete %s: %w", t, err)
					}
				}
				return nil
			})
		},
	}
}

func traceCommand() *cobra.Command {
	var o routerOptions
	r := &adminv1.TraceRequest{}
	cmd := &cobra.Command{
		Use:     "trace",
		Short:   "Follow messages across the gateways, live",
		Long:    "Print each step of every message that a client publishes or gets, or that is on topics that match a filter, until it is interrupted.",
		Example: "  beeline trace --client meter-7\n  beeline trace -t 'alerts/#'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.askAdmin(cmd, func(s adminv1.AdminServiceClient) error {
				steps, err := s.Trace(cmd.Context(), r)
				if err != nil {
					return fmt.Errorf("trace: %w", err)
				}
				if _, err := steps.Header(); err == nil {
					fmt.Fprintln(cmd.ErrOrStderr(), "ready")
				}
				for {
					x, err := steps.Recv()
					switch {
					case errors.Is(err, io.EOF), status.Code(err) == codes.Canceled:
						return nil
					case err != nil:
						return fmt.Errorf("trace: %w", err)
					}
					if err := o.showLine(cmd, x, func(out io.Writer) { printStep(out, x) }); err != nil {
						return err
					}
				}
			})
		},
	}
	o.flags(cmd)
	cmd.Flags().StringVar(&r.ClientId, "client", "", "messages that this client publishes or gets")
	cmd.Flags().StringVarP(&r.Filter, "topic", "t", "", "messages on topics that match this filter")
	completes(cmd, &o, "client", clientIDs)
	cmd.MarkFlagsOneRequired("client", "topic")
	return cmd
}

func printStep(out io.Writer, x *adminv1.TraceResponse) {
	if x.GetLeftOut() > 0 {
		fmt.Fprintf(out, "(%d steps are left out)\n", x.GetLeftOut())
	}
	if x.GetTrouble() != "" {
		fmt.Fprintf(out, "%s is not followed: %s\n", x.GetIncarnation(), x.GetTrouble())
		return
	}
	fmt.Fprintf(out, "%s  %s  %-9s  %s/%d  %s  %s -> %s  %s\n", x.GetTime().AsTime().Local().Format("15:04:05.000"), x.GetIncarnation(), word(x.GetStep()),
		x.GetMessageId().GetOrigin(), x.GetMessageId().GetSequence(), x.GetTopic(), or(x.GetPublisher()), or(x.GetOther()), x.GetDetail())
}
