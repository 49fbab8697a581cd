package administration

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/services/router/internal/fleet"
)

const (
	defaultPage = 100
	mostPage    = 1000
	// peeked is how many entries of an inbox are shown, recent how many events.
	peeked = 10
	recent = 10
)

// sized is a page's size; 0 asks for an ordinary one.
func sized(n uint32) int {
	if n == 0 {
		return defaultPage
	}
	return min(int(n), mostPage)
}

// part is one process's share of a page.
type part struct {
	clients []*adminv1.ClientSummary
	// complete: up to this id no client is missing; empty: none is at all.
	complete string
}

// ListClients implements the service.
func (s *Service) ListClients(ctx context.Context, r *adminv1.ListClientsRequest) (*adminv1.ListClientsResponse, error) {
	all, err := s.listed(r)
	if err != nil {
		return nil, err
	}
	size := sized(r.GetPageSize())
	answers := ask(ctx, s, all, func(ctx context.Context, p process) (part, error) {
		if p.session {
			a, err := sessionv1.NewSessionServiceClient(p.conn).ListSessions(ctx, &sessionv1.ListSessionsRequest{
				ClientIdPrefix: r.GetClientIdPrefix(), After: r.GetPageToken(), PageSize: uint32(size),
			})
			return part{a.GetClients(), a.GetNextAfter()}, err
		}
		a, err := gatewayv1.NewInspectServiceClient(p.conn).ListClients(ctx, &gatewayv1.ListClientsRequest{
			ClientIdPrefix: r.GetClientIdPrefix(), After: r.GetPageToken(), Username: r.GetUsername(), PageSize: uint32(size),
		})
		return part{a.GetClients(), a.GetNextAfter()}, err
	})
	if err := none(answers); err != nil {
		return nil, err
	}
	var parts []part
	for _, a := range answers {
		if a.err == nil {
			parts = append(parts, a.got)
		}
	}
	clients, next := merge(parts, size)
	if !strings.HasPrefix(r.GetClientIdPrefix(), message.ServicePrefix) {
		// The routers' own sessions are shown to whoever asks for them.
		clients = slices.DeleteFunc(clients, func(c *adminv1.ClientSummary) bool {
			return strings.HasPrefix(c.GetClientId(), message.ServicePrefix)
		})
	}
	return &adminv1.ListClientsResponse{Clients: clients, NextPageToken: next, Troubles: troubles(answers)}, nil
}

// listed are the processes that a list is of.
func (s *Service) listed(r *adminv1.ListClientsRequest) (all []process, err error) {
	switch id := r.GetGateway(); {
	case id != "":
		g, err := s.deps.Fleet.Gateway(id)
		if errors.Is(err, fleet.ErrNoGateway) {
			return nil, status.Errorf(codes.NotFound, "gateway: there is no %q", id)
		}
		if r.GetPresence() != adminv1.Presence_PRESENCE_AWAY {
			all = append(all, process{member: g.Member, conn: g.Conn, err: err})
		}
		return all, nil
	case r.GetPresence() != adminv1.Presence_PRESENCE_AWAY:
		all = s.gateways()
	}
	// Who is away is there under no name.
	if r.GetPresence() != adminv1.Presence_PRESENCE_CONNECTED && r.GetUsername() == "" {
		all = append(all, s.active())
	}
	return all, nil
}

// merge puts parts together to one page of at most so many, by client id, and returns where the next begins; empty: there is
// none. A client that is in several parts is on its way from one process to another: it is shown where it came last.
func merge(parts []part, most int) (page []*adminv1.ClientSummary, next string) {
	for _, p := range parts {
		if p.complete != "" && (next == "" || p.complete < next) {
			next = p.complete
		}
	}
	byID := make(map[string]*adminv1.ClientSummary)
	for _, p := range parts {
		for _, c := range p.clients {
			if next != "" && c.GetClientId() > next {
				continue // others may lie between
			}
			if known := byID[c.GetClientId()]; known == nil || later(c, known) {
				byID[c.GetClientId()] = c
			}
		}
	}
	for _, c := range byID {
		page = append(page, c)
	}
	slices.SortFunc(page, func(x, y *adminv1.ClientSummary) int { return cmp.Compare(x.GetClientId(), y.GetClientId()) })
	if len(page) > most {
		page = page[:most]
		next = page[most-1].GetClientId()
	}
	return page, next
}

// later reports whether x is younger than y.
func later(x, y *adminv1.ClientSummary) bool {
	return x.GetConnectedSince().AsTime().After(y.GetConnectedSince().AsTime())
}

// known is what is known of one client: nil where it is neither connected nor has a session.
type known struct {
	connected *gatewayv1.GetClientResponse
	session   *sessionv1.InspectSessionResponse
	// keeper is the incarnation that was asked for the session.
	keeper string
	// ofUser: it is a client of the user that is asked about, if any is.
	ofUser bool
}

// groups that the client is a member of.
func (k known) groups() []string {
	if k.connected != nil {
		return k.connected.GetGroups()
	}
	return k.session.GetGroups()
}

// know asks for a client everywhere that it can be.
func (s *Service) know(ctx context.Context, id string) (k known, err error) {
	err = s.atHolder(ctx, id, func(ctx context.Context, g gatewayv1.InspectServiceClient) error {
		ctx, cancel := context.WithTimeout(ctx, s.answerTimeout)
		defer cancel()
		var err error
		k.connected, err = g.GetClient(ctx, &gatewayv1.GetClientRequest{ClientId: id})
		return err
	})
	if status.Code(err) == codes.NotFound {
		k.connected, err = nil, nil
	}
	if err != nil || k.connected != nil && !k.connected.GetClient().GetDurable() {
		return k, err
	}
	session, m, err := s.session()
	if err != nil {
		return k, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.answerTimeout)
	defer cancel()
	k.keeper = m.ID
	k.session, err = session.InspectSession(ctx, &sessionv1.InspectSessionRequest{ClientId: id, InboxEntries: peeked})
	if status.Code(err) == codes.NotFound {
		k.session, err = nil, nil
	}
	return k, passed(err)
}

// GetClient implements the service.
func (s *Service) GetClient(ctx context.Context, r *adminv1.GetClientRequest) (*adminv1.GetClientResponse, error) {
	var k known
	err := settle(ctx, func(ctx context.Context) (err error) {
		k, err = s.know(ctx, r.GetClientId())
		if err == nil && k.connected == nil && k.session.GetHolder() != "" {
			return fmt.Errorf("%w to or from gateway %s", errMoving, k.session.GetHolder())
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	w := &adminv1.GetClientResponse{Groups: k.groups()}
	if w.Events, err = s.events(ctx, r.GetClientId()); err != nil {
		w.Troubles = append(w.Troubles, "events: "+explained(err))
	}
	switch c := k.connected; {
	case c != nil:
		w.Client, w.Holder, w.Epoch = c.GetClient(), c.GetClient().GetGateway(), c.GetEpoch()
		w.Connection, w.Session, w.Subscriptions = c.GetConnection(), c.GetSession(), c.GetSubscriptions()
	case k.session != nil:
		w.Client = &adminv1.ClientSummary{
			ClientId: r.GetClientId(), Presence: adminv1.Presence_PRESENCE_AWAY, Durable: true,
			Subscriptions: uint32(len(k.session.GetSubscriptions())),
		}
		w.Holder, w.Epoch = k.keeper, k.session.GetEpoch()
		w.Session, w.Subscriptions = &adminv1.Session{Durable: true}, subscriptionsOf(k.session)
	case len(w.GetEvents()) > 0:
		w.Client = &adminv1.ClientSummary{ClientId: r.GetClientId(), Presence: adminv1.Presence_PRESENCE_GONE}
		w.Epoch = w.GetEvents()[0].GetEpoch()
	case err != nil:
		return nil, passed(err)
	default:
		return nil, status.Error(codes.NotFound, "the client is not connected, has no session, and has not been connected lately")
	}
	if k.session != nil {
		addInbox(w.GetSession(), k.session)
	}
	return w, nil
}

// events are the last ones of a client, newest first.
func (s *Service) events(ctx context.Context, id string) ([]*messagingv1.PresenceEvent, error) {
	session, _, err := s.session()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.answerTimeout)
	defer cancel()
	r, err := session.ListPresence(ctx, &sessionv1.ListPresenceRequest{ClientId: id, Events: recent})
	return r.GetEvents(), err
}

// subscriptionsOf are those of a session, by filter.
func subscriptionsOf(r *sessionv1.InspectSessionResponse) (all []*adminv1.Subscription) {
	for _, x := range r.GetSubscriptions() {
		all = append(all, &adminv1.Subscription{
			Filter: x.GetFilter(), Qos: x.GetQos(), NoLocal: x.GetNoLocal(), RetainAsPublished: x.GetRetainAsPublished(),
			RetainHandling: x.GetRetainHandling(), SubscriptionId: x.GetSubscriptionId(),
		})
	}
	slices.SortFunc(all, func(x, y *adminv1.Subscription) int { return strings.Compare(x.GetFilter(), y.GetFilter()) })
	return all
}

// addInbox adds what the session service knows of a session.
func addInbox(to *adminv1.Session, r *sessionv1.InspectSessionResponse) {
	to.ExpirySeconds, to.ExpiresInMs = r.GetSessionExpirySeconds(), r.ExpiresInMs
	to.InboxMessages, to.InboxBytes, to.InboxOldestMs = r.GetInboxMessages(), r.GetInboxBytes(), r.GetInboxOldestMs()
	to.InboxDropped, to.LastDropReason, to.Inbox = r.GetInboxDropped(), r.GetLastDropReason(), r.GetInbox()
}

// DisconnectClient implements the service.
func (s *Service) DisconnectClient(ctx context.Context, r *adminv1.DisconnectClientRequest) (*adminv1.DisconnectClientResponse, error) {
	err := s.atHolder(ctx, r.GetClientId(), func(ctx context.Context, g gatewayv1.InspectServiceClient) error {
		_, err := g.Disconnect(ctx, &gatewayv1.DisconnectRequest{ClientId: r.GetClientId()})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &adminv1.DisconnectClientResponse{}, nil
}

// SubscribeClient implements the service.
func (s *Service) SubscribeClient(ctx context.Context, r *adminv1.SubscribeClientRequest) (*adminv1.SubscribeClientResponse, error) {
	err := s.atHolder(ctx, r.GetClientId(), func(_ context.Context, g gatewayv1.InspectServiceClient) error {
		ctx, cancel := context.WithTimeout(ctx, changeTimeout)
		defer cancel()
		_, err := g.Subscribe(ctx, &gatewayv1.SubscribeRequest{ClientId: r.GetClientId(), Subscription: r.GetSubscription()})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &adminv1.SubscribeClientResponse{}, nil
}

// UnsubscribeClient implements the service.
func (s *Service) UnsubscribeClient(ctx context.Context, r *adminv1.UnsubscribeClientRequest) (*adminv1.UnsubscribeClientResponse, error) {
	err := s.atHolder(ctx, r.GetClientId(), func(_ context.Context, g gatewayv1.InspectServiceClient) error {
		ctx, cancel := context.WithTimeout(ctx, changeTimeout)
		defer cancel()
		_, err := g.Unsubscribe(ctx, &gatewayv1.UnsubscribeRequest{ClientId: r.GetClientId(), Filter: r.GetFilter()})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &adminv1.UnsubscribeClientResponse{}, nil
}
