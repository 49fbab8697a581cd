package administration

import (
	"context"
	"encoding/base64"
	"math"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/topic"
)

// mostReceivers bounds an explanation.
const mostReceivers = 10_000

// anyTopic is what MQTT allows; gateways may have narrower bounds.
func anyTopic() topic.Limits {
	return topic.Limits{Bytes: math.MaxUint16, Levels: math.MaxUint16 + 1, LevelBytes: math.MaxUint16}
}

// met is what a message on a topic would meet at one process.
type met struct {
	receivers []*adminv1.TopicReceiver
	total     uint64
	routes    []*adminv1.RouteMatch
}

// ExplainTopic implements the service.
func (s *Service) ExplainTopic(ctx context.Context, r *adminv1.ExplainTopicRequest) (*adminv1.ExplainTopicResponse, error) {
	if err := topic.ValidateName(r.GetTopic(), anyTopic()); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "topic: %v", err)
	}
	most := min(r.GetMaxReceivers(), mostReceivers)
	if most == 0 {
		most = defaultPage
	}
	if topic.IsUser(r.GetTopic()) {
		return s.explainUser(ctx, r, int(most))
	}
	answers := ask(ctx, s, append(s.gateways(), s.active()), func(ctx context.Context, p process) (met, error) {
		if p.session {
			a, err := sessionv1.NewSessionServiceClient(p.conn).MatchSessions(ctx, &sessionv1.MatchSessionsRequest{Topic: r.GetTopic(), MaxReceivers: most})
			return met{a.GetReceivers(), a.GetReceiversTotal(), nil}, err
		}
		a, err := gatewayv1.NewInspectServiceClient(p.conn).Match(ctx, &gatewayv1.MatchRequest{Topic: r.GetTopic(), MaxReceivers: most})
		return met{a.GetReceivers(), a.GetReceiversTotal(), a.GetRoutes()}, err
	})
	if err := refused(answers); err != nil {
		return nil, err
	}
	if err := none(answers); err != nil {
		return nil, err
	}
	w := &adminv1.ExplainTopicResponse{Troubles: troubles(answers)}
	for _, a := range answers {
		w.Receivers = append(w.Receivers, a.got.receivers...)
		w.ReceiversTotal += a.got.total
		if len(w.GetRoutes()) == 0 {
			w.Routes = a.got.routes // those of the first gateway that answers
		}
	}
	slices.SortStableFunc(w.GetReceivers(), func(x, y *adminv1.TopicReceiver) int { return strings.Compare(x.GetClientId(), y.GetClientId()) })
	w.Receivers = w.Receivers[:min(len(w.GetReceivers()), int(most))]
	if r.GetClientId() == "" {
		return w, nil
	}
	k, err := s.know(ctx, r.GetClientId())
	if err != nil {
		return nil, err
	}
	w.ClientAnswer = about(r.GetTopic(), r.GetClientId(), k)
	return w, nil
}

// ListRetained implements the service.
func (s *Service) ListRetained(ctx context.Context, r *adminv1.ListRetainedRequest) (*adminv1.ListRetainedResponse, error) {
	filter := r.GetFilter()
	if filter == "" {
		filter = "#"
	}
	if err := topic.ValidateFilter(filter, anyTopic()); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "filter: %v", err)
	}
	cursor, err := base64.RawURLEncoding.DecodeString(r.GetPageToken())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, "page_token: is none of a page before")
	}
	session, _, err := s.session()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.answerTimeout)
	defer cancel()
	page, err := readRetained(ctx, session, &sessionv1.ReadRetainedRequest{Filter: filter, Cursor: cursor, MaxMessages: uint32(sized(r.GetPageSize()))})
	if err != nil {
		return nil, passed(err)
	}
	w := &adminv1.ListRetainedResponse{NextPageToken: base64.RawURLEncoding.EncodeToString(page.GetCursor())}
	for _, x := range page.GetMessages() {
		m := x.GetMessage()
		one := &adminv1.RetainedMessage{
			Topic: m.GetTopic(), PayloadBytes: uint64(len(m.GetPayload())), Qos: m.GetQos(), Publisher: m.GetPublisher(), ExpiresInMs: m.ExpiresInMs,
		}
		if r.GetWithPayload() {
			one.Payload = m.GetPayload()
		}
		w.Messages = append(w.Messages, one)
	}
	return w, nil
}

// readRetained reads a page, a smaller one than is asked for if the messages are too large for one answer.
func readRetained(ctx context.Context, from sessionv1.SessionServiceClient, r *sessionv1.ReadRetainedRequest) (*sessionv1.ReadRetainedResponse, error) {
	for {
		page, err := from.ReadRetained(ctx, r)
		if status.Code(err) != codes.ResourceExhausted || r.GetMaxMessages() == 1 {
			return page, err
		}
		r.MaxMessages /= 2
	}
}

// DeleteRetained implements the service. The session service, which has the message, removes it. Nothing is published: the
// subscribers of the topic would be given a message without a payload that no client has sent, for a change that none of
// them has asked for, and without that it can be said for certain whether there was one.
func (s *Service) DeleteRetained(ctx context.Context, r *adminv1.DeleteRetainedRequest) (*adminv1.DeleteRetainedResponse, error) {
	session, _, err := s.session()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.answerTimeout)
	defer cancel()
	if _, err := session.DeleteRetained(ctx, &sessionv1.DeleteRetainedRequest{Topic: r.GetTopic()}); err != nil {
		return nil, passed(err)
	}
	return &adminv1.DeleteRetainedResponse{}, nil
}
