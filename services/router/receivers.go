package router

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
)

// nobody is the answer to a Send to a user or a group that is not known.
func nobody() *messagingv1.SendResponse {
	return &messagingv1.SendResponse{Counts: []*messagingv1.OutcomeCount{{Outcome: messagingv1.Outcome_OUTCOME_UNKNOWN, Receivers: 1}}}
}

// clientsOf are the clients that have connected as a user, as the session service knows them.
func (m *messaging) clientsOf(ctx context.Context, user string) ([]string, error) {
	_, conn, err := m.fleet.AwaitSession(ctx)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	r, err := sessionv1.NewSessionServiceClient(conn).ListUserClients(ctx, &sessionv1.ListUserClientsRequest{User: user})
	if err != nil {
		return nil, err // a status, and the caller's to see
	}
	return r.GetClientIds(), nil
}

// missed are receipts for the clients that are members of a group and are not among the receivers of a message: they are
// away, and nothing is kept for them, or where they are has not answered. nil: there is no such group, or it is empty. Clients of users that are members are
// known as receivers only.
func (m *messaging) missed(ctx context.Context, group string, result *gatewayv1.Result) ([]*gatewayv1.Receipt, error) {
	_, conn, err := m.fleet.AwaitSession(ctx)
	if err != nil {
		return nil, status.Error(codes.Unavailable, "the message has been published; who has missed it is not known: "+err.Error())
	}
	got := make(map[string]struct{}, len(result.GetReceipts()))
	for _, r := range result.GetReceipts() {
		got[r.GetClientId()] = struct{}{}
	}
	var missed []*gatewayv1.Receipt
	if len(got) > 0 {
		missed = []*gatewayv1.Receipt{}
	}
	outcome := gatewayv1.Outcome_OUTCOME_ENDED
	if len(result.GetUnanswered()) > 0 {
		outcome = gatewayv1.Outcome_OUTCOME_TIMED_OUT
	}
	groups := messagingv1.NewGroupServiceClient(conn)
	for token, first := "", true; first || token != ""; first = false {
		page, err := groups.ListMembers(ctx, &messagingv1.ListMembersRequest{Group: group, PageSize: 10_000, PageToken: token})
		switch {
		case status.Code(err) == codes.NotFound:
			return missed, nil
		case err != nil:
			return nil, status.Errorf(status.Code(err), "the message has been published; who has missed it is not known: %v", err)
		}
		for _, member := range page.GetMembers() {
			if missed == nil {
				missed = []*gatewayv1.Receipt{}
			}
			id := member.GetClientId()
			if _, has := got[id]; id != "" && !has {
				missed = append(missed, &gatewayv1.Receipt{ClientId: id, Outcome: outcome})
			}
		}
		token = page.GetNextPageToken()
	}
	return missed, nil
}
