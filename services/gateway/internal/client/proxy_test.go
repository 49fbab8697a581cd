package client_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/beeline-mqtt/beeline/internal/listener/listenertest"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/auth"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// PROXY headers: of 203.0.113.7:4711, the second with a client certificate and the host asked for, and of the proxy.
const (
	signature = "\r\n\r\n\x00\r\nQUIT\n"
	ofPlain   = "PROXY TCP4 203.0.113.7 10.0.0.1 4711 1883\r\n"
	ofAnn     = signature + "\x21\x11\x00\x2e" + "\xcb\x00\x71\x07\x0a\x00\x00\x01\x12\x67\x07\x5b" +
		"\x20\x00\x15" + "\x03\x00\x00\x00\x00" + "\x21\x00\x07TLSv1.3" + "\x22\x00\x03ann" +
		"\x02\x00\x07a.b.com"
	ofProxy = signature + "\x20\x00\x00\x00"
)

func TestAnAuthenticatorSeesTheClientBehindTheProxyOverEveryTransport(t *testing.T) {
	for _, tc := range []struct {
		name, header, remote string
		via                  *auth.Via
	}{
		{"plain", ofPlain, "203.0.113.7:4711", &auth.Via{}},
		{"with a certificate", ofAnn, "203.0.113.7:4711", &auth.Via{
			TLS: true, Version: "TLSv1.3", CommonName: "ann", Verified: true, Authority: "a.b.com",
		}},
		{"the proxy itself", ofProxy, "127.0.0.1:", nil},
		{"no proxy", "", "127.0.0.1:", nil},
	} {
		for _, tr := range transportsBehind(t, tc.header) {
			t.Run(tc.name+", "+tr.name, func(t *testing.T) {
				attempts := make(chan auth.Attempt, 1)
				b, limits, cfg := new(single), client.DefaultLimits(), tr.cfg
				if tc.header != "" {
					cfg.ProxyFrom = []string{"loopback"}
				}
				r := listenertest.Serve(t, cfg, 10, mqtt(b, &limits, prometheus.NewRegistry(), func(d *client.Deps) {
					d.Authenticate = func(ctx context.Context, a auth.Attempt) (auth.Identity, error) {
						attempts <- a
						return auth.AllowAnonymous(ctx, a)
					}
				}))
				c := rawmqtt.Over(t, tr.dial(t, r), rawmqtt.V5)
				if ack := c.Hello("a"); ack.ReasonCode != 0 {
					t.Fatalf("CONNACK %#x", ack.ReasonCode)
				}
				a := receive(t, attempts, "an attempt")
				if got := a.Remote.String(); !strings.HasPrefix(got, tc.remote) {
					t.Errorf("client's address %q, want %q", got, tc.remote)
				}
				if diff := cmp.Diff(tc.via, a.Via); diff != "" {
					t.Error(diff)
				}
				if (a.TLS != nil) != (cfg.CertFile != "") {
					t.Errorf("TLS with the gateway: %+v", a.TLS)
				}
				c.MustSubscribe("t", 0)
				payload := strings.Repeat("x", 100_000)
				c.Publish("t", payload, 0)
				c.ReceivePayload(payload)
				r.End()
				if got := c.ExpectClosed(); got != 0x8B {
					t.Errorf("DISCONNECT %#x at the end", got)
				}
			})
		}
	}
}

func TestWhatComesWithTheHeaderIsNotLost(t *testing.T) {
	b, limits := new(single), client.DefaultLimits()
	tr := transportsBehind(t, ofAnn+string(rawmqtt.Bytes(t, rawmqtt.ConnectPacket(rawmqtt.V5, "a"))))[0]
	tr.cfg.ProxyFrom = []string{"loopback"}
	r := listenertest.Serve(t, tr.cfg, 10, mqtt(b, &limits, prometheus.NewRegistry()))
	c := rawmqtt.Over(t, tr.dial(t, r), rawmqtt.V5)
	if ack := c.Expect(packets.Connack); ack.ReasonCode != 0 {
		t.Errorf("CONNACK %#x", ack.ReasonCode)
	}
	c.MustSubscribe("t", 0)
	c.Publish("t", "m", 0)
	c.ReceivePayload("m")
}

func TestAHeaderFromWhoIsNoProxyIsNoMQTT(t *testing.T) {
	for name, header := range map[string]string{"version 1": ofPlain, "version 2": ofAnn} {
		t.Run(name, func(t *testing.T) {
			b, limits, registry := new(single), client.DefaultLimits(), prometheus.NewRegistry()
			connect := rawmqtt.Bytes(t, rawmqtt.ConnectPacket(rawmqtt.V5, "a", user("ann", strings.Repeat("x", 100))))
			tr := transportsBehind(t, header+string(connect))[0]
			tr.cfg.ProxyFrom = []string{"192.0.2.1"}
			r := listenertest.Serve(t, tr.cfg, 10, mqtt(b, &limits, registry))
			rawmqtt.Over(t, tr.dial(t, r), rawmqtt.V5).ExpectClosed()
			r.End()
			receive(t, r.Done, "the end of Serve")
			if n := refusedAs(t, registry, "no_connect"); n != 1 {
				t.Errorf("%v connections are counted as no MQTT", n)
			}
		})
	}
}

func TestWhatTheListenerRefusesIsCounted(t *testing.T) {
	registry := prometheus.NewRegistry()
	m := client.NewMetrics(registry)
	m.Refused("proxy_header_missing")
	m.Refused("proxy_header_missing")
	if n := refusedAs(t, registry, "proxy_header_missing"); n != 2 {
		t.Errorf("%v are counted", n)
	}
}

// refusedAs returns how many connections were refused for a reason.
func refusedAs(t *testing.T, registry *prometheus.Registry, reason string) float64 {
	t.Helper()
	r := &rig{t: t, registry: registry}
	return r.metric("beeline_gateway_connects_refused_total", "reason="+reason)
}
