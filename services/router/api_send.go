package router

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/topic"
)

const (
	sendTimeout = 5000 // milliseconds
	mostTimeout = 600_000
	// sendGrace is how long after its time a gateway may answer before it counts as lost.
	sendGrace = 2 * time.Second
)

// Send implements MessagingService.
func (m *messaging) Send(ctx context.Context, r *messagingv1.SendRequest) (*messagingv1.SendResponse, error) {
	p, err := sending(r)
	if err != nil {
		return nil, err
	}
	if user := r.GetReceiver().GetUser(); user != "" {
		if p.ClientIds, err = m.clientsOf(ctx, user); err != nil {
			return nil, err
		}
		if len(p.GetClientIds()) == 0 {
			return nobody(), nil
		}
	}
	within := time.Duration(p.GetReport().GetWithinMs()) * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, within+sendGrace)
	defer cancel()
	result, err := m.desk.Publish(ctx, p)
	if err != nil {
		return nil, statusOf(err)
	}
	known := len(result.GetReceipts())+len(result.GetCounts()) > 0
	if code := packet.Code(result.GetReasonCode()); code.Failure() && code != packet.UnspecifiedError && !known {
		return nil, failureOf(code)
	}
	// Who accepts does not wait for what is known of all members, unless nothing is known of any.
	accepts := r.GetWait() == messagingv1.Wait_WAIT_ACCEPTED
	if group := r.GetReceiver().GetGroup(); group != "" && len(result.GetCounts()) == 0 && (!accepts || !known) {
		missed, err := m.missed(ctx, group, result)
		if err != nil {
			return nil, err
		}
		if missed == nil {
			return nobody(), nil
		}
		for _, x := range missed {
			if accepts {
				x.Outcome = gatewayv1.Outcome_OUTCOME_ACCEPTED
			}
		}
		result.Receipts = append(result.Receipts, missed...)
	}
	return sent(result, r.GetSummaryOnly()), nil
}

// sending is a Send as it goes to a gateway.
func sending(r *messagingv1.SendRequest) (*gatewayv1.Publication, error) {
	switch {
	case r.GetMessage() == nil:
		return nil, status.Error(codes.InvalidArgument, "message: must be given")
	case r.GetMessage().GetTopic() == "":
		return nil, status.Error(codes.InvalidArgument, "message.topic: must be given")
	case r.GetMessage().GetRetain():
		return nil, status.Error(codes.InvalidArgument, "message.retain: what is sent to somebody is not retained")
	case r.GetTimeoutMs() > mostTimeout:
		return nil, status.Errorf(codes.InvalidArgument, "timeout_ms: at most %d", mostTimeout)
	}
	address, err := addressOf(r.GetReceiver(), r.GetMessage().GetTopic())
	if err != nil {
		return nil, err
	}
	report := &gatewayv1.Report{WithinMs: r.GetTimeoutMs()}
	if report.GetWithinMs() == 0 {
		report.WithinMs = sendTimeout
	}
	_, alone := r.GetReceiver().GetReceiver().(*messagingv1.Receiver_ClientId)
	_, all := r.GetReceiver().GetReceiver().(*messagingv1.Receiver_Group)
	// Of a group it is looked who has not got it, by name.
	report.Summary = r.GetSummaryOnly() && !alone && !all
	switch r.GetWait() {
	case messagingv1.Wait_WAIT_UNSPECIFIED, messagingv1.Wait_WAIT_DELIVERED:
		report.Wait = gatewayv1.Report_WAIT_DELIVERED
	case messagingv1.Wait_WAIT_ACCEPTED:
		report.Wait = gatewayv1.Report_WAIT_ACCEPTED
	case messagingv1.Wait_WAIT_ACKNOWLEDGED:
		report.Wait = gatewayv1.Report_WAIT_ACKNOWLEDGED
	default:
		return nil, status.Error(codes.InvalidArgument, "wait: not known")
	}
	p := &gatewayv1.Publication{Message: new(messagev1.Message), Report: report}
	setMessage(p.GetMessage(), r.GetMessage(), address)
	return p, nil
}

// addressOf is the topic under which a receiver gets a message.
func addressOf(r *messagingv1.Receiver, rest string) (string, error) {
	var name, address string
	switch x := r.GetReceiver().(type) {
	case *messagingv1.Receiver_ClientId:
		name, address = x.ClientId, topic.Direct(x.ClientId, rest)
	case *messagingv1.Receiver_User:
		name, address = x.User, topic.User(x.User, rest)
	case *messagingv1.Receiver_Group:
		name, address = x.Group, topic.Group(x.Group, rest)
	}
	if name == "" {
		return "", status.Error(codes.InvalidArgument, "receiver: must name a client, a user or a group")
	}
	return address, nil
}

// sent is the answer to a Send.
func sent(r *gatewayv1.Result, summary bool) *messagingv1.SendResponse {
	counts := make(map[messagingv1.Outcome]uint64)
	out := &messagingv1.SendResponse{}
	if !summary {
		out.Receipts = make([]*messagingv1.Receipt, 0, len(r.GetReceipts()))
	}
	for _, x := range r.GetReceipts() {
		receipt := receiptOf(x)
		counts[receipt.GetOutcome()]++
		if !summary {
			out.Receipts = append(out.Receipts, receipt)
		}
	}
	for _, x := range r.GetCounts() {
		o, _ := outcomeOf(x.GetOutcome())
		counts[o] += x.GetReceivers()
	}
	for o := messagingv1.Outcome_OUTCOME_ACCEPTED; o <= messagingv1.Outcome_OUTCOME_REFUSED; o++ {
		if n := counts[o]; n > 0 {
			out.Counts = append(out.Counts, &messagingv1.OutcomeCount{Outcome: o, Receivers: n})
		}
	}
	return out
}

func receiptOf(r *gatewayv1.Receipt) *messagingv1.Receipt {
	o, reason := outcomeOf(r.GetOutcome())
	return &messagingv1.Receipt{ClientId: r.GetClientId(), Outcome: o, Holder: r.GetHolder(), Epoch: r.GetEpoch(), Reason: reason}
}

// outcomeOf is an outcome as callers see it, and why it is that, where that is not plain.
func outcomeOf(o gatewayv1.Outcome) (messagingv1.Outcome, string) {
	switch o {
	case gatewayv1.Outcome_OUTCOME_ACCEPTED:
		return messagingv1.Outcome_OUTCOME_ACCEPTED, ""
	case gatewayv1.Outcome_OUTCOME_QUEUED:
		return messagingv1.Outcome_OUTCOME_DELIVERED, ""
	case gatewayv1.Outcome_OUTCOME_ACKED:
		return messagingv1.Outcome_OUTCOME_ACKNOWLEDGED, ""
	case gatewayv1.Outcome_OUTCOME_STORED:
		return messagingv1.Outcome_OUTCOME_QUEUED, ""
	case gatewayv1.Outcome_OUTCOME_ENDED:
		return messagingv1.Outcome_OUTCOME_OFFLINE, ""
	case gatewayv1.Outcome_OUTCOME_UNKNOWN:
		return messagingv1.Outcome_OUTCOME_UNKNOWN, ""
	case gatewayv1.Outcome_OUTCOME_EXPIRED:
		return messagingv1.Outcome_OUTCOME_TIMED_OUT, "the message expired before it could be sent"
	case gatewayv1.Outcome_OUTCOME_TOO_LARGE:
		return messagingv1.Outcome_OUTCOME_REFUSED, "the message is larger than the client takes"
	case gatewayv1.Outcome_OUTCOME_NO_ROOM:
		return messagingv1.Outcome_OUTCOME_REFUSED, "a queue or inbox on its way is full"
	case gatewayv1.Outcome_OUTCOME_DECLINED:
		return messagingv1.Outcome_OUTCOME_REFUSED, "the device answered with a failure"
	}
	return messagingv1.Outcome_OUTCOME_TIMED_OUT, "the time was over, or a gateway was lost, before anything was heard of it"
}
