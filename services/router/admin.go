package router

import (
	"context"
	"errors"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	"github.com/beeline-mqtt/beeline/services/router/internal/book"
	"github.com/beeline-mqtt/beeline/services/router/internal/foreign"
	"github.com/beeline-mqtt/beeline/services/router/internal/placement"
)

const (
	defaultPage = 100
	mostPage    = 1000
)

// admin is the PlacementService.
type admin struct {
	adminv1.UnimplementedPlacementServiceServer

	placer *placer
}

// failed is the one mapping of what the book reports.
func failed(err error) error {
	code := codes.Internal
	switch {
	case errors.Is(err, book.ErrInvalid):
		code = codes.InvalidArgument
	case errors.Is(err, book.ErrConflict):
		code = codes.Aborted
	case errors.Is(err, book.ErrNotFound):
		code = codes.NotFound
	case errors.Is(err, book.ErrUnavailable):
		code = codes.Unavailable
	}
	return status.Error(code, err.Error())
}

func tripleOf(c *adminv1.Client) placement.Triple {
	return placement.Triple{
		ClientID: c.GetClientId(), Username: c.GetUsername(), HasUsername: c.Username != nil,
		Password: c.GetPassword(), HasPassword: c.Password != nil,
	}
}

// Explain implements PlacementService.
func (a *admin) Explain(ctx context.Context, r *adminv1.ExplainRequest) (*adminv1.ExplainResponse, error) {
	if r.GetClient() == nil {
		return nil, status.Error(codes.InvalidArgument, "client: must be given")
	}
	t := tripleOf(r.GetClient())
	d, err := a.placer.choose(a.placer.inquire(ctx, t), nil)
	answer := &adminv1.ExplainResponse{
		Cluster: d.cluster, Node: d.node.ID, Address: d.node.address, Key: a.placer.secret.Key(t).String(),
		Reason: placement.Explain(d.assignment, d.question, d.answer),
	}
	if errors.Is(err, errUnassigned) {
		answer.Reason = err.Error()
	}
	return answer, nil
}

// PutAssignment implements PlacementService.
func (a *admin) PutAssignment(ctx context.Context, r *adminv1.PutAssignmentRequest) (*adminv1.PutAssignmentResponse, error) {
	x := r.GetAssignment()
	rule, err := ruleOf(x.GetRule())
	if err != nil {
		return nil, err
	}
	value := x.GetValue()
	if rule == book.Exact && r.GetClient() != nil {
		value = a.placer.secret.Key(tripleOf(r.GetClient())).String()
	}
	if !a.placer.has(x.GetCluster()) {
		return nil, status.Errorf(codes.NotFound, "cluster: there is no %q", x.GetCluster())
	}
	stored := book.Assignment{Rule: rule, Value: value, Cluster: x.GetCluster()}
	if rule == book.Default {
		stored.Value, stored.Weight = "", max(x.GetWeight(), 1)
	}
	if p, err := fromBook(stored); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "assignment: %v", err)
	} else if _, err := placement.NewAssignments([]placement.Assignment{p}); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "assignment: %v", err)
	}
	if stored.Revision, err = a.placer.book.PutAssignment(ctx, stored, x.GetRevision()); err != nil {
		return nil, failed(err)
	}
	a.placer.shows(ctx, func() bool { return a.placer.book.Assignments().Revision >= stored.Revision })
	return &adminv1.PutAssignmentResponse{Assignment: toWire(stored)}, nil
}

// DeleteAssignment implements PlacementService.
func (a *admin) DeleteAssignment(ctx context.Context, r *adminv1.DeleteAssignmentRequest) (*adminv1.DeleteAssignmentResponse, error) {
	rule, err := ruleOf(r.GetRule())
	if err != nil {
		return nil, err
	}
	if err := a.placer.book.DeleteAssignment(ctx, rule, r.GetValue(), r.GetRevision()); err != nil {
		return nil, failed(err)
	}
	a.placer.shows(ctx, func() bool {
		_, there := a.placer.book.Assignment(rule, r.GetValue())
		return !there
	})
	return &adminv1.DeleteAssignmentResponse{}, nil
}

// ListAssignments implements PlacementService.
func (a *admin) ListAssignments(_ context.Context, r *adminv1.ListAssignmentsRequest) (*adminv1.ListAssignmentsResponse, error) {
	size := int(r.GetPageSize())
	if size == 0 {
		size = defaultPage
	}
	size = min(size, mostPage)
	answer := &adminv1.ListAssignmentsResponse{NextPageToken: r.GetPageToken()}
	for {
		entries, next := a.placer.book.Assignments().Page(answer.GetNextPageToken(), size-len(answer.GetAssignments()))
		for _, e := range entries {
			if r.GetCluster() == "" || r.GetCluster() == e.Cluster {
				answer.Assignments = append(answer.Assignments, toWire(e))
			}
		}
		answer.NextPageToken = next
		if next == "" || len(answer.GetAssignments()) == size {
			return answer, nil
		}
	}
}

// PutCluster implements PlacementService.
func (a *admin) PutCluster(ctx context.Context, r *adminv1.PutClusterRequest) (*adminv1.PutClusterResponse, error) {
	c := r.GetCluster()
	if c.GetName() == a.placer.name {
		return nil, status.Errorf(codes.InvalidArgument, "cluster.name: %q is the routers' own cluster", c.GetName())
	}
	d, err := definitionOf(c)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "cluster: %v", err)
	}
	b, err := foreign.Encode(d)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "cluster: %v", err)
	}
	revision, err := a.placer.book.PutCluster(ctx, book.Cluster{Name: d.Name, Definition: b}, c.GetRevision())
	if err != nil {
		return nil, failed(err)
	}
	a.placer.shows(ctx, func() bool { return a.placer.book.Clusters().Revision >= revision })
	return &adminv1.PutClusterResponse{Cluster: clusterToWire(d, revision)}, nil
}

// DeleteCluster implements PlacementService.
func (a *admin) DeleteCluster(ctx context.Context, r *adminv1.DeleteClusterRequest) (*adminv1.DeleteClusterResponse, error) {
	assigned := func(x book.Assignment) bool { return x.Cluster == r.GetName() }
	if i := slices.IndexFunc(a.placer.book.Assignments().Entries, assigned); i >= 0 {
		x := a.placer.book.Assignments().Entries[i]
		return nil, status.Errorf(codes.FailedPrecondition, "clients are assigned to it, by %s %q", x.Rule, x.Value)
	}
	if err := a.placer.book.DeleteCluster(ctx, r.GetName(), r.GetRevision()); err != nil {
		return nil, failed(err)
	}
	a.placer.shows(ctx, func() bool { return !a.placer.has(r.GetName()) })
	return &adminv1.DeleteClusterResponse{}, nil
}

// ListClusters implements PlacementService.
func (a *admin) ListClusters(_ context.Context, _ *adminv1.ListClustersRequest) (*adminv1.ListClustersResponse, error) {
	p := a.placer
	answer := &adminv1.ListClustersResponse{Clusters: []*adminv1.ListClustersResponse_Entry{{Cluster: &adminv1.Cluster{Name: p.name}}}}
	for _, c := range p.book.Clusters().Entries {
		v, trouble, _ := p.foreign.find(c.Name)
		e := &adminv1.ListClustersResponse_Entry{Cluster: &adminv1.Cluster{Name: c.Name, Revision: c.Revision}}
		if d, err := foreign.Decode(c.Definition); err == nil {
			e.Cluster = clusterToWire(d, c.Revision)
		}
		if trouble != nil {
			e.Trouble = trouble.Error()
		}
		if !v.Since.IsZero() {
			e.Since = timestamppb.New(v.Since)
		}
		answer.Clusters = append(answer.Clusters, e)
	}
	for _, e := range answer.GetClusters() {
		nodes, _ := p.nodes(e.GetCluster().GetName())
		for _, n := range nodes {
			e.Nodes = append(e.Nodes, &adminv1.Node{
				Id: n.ID, Address: n.address, Weight: n.Weight, Active: n.Active, Clients: uint64(n.clients),
			})
		}
	}
	return answer, nil
}
