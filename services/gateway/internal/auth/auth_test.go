package auth_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-mqtt/beeline/services/gateway/internal/auth"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/rules"
)

func TestAnonymousClientsAreWhoTheySayTheyAre(t *testing.T) {
	for _, tc := range []struct {
		name string
		a    auth.Attempt
		want auth.Identity
	}{
		{"no user name", auth.Attempt{ClientID: "a"}, auth.Identity{ClientID: "a"}},
		{
			"any user name",
			auth.Attempt{ClientID: "a", Username: "anna", HasUsername: true, Password: []byte("wrong"), HasPassword: true},
			auth.Identity{ClientID: "a", Username: "anna"},
		},
		{"over TLS", auth.Attempt{ClientID: "a", TLS: new(tls.ConnectionState)}, auth.Identity{ClientID: "a"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := auth.AllowAnonymous(t.Context(), tc.a)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAGatewayWithoutAnAuthenticatorLetsNobodyIn(t *testing.T) {
	got, err := auth.RefuseAll(t.Context(), auth.Attempt{ClientID: "a", Username: "root", HasUsername: true})
	if !errors.Is(err, auth.ErrNotAuthorized) || got != (auth.Identity{}) {
		t.Fatalf("%+v, %v", got, err)
	}
}

func TestAllowAllPermitsEverything(t *testing.T) {
	for _, action := range []rules.Action{rules.Publish, rules.Subscribe} {
		for qos := range byte(3) {
			if !auth.AllowAll(auth.Identity{}, rules.Request{Action: action, Topic: "p2p/a/secret", QoS: qos, Retain: true}) {
				t.Errorf("action %d at QoS %d is not permitted", action, qos)
			}
		}
	}
}

func TestRefusalsAreToldApartHoweverTheyAreWrapped(t *testing.T) {
	refusals := []error{auth.ErrBadCredentials, auth.ErrNotAuthorized, auth.ErrBanned}
	for i, wrapped := range refusals {
		err := fmt.Errorf("ask the directory: %w", wrapped)
		for j, other := range refusals {
			if errors.Is(err, other) != (i == j) {
				t.Errorf("%v is taken for %v", err, other)
			}
		}
	}
}

// The functions of this package are what the gateway asks for.
var (
	_ auth.Authenticate = auth.AllowAnonymous
	_ auth.Authenticate = auth.RefuseAll
	_ auth.Authorize    = auth.AllowAll
)
