package rpc

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/beeline-mqtt/beeline/internal/config"
	"github.com/beeline-mqtt/beeline/internal/pki"
)

func TestServicesKnowWhoCalls(t *testing.T) {
	ca := authority(t)
	caller := make(chan pki.Identity, 1)
	s := serve(t, certified(t, ca, pki.Request{Name: "session-1", Role: "session"}), &service{
		call: func(ctx context.Context) error {
			id, err := PeerIdentity(ctx)
			caller <- id
			return err
		},
	})
	conn := dial(t, certified(t, ca, pki.Request{Name: "gateway-1", Role: "gateway"}), s.address)
	if err := call(t, conn); err != nil {
		t.Fatal(err)
	}
	if got, want := <-caller, (pki.Identity{Role: "gateway", Name: "gateway-1"}); got != want {
		t.Errorf("the caller is %v, want %v", got, want)
	}
}

func TestWithoutTLSNobodyHasAnIdentity(t *testing.T) {
	s := serve(t, insecureConfig(), &service{call: func(ctx context.Context) error {
		id, err := PeerIdentity(ctx)
		if !errors.Is(err, pki.ErrNoIdentity) {
			t.Errorf("PeerIdentity = %v, %v", id, err)
		}
		return nil
	}})
	if err := call(t, dial(t, insecureConfig(), s.address)); err != nil {
		t.Error(err)
	}
	if _, err := PeerIdentity(t.Context()); !errors.Is(err, pki.ErrNoIdentity) {
		t.Errorf("outside a call: %v", err)
	}
	if !strings.Contains(s.log.String(), "without TLS") {
		t.Errorf("the log does not warn:\n%s", s.log.String())
	}
}

func TestWhoCannotProveToBeAServiceIsNotServed(t *testing.T) {
	ca := authority(t)
	gateway := certified(t, ca, pki.Request{Name: "gateway-1", Role: "gateway"})
	session := certified(t, ca, pki.Request{Name: "session-1", Role: "session"})
	public := certified(t, ca, pki.Request{Name: "mqtt"})
	stranger := certified(t, authority(t), pki.Request{Name: "gateway-1", Role: "gateway"})
	tests := []struct {
		name           string
		server, client Config
	}{
		{"client of another authority", session, stranger},
		{"server of another authority", stranger, gateway},
		{"client without a role", session, public},
		{"server without a role", public, gateway},
		{"client without TLS", session, insecureConfig()},
		{"server without TLS", insecureConfig(), gateway},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, tt.server, &service{call: func(context.Context) error {
				t.Error("the call has come through")
				return nil
			}})
			if err := call(t, dial(t, tt.client, s.address)); status.Code(err) != codes.Unavailable {
				t.Errorf("call = %v, want Unavailable", err)
			}
		})
	}
}

func TestConfigurationSaysWhichKeyIsWrong(t *testing.T) {
	tests := []struct {
		name string
		edit func(c *Config)
		want string // nothing: it is right
	}{
		{"insecure", func(*Config) {}, ""},
		{"certificates", func(c *Config) { c.TLS = TLSConfig{CertFile: "c", KeyFile: "k", CAFile: "a"} }, ""},
		{"neither", func(c *Config) { c.TLS.Insecure = false }, "rpc.tls.cert_file: is missing: services need cert_file, key_file and ca_file, or insecure: true"},
		{"no key", func(c *Config) { c.TLS = TLSConfig{CertFile: "c", CAFile: "a"} }, "rpc.tls.key_file: is missing"},
		{"no authority", func(c *Config) { c.TLS = TLSConfig{CertFile: "c", KeyFile: "k"} }, "rpc.tls.ca_file: is missing"},
		{"both", func(c *Config) { c.TLS.CAFile = "a" }, "rpc.tls.insecure: must not be set together with ca_file"},
		{"no message fits", func(c *Config) { c.MaxMessageSize = 0 }, "rpc.max_message_size"},
		{"messages too big for gRPC", func(c *Config) { c.MaxMessageSize = 4 * config.GiB }, "rpc.max_message_size"},
		{"negative grace", func(c *Config) { c.StopGrace = -time.Second }, "rpc.stop_grace"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := struct {
				RPC Config `koanf:"rpc"`
			}{insecureConfig()}
			tt.edit(&cfg.RPC)
			_, err := config.Load(cfg, config.Source{})
			if (err != nil) != (tt.want != "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Load = %v, want %q", err, tt.want)
			}
		})
	}
}

func TestWithoutCertificatesThereIsNeitherServerNorClient(t *testing.T) {
	missing := DefaultConfig()
	missing.TLS = TLSConfig{CertFile: "/no/such.crt", KeyFile: "/no/such.key", CAFile: "/no/such.ca"}
	for name, tt := range map[string]struct {
		cfg  Config
		want string
	}{
		"nothing configured": {DefaultConfig(), "cert_file"},
		"no such file":       {missing, "/no/such.crt"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := NewServer(tt.cfg, ServerDeps{}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("NewServer = %v, want an error with %q", err, tt.want)
			}
			if _, err := NewDialer(tt.cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("NewDialer = %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestListenNamesTheAddressThatItCannotBind(t *testing.T) {
	first, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	address := first.Addr().String()
	if strings.HasSuffix(address, ":0") {
		t.Errorf("address = %s, want a real port", address)
	}
	if _, err := Listen(t.Context(), address); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), address) {
		t.Errorf("Listen = %v, want %s in use", err, address)
	}
}

func TestARefusalCarriesItsReasonOverTheWire(t *testing.T) {
	tests := []struct {
		reason Reason
		code   codes.Code
	}{
		{NotActive, codes.FailedPrecondition},
		{NotAlive, codes.FailedPrecondition},
		{Fenced, codes.FailedPrecondition},
		{Stopping, codes.Unavailable},
	}
	for _, tt := range tests {
		t.Run(string(tt.reason), func(t *testing.T) {
			s := serve(t, insecureConfig(), &service{call: func(context.Context) error { return Refuse(tt.reason, "because") }})
			err := call(t, dial(t, insecureConfig(), s.address))
			if got := ReasonOf(err); got != tt.reason {
				t.Errorf("reason of %v = %q, want %q", err, got, tt.reason)
			}
			if got := status.Convert(err); got.Code() != tt.code || got.Message() != "because" {
				t.Errorf("status = %v, want %v: because", got, tt.code)
			}
		})
	}
}

func TestErrorsWithoutAReasonHaveNone(t *testing.T) {
	for name, err := range map[string]error{
		"no error":        nil,
		"plain error":     errors.New("x"),
		"status":          status.Error(codes.Unavailable, "x"),
		"end of a stream": context.Canceled,
	} {
		if got := ReasonOf(err); got != "" {
			t.Errorf("%s: reason %q", name, got)
		}
	}
}
