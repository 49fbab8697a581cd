package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
)

// show prints an answer: text does so for people.
func (o *routerOptions) show(cmd *cobra.Command, m proto.Message, text func(out io.Writer) error) error {
	if o.output != "json" {
		return text(cmd.OutOrStdout())
	}
	line, err := jsonLine(m)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, line, "", "  "); err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	fmt.Fprintln(cmd.OutOrStdout(), b.String())
	return nil
}

// showLine is show for one of many that come: JSON on one line.
func (o *routerOptions) showLine(cmd *cobra.Command, m proto.Message, text func(out io.Writer)) error {
	if o.output != "json" {
		text(cmd.OutOrStdout())
		return nil
	}
	line, err := jsonLine(m)
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s\n", line)
	return nil
}

// jsonLine is a message as REST has it, on one line, and the same bytes each time.
func jsonLine(m proto.Message) ([]byte, error) {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	var b bytes.Buffer
	if err := json.Compact(&b, text); err != nil { // protojson puts blanks in at random
		return nil, fmt.Errorf("encode: %w", err)
	}
	return b.Bytes(), nil
}

// table prints rows of columns, the first being the head.
func table(out io.Writer, rows ...[]string) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	return w.Flush()
}

// or is a text, or what stands for none.
func or(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// word is the value of an enum without its prefix: OUTCOME_TIMED_OUT is "timed out".
func word(e protoreflect.Enum) string {
	d := e.Descriptor()
	v := d.Values().ByNumber(e.Number())
	if v == nil {
		return fmt.Sprint(e.Number())
	}
	first := string(d.Values().ByNumber(0).Name())
	name := strings.TrimPrefix(string(v.Name()), strings.TrimSuffix(first, "UNSPECIFIED"))
	return strings.ToLower(strings.ReplaceAll(name, "_", " "))
}

// qosText is the number of a quality of service.
func qosText(q messagev1.Qos) string {
	if q == messagev1.Qos_QOS_UNSPECIFIED {
		return "-"
	}
	return fmt.Sprint(int32(q) - 1)
}

// yes is yes or no.
func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// moment is a time for people, in their zone.
func moment(t *timestamppb.Timestamp) string {
	if t == nil {
		return "-"
	}
	return t.AsTime().Local().Format(time.DateTime)
}

// pages asks for one page after the other until there are no more.
func pages(ask func(token string) (next string, err error)) error {
	for token := ""; ; {
		next, err := ask(token)
		if err != nil || next == "" {
			return err
		}
		token = next
	}
}
