package publish

import (
	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/broker"
)

// mostReceipts bounds the receipts of one result, so that it fits into a frame: of more only the counts are given.
const mostReceipts = 100_000

// outcomeOf is an outcome as the contract has it.
func outcomeOf(o mesh.ClientOutcome) gatewayv1.Outcome {
	switch o {
	case mesh.ClientAccepted:
		return gatewayv1.Outcome_OUTCOME_ACCEPTED
	case mesh.ClientQueued:
		return gatewayv1.Outcome_OUTCOME_QUEUED
	case mesh.ClientAcked:
		return gatewayv1.Outcome_OUTCOME_ACKED
	case mesh.ClientStored:
		return gatewayv1.Outcome_OUTCOME_STORED
	case mesh.ClientEnded:
		return gatewayv1.Outcome_OUTCOME_ENDED
	case mesh.ClientUnknown:
		return gatewayv1.Outcome_OUTCOME_UNKNOWN
	case mesh.ClientExpired:
		return gatewayv1.Outcome_OUTCOME_EXPIRED
	case mesh.ClientTooLarge:
		return gatewayv1.Outcome_OUTCOME_TOO_LARGE
	case mesh.ClientNoRoom:
		return gatewayv1.Outcome_OUTCOME_NO_ROOM
	case mesh.ClientDeclined:
		return gatewayv1.Outcome_OUTCOME_DECLINED
	}
	return gatewayv1.Outcome_OUTCOME_TIMED_OUT
}

// resultOf is a report as the router gets it.
func resultOf(id uint64, r broker.Report, summary bool) *gatewayv1.Result {
	out := &gatewayv1.Result{RequestId: id, ReasonCode: uint32(r.Code), Unanswered: r.Unanswered}
	if summary || len(r.Receipts) > mostReceipts {
		out.Counts = countsOf(r.Receipts)
		return out
	}
	// One block: a group has thousands of them.
	block := make([]gatewayv1.Receipt, len(r.Receipts))
	out.Receipts = make([]*gatewayv1.Receipt, len(r.Receipts))
	for i := range r.Receipts {
		from, to := &r.Receipts[i], &block[i]
		to.ClientId, to.Outcome, to.Holder, to.Epoch = from.ClientID, outcomeOf(from.Outcome), from.Holder, from.Epoch
		out.Receipts[i] = to
	}
	return out
}

func countsOf(receipts []broker.Receipt) []*gatewayv1.OutcomeCount {
	counts := make(map[gatewayv1.Outcome]uint64)
	for i := range receipts {
		counts[outcomeOf(receipts[i].Outcome)]++
	}
	var out []*gatewayv1.OutcomeCount
	for o := gatewayv1.Outcome_OUTCOME_ACCEPTED; o <= gatewayv1.Outcome_OUTCOME_DECLINED; o++ {
		if n := counts[o]; n > 0 {
			out = append(out, &gatewayv1.OutcomeCount{Outcome: o, Receivers: n})
		}
	}
	return out
}
