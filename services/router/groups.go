package router

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/services/router/internal/fleet"
)

// groupService is the GroupService: the active session instance has the groups, and answers.
type groupService struct {
	messagingv1.UnimplementedGroupServiceServer

	fleet *fleet.Fleet
}

// groupCall is a method of the client.
type groupCall[Q, R any] func(messagingv1.GroupServiceClient, context.Context, *Q, ...grpc.CallOption) (*R, error)

// pass has the session service answer. Its refusals are the caller's.
func pass[Q, R any](ctx context.Context, g *groupService, call groupCall[Q, R], request *Q) (*R, error) {
	_, conn, err := g.fleet.AwaitSession(ctx)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return call(messagingv1.NewGroupServiceClient(conn), ctx, request)
}

// CreateGroup implements GroupService.
func (g *groupService) CreateGroup(ctx context.Context, r *messagingv1.CreateGroupRequest) (*messagingv1.CreateGroupResponse, error) {
	return pass(ctx, g, messagingv1.GroupServiceClient.CreateGroup, r)
}

// DeleteGroup implements GroupService.
func (g *groupService) DeleteGroup(ctx context.Context, r *messagingv1.DeleteGroupRequest) (*messagingv1.DeleteGroupResponse, error) {
	return pass(ctx, g, messagingv1.GroupServiceClient.DeleteGroup, r)
}

// ListGroups implements GroupService.
func (g *groupService) ListGroups(ctx context.Context, r *messagingv1.ListGroupsRequest) (*messagingv1.ListGroupsResponse, error) {
	return pass(ctx, g, messagingv1.GroupServiceClient.ListGroups, r)
}

// AddMembers implements GroupService.
func (g *groupService) AddMembers(ctx context.Context, r *messagingv1.AddMembersRequest) (*messagingv1.AddMembersResponse, error) {
	return pass(ctx, g, messagingv1.GroupServiceClient.AddMembers, r)
}

// RemoveMembers implements GroupService.
func (g *groupService) RemoveMembers(ctx context.Context, r *messagingv1.RemoveMembersRequest) (*messagingv1.RemoveMembersResponse, error) {
	return pass(ctx, g, messagingv1.GroupServiceClient.RemoveMembers, r)
}

// ListMembers implements GroupService.
func (g *groupService) ListMembers(ctx context.Context, r *messagingv1.ListMembersRequest) (*messagingv1.ListMembersResponse, error) {
	return pass(ctx, g, messagingv1.GroupServiceClient.ListMembers, r)
}

// ListMemberGroups implements GroupService.
func (g *groupService) ListMemberGroups(ctx context.Context, r *messagingv1.ListMemberGroupsRequest) (*messagingv1.ListMemberGroupsResponse, error) {
	return pass(ctx, g, messagingv1.GroupServiceClient.ListMemberGroups, r)
}
