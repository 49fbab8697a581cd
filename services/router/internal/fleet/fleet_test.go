package fleet_test

import (
	"errors"
	"log/slog"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/services/router/internal/fleet"
)

// dial makes connections that nobody answers.
func dial(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

func start(t *testing.T, dial cluster.Dial) *fleet.Fleet {
	t.Helper()
	return fleet.New(cluster.Deps{Keys: cluster.Keys("test"), Logger: slog.New(slog.DiscardHandler)}, dial)
}

func member(id string, s cluster.State) cluster.Member {
	return cluster.Member{ID: id, Address: id + ":1", State: s}
}

func TestGatewaysAreAskedInTurnAndDrainingOnesLast(t *testing.T) {
	f := start(t, dial)
	if _, err := f.Next(nil); !errors.Is(err, fleet.ErrNoGateway) {
		t.Errorf("Next of nobody: %v, want ErrNoGateway", err)
	}
	f.See(cluster.View{Members: []cluster.Member{member("a", cluster.Active), member("b", cluster.Draining), member("c", cluster.Active)}})
	seen := make(map[string]int)
	for range 10 {
		g, err := f.Next(nil)
		if err != nil {
			t.Fatal(err)
		}
		seen[g.ID]++
	}
	if seen["a"] != 5 || seen["c"] != 5 {
		t.Errorf("asked %v, want a and c as often", seen)
	}
	g, err := f.Next(func(id string) bool { return id != "b" })
	if err != nil || g.ID != "b" {
		t.Errorf("Next without a and c: %s, %v, want b", g.ID, err)
	}
	if _, err := f.Next(func(string) bool { return true }); !errors.Is(err, fleet.ErrNoGateway) {
		t.Errorf("Next without anybody: %v, want ErrNoGateway", err)
	}
}

func TestOneConnectionToEachGatewayUntilItIsGone(t *testing.T) {
	f := start(t, dial)
	f.See(cluster.View{Members: []cluster.Member{member("a", cluster.Active)}})
	one, err := f.Gateway("a")
	if err != nil {
		t.Fatal(err)
	}
	two, err := f.Gateway("a")
	if err != nil || one.Conn != two.Conn {
		t.Errorf("a second connection: %v", err)
	}
	f.See(cluster.View{})
	if _, err := f.Gateway("a"); !errors.Is(err, fleet.ErrNoGateway) {
		t.Errorf("a gateway that is gone: %v, want ErrNoGateway", err)
	}
	if c, _ := one.Conn.(*grpc.ClientConn); c.GetState() != connectivity.Shutdown {
		t.Errorf("its connection is %v, want closed", c.GetState())
	}
}

func TestAGatewayThatCannotBeDialledIsAnError(t *testing.T) {
	bad := errors.New("no")
	f := start(t, func(string) (*grpc.ClientConn, error) { return nil, bad })
	f.See(cluster.View{Members: []cluster.Member{member("a", cluster.Active)}})
	if _, err := f.Gateway("a"); !errors.Is(err, bad) {
		t.Errorf("%v, want the dialler's error", err)
	}
}

func TestWithoutAnActiveSessionInstanceThereIsNone(t *testing.T) {
	f := start(t, dial)
	if _, _, err := f.Session(); !errors.Is(err, fleet.ErrNoSession) {
		t.Errorf("%v, want ErrNoSession", err)
	}
}
