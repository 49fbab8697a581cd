package router

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// administer has placement managed at the router.
func (r *rig) administer() adminv1.PlacementServiceClient {
	r.t.Helper()
	return adminv1.NewPlacementServiceClient(r.connect())
}

// connect connects to the router's services.
func (r *rig) connect() *grpc.ClientConn {
	r.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	s := grpc.NewServer()
	r.Register(s)
	served := make(chan struct{})
	go func() { defer close(served); _ = s.Serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close(); s.Stop(); <-served })
	return conn
}

func static(name string, addresses ...string) *adminv1.Cluster {
	s := &adminv1.Static{CheckIntervalMs: 1000}
	for _, a := range addresses {
		s.Nodes = append(s.Nodes, &adminv1.Static_Node{Address: a})
	}
	return &adminv1.Cluster{Name: name, Kind: &adminv1.Cluster_Static{Static: s}}
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func TestClustersAndAssignmentsAreManaged(t *testing.T) {
	r := start(t, clustertest.StartEtcd(t).Client())
	own, other := r.nodes(1), startNode(t, nil)
	a, ctx := r.administer(), t.Context()

	put, err := a.PutCluster(ctx, &adminv1.PutClusterRequest{Cluster: static("other", other.address())})
	wantCode(t, "put a cluster", err, codes.OK)
	if put.GetCluster().GetRevision() == 0 {
		t.Error("it has no revision")
	}
	_, err = a.PutCluster(ctx, &adminv1.PutClusterRequest{Cluster: static("other", "127.0.0.1:1")})
	wantCode(t, "put it once more as if there were none", err, codes.Aborted)
	_, err = a.PutCluster(ctx, &adminv1.PutClusterRequest{Cluster: static("test", "127.0.0.1:1")})
	wantCode(t, "put the routers' own", err, codes.InvalidArgument)
	_, err = a.PutCluster(ctx, &adminv1.PutClusterRequest{Cluster: &adminv1.Cluster{Name: "nothing"}})
	wantCode(t, "put one of no kind", err, codes.InvalidArgument)
	clustertest.Wait(t, "its node is active", func() bool {
		l, err := a.ListClusters(ctx, &adminv1.ListClustersRequest{})
		if err != nil || len(l.GetClusters()) != 2 {
			return false
		}
		nodes := l.GetClusters()[1].GetNodes()
		return l.GetClusters()[0].GetNodes()[0].GetActive() && len(nodes) == 1 && nodes[0].GetActive()
	})

	assign := func(x *adminv1.Assignment, c *adminv1.Client) (*adminv1.Assignment, error) {
		x.Revision = -1
		p, err := a.PutAssignment(ctx, &adminv1.PutAssignmentRequest{Assignment: x, Client: c})
		return p.GetAssignment(), err
	}
	_, err = assign(&adminv1.Assignment{Rule: adminv1.Rule_RULE_CLIENT_ID, Value: "x", Cluster: "nowhere"}, nil)
	wantCode(t, "assign to no cluster", err, codes.NotFound)
	_, err = assign(&adminv1.Assignment{Cluster: "other"}, nil)
	wantCode(t, "assign without a rule", err, codes.InvalidArgument)
	_, err = assign(&adminv1.Assignment{Rule: adminv1.Rule_RULE_CLIENT_ID_PREFIX, Cluster: "other"}, nil)
	wantCode(t, "assign without a value", err, codes.InvalidArgument)
	_, err = assign(&adminv1.Assignment{Rule: adminv1.Rule_RULE_USERNAME, Value: "joe", Cluster: "other"}, nil)
	wantCode(t, "assign a user", err, codes.OK)
	ann := &adminv1.Client{ClientId: "ann", Username: proto.String("joe"), Password: []byte("hidden")}
	exact, err := assign(&adminv1.Assignment{Rule: adminv1.Rule_RULE_EXACT, Cluster: "test"}, ann)
	wantCode(t, "assign a triple", err, codes.OK)
	if len(exact.GetValue()) != 64 || strings.Contains(exact.GetValue(), "hidden") {
		t.Errorf("its key is %q", exact.GetValue())
	}

	explain := func(c *adminv1.Client) *adminv1.ExplainResponse {
		e, err := a.Explain(ctx, &adminv1.ExplainRequest{Client: c})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	clustertest.Wait(t, "both are in force", func() bool {
		return explain(&adminv1.Client{ClientId: "b", Username: proto.String("joe")}).GetCluster() == "other" && explain(ann).GetCluster() == "test"
	})
	e := explain(ann)
	if e.GetAddress() != own[0].address() || e.GetKey() != exact.GetValue() || !strings.Contains(e.GetReason(), "exactly this client id") {
		t.Errorf("explained: %v", e)
	}
	c := rawmqtt.Dial(t, r.address(), v5)
	c.Hello("b", func(pk *packets.Packet) { pk.Connect.UsernameFlag, pk.Connect.Username = true, []byte("joe") })
	at(t, []*node{other}, "b")

	_, err = a.DeleteCluster(ctx, &adminv1.DeleteClusterRequest{Name: "other", Revision: -1})
	wantCode(t, "delete a cluster that clients are assigned to", err, codes.FailedPrecondition)
	_, err = a.DeleteAssignment(ctx, &adminv1.DeleteAssignmentRequest{Rule: adminv1.Rule_RULE_USERNAME, Value: "joe", Revision: 1})
	wantCode(t, "delete another revision", err, codes.Aborted)
	_, err = a.DeleteAssignment(ctx, &adminv1.DeleteAssignmentRequest{Rule: adminv1.Rule_RULE_USERNAME, Value: "joe", Revision: -1})
	wantCode(t, "delete an assignment", err, codes.OK)
	clustertest.Wait(t, "the cluster can be deleted", func() bool {
		_, err = a.DeleteCluster(ctx, &adminv1.DeleteClusterRequest{Name: "other", Revision: -1})
		return err == nil
	})
	_, err = a.DeleteCluster(ctx, &adminv1.DeleteClusterRequest{Name: "other", Revision: -1})
	wantCode(t, "delete it again", err, codes.NotFound)
}

func TestAssignmentsAreListedInPages(t *testing.T) {
	r := start(t, clustertest.StartEtcd(t).Client())
	a, ctx := r.administer(), t.Context()
	const n = 25
	for i := range n {
		x := &adminv1.Assignment{Rule: adminv1.Rule_RULE_CLIENT_ID, Value: fmt.Sprintf("c/%02d +#", i), Cluster: "test"}
		if _, err := a.PutAssignment(ctx, &adminv1.PutAssignmentRequest{Assignment: x}); err != nil {
			t.Fatal(err)
		}
	}
	clustertest.Wait(t, "all are known", func() bool { return len(r.placer.book.Assignments().Entries) == n })
	seen, pages := map[string]bool{}, 0
	for token := ""; pages == 0 || token != ""; pages++ {
		l, err := a.ListAssignments(ctx, &adminv1.ListAssignmentsRequest{PageSize: 10, PageToken: token, Cluster: "test"})
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range l.GetAssignments() {
			seen[x.GetValue()] = true
		}
		token = l.GetNextPageToken()
	}
	if len(seen) != n || pages != 3 {
		t.Errorf("%d assignments on %d pages, want %d on 3", len(seen), pages, n)
	}
	if l, err := a.ListAssignments(ctx, &adminv1.ListAssignmentsRequest{Cluster: "other"}); err != nil || len(l.GetAssignments()) > 0 {
		t.Errorf("of another cluster: %v, %v", l, err)
	}
}
