package session

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/services/session/internal/groups"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

const (
	// groupsPage and membersPage are pages of which nobody has said how long they are; mostGroups and mostMembers bound all.
	groupsPage, mostGroups   = 100, 1000
	membersPage, mostMembers = 1000, 10_000
)

// groupService is the service of groups, for routers: they have checked who asks, and what.
type groupService struct {
	messagingv1.UnimplementedGroupServiceServer

	s *Session
}

// change makes a change, and answers with how many members it has changed.
func (g *groupService) change(ctx context.Context, c store.GroupChange) (int, error) {
	t, done, err := g.s.serving(ctx, "router")
	if err != nil {
		return 0, err
	}
	defer done()
	n, err := t.changeGroup(ctx, c)
	return n, refusedChange(err)
}

// refusedChange is what a caller is told.
func refusedChange(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, groups.ErrExists):
		return status.Error(codes.AlreadyExists, "the group exists")
	case errors.Is(err, groups.ErrUnknown):
		return status.Error(codes.NotFound, "there is no such group")
	case errors.Is(err, groups.ErrTooMany):
		return status.Error(codes.ResourceExhausted, "too many groups, members of the group, or groups of a member")
	case errors.Is(err, store.ErrFull):
		return status.Error(codes.ResourceExhausted, "the disk is full")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return status.FromContextError(err).Err()
	case errors.Is(err, errTermOver):
		return status.Error(codes.Unavailable, "the change is stored, and may not be in force yet")
	}
	return status.Error(codes.Unavailable, "cannot be stored at present")
}

// CreateGroup implements GroupService.
func (g *groupService) CreateGroup(ctx context.Context, r *messagingv1.CreateGroupRequest) (*messagingv1.CreateGroupResponse, error) {
	if r.GetName() == "" || strings.ContainsAny(r.GetName(), "/+#\x00") {
		return nil, status.Error(codes.InvalidArgument, "name: one topic level without wildcards and NUL")
	}
	at := time.Now().Round(0)
	if _, err := g.change(ctx, store.GroupChange{Kind: store.GroupMade, Group: r.GetName(), At: at}); err != nil {
		return nil, err
	}
	return &messagingv1.CreateGroupResponse{Group: &messagingv1.Group{Name: r.GetName(), Created: timestamppb.New(at)}}, nil
}

// DeleteGroup implements GroupService.
func (g *groupService) DeleteGroup(ctx context.Context, r *messagingv1.DeleteGroupRequest) (*messagingv1.DeleteGroupResponse, error) {
	if _, err := g.change(ctx, store.GroupChange{Kind: store.GroupEnded, Group: r.GetName()}); err != nil {
		return nil, err
	}
	return &messagingv1.DeleteGroupResponse{}, nil
}

// AddMembers implements GroupService.
func (g *groupService) AddMembers(ctx context.Context, r *messagingv1.AddMembersRequest) (*messagingv1.AddMembersResponse, error) {
	n, err := g.change(ctx, store.GroupChange{Kind: store.MembersAdded, Group: r.GetGroup(), Members: membersOf(r.GetMembers())})
	if err != nil {
		return nil, err
	}
	return &messagingv1.AddMembersResponse{Added: uint64(n)}, nil
}

// RemoveMembers implements GroupService.
func (g *groupService) RemoveMembers(ctx context.Context, r *messagingv1.RemoveMembersRequest) (*messagingv1.RemoveMembersResponse, error) {
	n, err := g.change(ctx, store.GroupChange{Kind: store.MembersRemoved, Group: r.GetGroup(), Members: membersOf(r.GetMembers())})
	if err != nil {
		return nil, err
	}
	return &messagingv1.RemoveMembersResponse{Removed: uint64(n)}, nil
}

func membersOf(wire []*messagingv1.Member) []store.Member {
	members := make([]store.Member, len(wire))
	for i, m := range wire {
		members[i] = memberOf(m)
	}
	return members
}

func memberOf(m *messagingv1.Member) store.Member {
	if m.GetUser() != "" {
		return store.Member{User: true, Name: m.GetUser()}
	}
	return store.Member{Name: m.GetClientId()}
}

func memberToWire(m store.Member) *messagingv1.Member {
	if m.User {
		return &messagingv1.Member{Member: &messagingv1.Member_User{User: m.Name}}
	}
	return &messagingv1.Member{Member: &messagingv1.Member_ClientId{ClientId: m.Name}}
}

// read lets f read the groups of the present term.
func (g *groupService) read(ctx context.Context, f func(*groups.Index)) error {
	t, done, err := g.s.serving(ctx, "router")
	if err != nil {
		return err
	}
	defer done()
	t.kept.Groups().Read(f)
	return nil
}

// pageOf is how long a page is.
func pageOf(asked uint32, usual, most int) int {
	if asked == 0 {
		return usual
	}
	return min(int(asked), most)
}

// ListGroups implements GroupService.
func (g *groupService) ListGroups(ctx context.Context, r *messagingv1.ListGroupsRequest) (*messagingv1.ListGroupsResponse, error) {
	n := pageOf(r.GetPageSize(), groupsPage, mostGroups)
	var page []groups.Group
	if err := g.read(ctx, func(x *groups.Index) { page = x.Groups(r.GetPrefix(), r.GetPageToken(), n+1) }); err != nil {
		return nil, err
	}
	answer := &messagingv1.ListGroupsResponse{}
	if len(page) > n {
		page = page[:n]
		answer.NextPageToken = page[n-1].Name
	}
	for _, x := range page {
		answer.Groups = append(answer.Groups, &messagingv1.Group{
			Name: x.Name, Members: uint64(x.Members), Created: timestamppb.New(x.Created),
		})
	}
	return answer, nil
}

// ListMembers implements GroupService. A page token is the last member of the page before: c or u, and its name.
func (g *groupService) ListMembers(ctx context.Context, r *messagingv1.ListMembersRequest) (*messagingv1.ListMembersResponse, error) {
	var after *store.Member
	if token := r.GetPageToken(); token != "" {
		after = &store.Member{User: token[0] == 'u', Name: token[1:]}
	}
	n := pageOf(r.GetPageSize(), membersPage, mostMembers)
	var page []store.Member
	var more bool
	var unknown error
	err := g.read(ctx, func(x *groups.Index) { page, more, unknown = x.Members(r.GetGroup(), after, n) })
	if err != nil {
		return nil, err
	}
	if unknown != nil {
		return nil, refusedChange(unknown)
	}
	answer := &messagingv1.ListMembersResponse{}
	for _, m := range page {
		answer.Members = append(answer.Members, memberToWire(m))
	}
	if more {
		last := page[len(page)-1]
		answer.NextPageToken = "c" + last.Name
		if last.User {
			answer.NextPageToken = "u" + last.Name
		}
	}
	return answer, nil
}

// ListMemberGroups implements GroupService.
func (g *groupService) ListMemberGroups(ctx context.Context, r *messagingv1.ListMemberGroupsRequest) (*messagingv1.ListMemberGroupsResponse, error) {
	answer := &messagingv1.ListMemberGroupsResponse{}
	err := g.read(ctx, func(x *groups.Index) { answer.Groups = x.Of(memberOf(r.GetMember())) })
	return answer, err
}

// ListUserClients implements SessionService.
func (s *Session) ListUserClients(ctx context.Context, r *sessionv1.ListUserClientsRequest) (*sessionv1.ListUserClientsResponse, error) {
	t, done, err := s.serving(ctx, "router")
	if err != nil {
		return nil, err
	}
	defer done()
	return &sessionv1.ListUserClientsResponse{ClientIds: t.userClients(r.GetUser())}, nil
}
