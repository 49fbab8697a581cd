package rpc

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/beeline-mqtt/beeline/internal/pki"
)

func TestOnlyTheRoleThatIsRequiredIsLetIn(t *testing.T) {
	ca := authority(t)
	onlyGateways := &service{call: func(ctx context.Context) error { return RequireRole(ctx, "gateway") }}
	s := serve(t, certified(t, ca, pki.Request{Name: "session-1", Role: "session"}), onlyGateways)
	for role, want := range map[string]codes.Code{"gateway": codes.OK, "session": codes.PermissionDenied} {
		conn := dial(t, certified(t, ca, pki.Request{Name: role + "-2", Role: role}), s.address)
		if got := status.Code(call(t, conn)); got != want {
			t.Errorf("a %s calls: %v, want %v", role, got, want)
		}
	}
}

func TestOneOfSeveralRolesIsEnough(t *testing.T) {
	ca := authority(t)
	peers := &service{call: func(ctx context.Context) error { return RequireRole(ctx, "gateway", "session") }}
	s := serve(t, certified(t, ca, pki.Request{Name: "session-1", Role: "session"}), peers)
	for role, want := range map[string]codes.Code{"gateway": codes.OK, "session": codes.OK, "router": codes.PermissionDenied} {
		conn := dial(t, certified(t, ca, pki.Request{Name: role + "-2", Role: role}), s.address)
		if got := status.Code(call(t, conn)); got != want {
			t.Errorf("a %s calls: %v, want %v", role, got, want)
		}
	}
}

func TestWithoutTLSNoRoleIsRequired(t *testing.T) {
	s := serve(t, insecureConfig(), &service{call: func(ctx context.Context) error { return RequireRole(ctx, "gateway") }})
	if err := call(t, dial(t, insecureConfig(), s.address)); err != nil {
		t.Error(err)
	}
	if got := status.Code(RequireRole(t.Context(), "gateway")); got != codes.PermissionDenied {
		t.Errorf("outside a call: %v", got)
	}
}
