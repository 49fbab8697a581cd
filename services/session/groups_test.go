package session_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

func client(id string) *messagingv1.Member {
	return &messagingv1.Member{Member: &messagingv1.Member_ClientId{ClientId: id}}
}

func user(name string) *messagingv1.Member {
	return &messagingv1.Member{Member: &messagingv1.Member_User{User: name}}
}

// crowd is a keeping instance and its groups.
type crowd struct {
	*keeping
	groups messagingv1.GroupServiceClient
}

func startCrowd(t *testing.T, prepare func(*shelf)) *crowd {
	t.Helper()
	k := startKeeping(t, nil, prepare)
	return &crowd{k, messagingv1.NewGroupServiceClient(k.conn)}
}

// add adds members, while gateways answer, and returns how many are new.
func (c *crowd) add(t *testing.T, group string, members ...*messagingv1.Member) <-chan uint64 {
	t.Helper()
	added := make(chan uint64, 1)
	go func() {
		r, err := c.groups.AddMembers(bg(t), &messagingv1.AddMembersRequest{Group: group, Members: members})
		if err != nil {
			t.Error(err)
		}
		added <- r.GetAdded()
	}()
	return added
}

func (c *crowd) make(t *testing.T, group string) {
	t.Helper()
	if _, err := c.groups.CreateGroup(bg(t), &messagingv1.CreateGroupRequest{Name: group}); err != nil {
		t.Fatal(err)
	}
}

// applies answers a change of members, and returns it.
func (a *attached) applies() *sessionv1.MembersChanged {
	a.t.Helper()
	f := a.next().GetMembersChanged()
	if f == nil {
		a.t.Fatal("members have not changed")
	}
	a.send(&sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_MembersApplied{
		MembersApplied: &sessionv1.MembersApplied{RequestId: f.GetRequestId()},
	}})
	return f
}

func TestAMemberIsOneWhenEveryGatewayHasSaidSo(t *testing.T) {
	c := startCrowd(t, nil)
	a, _ := c.gateway()
	b, _ := c.gateway()
	made := make(chan error, 1)
	go func() {
		_, err := c.groups.CreateGroup(bg(t), &messagingv1.CreateGroupRequest{Name: "team"})
		made <- err
	}()
	a.applies()
	b.applies()
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	added := c.add(t, "team", client("ann"), user("bob"), client("ann"))
	want := &sessionv1.MembersChanged{Filter: "group/team/#", Joined: true, ClientIds: []string{"ann"}, Users: []string{"bob"}}
	got := a.applies()
	if d := cmp.Diff(want, got, protocmp.Transform(), protocmp.IgnoreFields(got, "request_id", "managed_version")); d != "" {
		t.Errorf("a gateway is told (-want +got):\n%s", d)
	}
	select {
	case <-added:
		t.Error("answered before every gateway has")
	default:
	}
	b.applies()
	if n := <-added; n != 2 {
		t.Errorf("%d were added, want 2", n)
	}
	c.shelf.set(func() {
		if d := cmp.Diff([][]store.Member{nil, {{Name: "ann"}, {User: true, Name: "bob"}}}, c.shelf.managed); d != "" {
			t.Errorf("sessions that are away were told (-want +got):\n%s", d)
		}
	})
	// Whoever connects learns it with the claim.
	a.last++
	a.send(&sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Claim{
		Claim: &sessionv1.Claim{RequestId: a.last, ClientId: "ann", Username: "bob"},
	}})
	claimed := a.next().GetClaimed()
	managed := []*sessionv1.ManagedFilter{{Filter: "group/team/#", ByClient: true, ByUser: true}}
	if d := cmp.Diff(managed, claimed.GetManaged(), protocmp.Transform()); d != "" {
		t.Errorf("granted with (-want +got):\n%s", d)
	}
}

func TestNobodyWaitsForAGatewayThatHasGone(t *testing.T) {
	c := startCrowd(t, nil)
	c.make(t, "team")
	id, die := alive(t, c.etcd)
	a := attach(t, c.conn, id).welcome()
	added := c.add(t, "team", client("ann"))
	if a.next().GetMembersChanged() == nil {
		t.Fatal("the gateway is not told")
	}
	a.cancel()
	select {
	case <-added:
		t.Error("answered while a gateway lives that has not")
	default:
	}
	die()
	if n := <-added; n != 1 {
		t.Errorf("%d were added, want 1", n)
	}
}

func TestAChangeIsInForceWhenAGatewayHasAttachedAgain(t *testing.T) {
	c := startCrowd(t, nil)
	c.make(t, "team")
	a, id := c.gateway()
	a.cancel()
	added := c.add(t, "team", client("ann"))
	clustertest.Wait(t, "it is stored", func() bool {
		r, err := c.groups.ListMemberGroups(bg(t), &messagingv1.ListMemberGroupsRequest{Member: client("ann")})
		return err == nil && len(r.GetGroups()) == 1
	})
	a = attach(t, c.conn, id, &sessionv1.Holding{ClientId: "ann", Epoch: 1})
	a.welcome()
	all := a.any().GetManagedClients()
	select {
	case <-added:
		t.Error("answered before the gateway has")
	default:
	}
	a.send(&sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_MembersApplied{
		MembersApplied: &sessionv1.MembersApplied{RequestId: all.GetRequestId()},
	}})
	if n := <-added; n != 1 {
		t.Errorf("%d were added, want 1", n)
	}
}

func TestAGatewayIsToldWhatItMayHaveMissed(t *testing.T) {
	c := startCrowd(t, nil)
	c.make(t, "team")
	<-c.add(t, "team", client("ann"), user("bob"))
	_, id := c.gateway()
	holdings := []*sessionv1.Holding{{ClientId: "ann", Epoch: 1}, {ClientId: "phone", Epoch: 1, Username: "bob"}, {ClientId: "other", Epoch: 1}}
	a := attach(t, c.conn, id, holdings...)
	welcome := a.any().GetWelcome()
	all := a.any().GetManagedClients()
	want := &sessionv1.ManagedClients{ManagedVersion: welcome.GetManagedVersion(), Clients: []*sessionv1.ManagedClient{
		{ClientId: "ann", Managed: []*sessionv1.ManagedFilter{{Filter: "group/team/#", ByClient: true}}},
		{ClientId: "phone", Managed: []*sessionv1.ManagedFilter{{Filter: "group/team/#", ByUser: true}}},
		{ClientId: "other"},
	}}
	if d := cmp.Diff(want, all, protocmp.Transform(), protocmp.IgnoreFields(all, "request_id")); d != "" {
		t.Errorf("told (-want +got):\n%s", d)
	}
	users := sessionv1.NewSessionServiceClient(c.conn)
	r, err := users.ListUserClients(bg(t), &sessionv1.ListUserClientsRequest{User: "bob"})
	if d := cmp.Diff([]string{"away-of-bob", "phone"}, r.GetClientIds()); err != nil || d != "" {
		t.Errorf("clients of the user: %v (-want +got):\n%s", err, d)
	}
}

func TestGroupsAreListed(t *testing.T) {
	c := startCrowd(t, nil)
	for i := range 5 {
		c.make(t, fmt.Sprintf("g%d", i))
	}
	<-c.add(t, "g1", client("c"), client("a"), user("u"), client("b"))
	var names []string
	for token, first := "", true; first || token != ""; first = false {
		r, err := c.groups.ListGroups(bg(t), &messagingv1.ListGroupsRequest{PageSize: 2, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range r.GetGroups() {
			names = append(names, fmt.Sprintf("%s:%d", g.GetName(), g.GetMembers()))
		}
		token = r.GetNextPageToken()
	}
	if d := cmp.Diff([]string{"g0:0", "g1:4", "g2:0", "g3:0", "g4:0"}, names); d != "" {
		t.Error(d)
	}
	var members []*messagingv1.Member
	for token, first := "", true; first || token != ""; first = false {
		r, err := c.groups.ListMembers(bg(t), &messagingv1.ListMembersRequest{Group: "g1", PageSize: 2, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		members = append(members, r.GetMembers()...)
		token = r.GetNextPageToken()
	}
	if d := cmp.Diff([]*messagingv1.Member{client("a"), client("b"), client("c"), user("u")}, members, protocmp.Transform()); d != "" {
		t.Error(d)
	}
	of, err := c.groups.ListMemberGroups(bg(t), &messagingv1.ListMemberGroupsRequest{Member: user("u")})
	if err != nil || len(of.GetGroups()) != 1 || of.GetGroups()[0] != "g1" {
		t.Errorf("groups of a member: %v, %v", of.GetGroups(), err)
	}
	removed, err := c.groups.RemoveMembers(bg(t), &messagingv1.RemoveMembersRequest{Group: "g1", Members: []*messagingv1.Member{client("a"), client("x")}})
	if err != nil || removed.GetRemoved() != 1 {
		t.Errorf("%d removed, %v, want 1", removed.GetRemoved(), err)
	}
	if _, err := c.groups.DeleteGroup(bg(t), &messagingv1.DeleteGroupRequest{Name: "g1"}); err != nil {
		t.Error(err)
	}
}

func TestGroupsAreRefusedWithAReason(t *testing.T) {
	c := startCrowd(t, nil)
	c.make(t, "team")
	for name, call := range map[string]struct {
		do   func(context.Context) error
		want codes.Code
	}{
		"made twice": {func(ctx context.Context) error {
			_, err := c.groups.CreateGroup(ctx, &messagingv1.CreateGroupRequest{Name: "team"})
			return err
		}, codes.AlreadyExists},
		"no name": {func(ctx context.Context) error {
			_, err := c.groups.CreateGroup(ctx, &messagingv1.CreateGroupRequest{Name: "a/b"})
			return err
		}, codes.InvalidArgument},
		"added to nothing": {func(ctx context.Context) error {
			_, err := c.groups.AddMembers(ctx, &messagingv1.AddMembersRequest{Group: "other", Members: []*messagingv1.Member{client("a")}})
			return err
		}, codes.NotFound},
		"members of nothing": {func(ctx context.Context) error {
			_, err := c.groups.ListMembers(ctx, &messagingv1.ListMembersRequest{Group: "other"})
			return err
		}, codes.NotFound},
		"deleted, and not there": {func(ctx context.Context) error {
			_, err := c.groups.DeleteGroup(ctx, &messagingv1.DeleteGroupRequest{Name: "other"})
			return err
		}, codes.NotFound},
	} {
		if err := call.do(bg(t)); status.Code(err) != call.want {
			t.Errorf("%s: %v, want %v", name, err, call.want)
		}
	}
	c.shelf.set(func() { c.shelf.refuse = store.ErrFull })
	_, err := c.groups.AddMembers(bg(t), &messagingv1.AddMembersRequest{Group: "team", Members: []*messagingv1.Member{client("a")}})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("on a full disk: %v", err)
	}
	of, err := c.groups.ListMemberGroups(bg(t), &messagingv1.ListMemberGroupsRequest{Member: client("a")})
	if err != nil || len(of.GetGroups()) != 0 {
		t.Errorf("a member although it was not stored: %v, %v", of.GetGroups(), err)
	}
}
