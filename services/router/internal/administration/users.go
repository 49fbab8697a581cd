package administration

import (
	"context"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/topic"
)

// explainUser is ExplainTopic for what is sent to a user: there are no routes, each of the user's clients, as the session
// service knows them, gets it as if by name.
func (s *Service) explainUser(ctx context.Context, r *adminv1.ExplainTopicRequest, most int) (*adminv1.ExplainTopicResponse, error) {
	user, err := topic.ParseUser(r.GetTopic())
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "topic: %v", err)
	}
	session, keeper, err := s.session()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*s.answerTimeout) // each of those that are asked has one
	defer cancel()
	users, err := session.ListUserClients(ctx, &sessionv1.ListUserClientsRequest{User: user})
	if err != nil {
		return nil, passed(err)
	}
	holders, troubles, err := s.holdersOf(ctx, user)
	if err != nil {
		return nil, err
	}
	ids := slices.Sorted(slices.Values(users.GetClientIds()))
	w := &adminv1.ExplainTopicResponse{ReceiversTotal: uint64(len(ids)), Troubles: troubles}
	for _, id := range ids[:min(len(ids), most)] {
		x := &adminv1.TopicReceiver{ClientId: id, Holder: holders[id], Qos: messagev1.Qos_QOS_EXACTLY_ONCE}
		if x.GetHolder() == "" {
			x.Holder, x.Away = keeper.ID, true
		}
		w.Receivers = append(w.Receivers, x)
	}
	if r.GetClientId() != "" {
		k, err := s.know(ctx, r.GetClientId())
		if err != nil {
			return nil, err
		}
		_, k.ofUser = slices.BinarySearch(ids, r.GetClientId())
		w.ClientAnswer = about(r.GetTopic(), r.GetClientId(), k)
	}
	return w, nil
}

// holdersOf are the gateways of the clients that are connected as a user, by client id, and the troubles of those that did
// not answer.
func (s *Service) holdersOf(ctx context.Context, user string) (holders map[string]string, troubles []string, err error) {
	holders = make(map[string]string)
	ask := &adminv1.ListClientsRequest{Username: user, Presence: adminv1.Presence_PRESENCE_CONNECTED, PageSize: mostPage}
	for first := true; first || ask.GetPageToken() != ""; first = false {
		page, err := s.ListClients(ctx, ask)
		if err != nil {
			return nil, nil, err
		}
		for _, c := range page.GetClients() {
			holders[c.GetClientId()] = c.GetGateway()
		}
		troubles = page.GetTroubles()
		ask.PageToken = page.GetNextPageToken()
	}
	return holders, troubles, nil
}
