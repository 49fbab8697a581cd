package auth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/beeline-mqtt/beeline/internal/issuer/issuertest"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/internal/watched"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/rules"
)

func TestTheFirstMethodForWhichSomethingWasBroughtDecides(t *testing.T) {
	s := issuertest.NewSigner(t, "k1")
	r := newRig(t, all(withPasswords, withKeys(s), method1("certificate"), method1("anonymous")))
	token := s.Sign(t, issuertest.Claims(r.now()))
	expired := s.Sign(t, issuertest.Claims(r.now(), issuertest.Set("exp", r.now().Add(-time.Hour).Unix())))
	r.want(as("ann", "secret"), "ann", nil)
	r.want(as("joe", token), "joe", nil)
	r.want(as("", token), "joe", nil)
	r.want(as("joe", expired), "", ErrBadCredentials)
	r.want(as("ann", token), "", ErrBadCredentials) // it is joe's
	r.want(as("ann", "wrong"), "", ErrBadCredentials)
	r.want(as("joe", "secret"), "", ErrBadCredentials)
	certified := from("192.0.2.1")
	certified.Via = &Via{Verified: true, CommonName: "meter"}
	r.want(certified, "meter", nil)
	certified.Username, certified.HasUsername = "ann", true
	certified.Password, certified.HasPassword = []byte("secret"), true
	r.want(certified, "ann", nil) // password is asked first
	r.want(from("192.0.2.1"), "", nil)
	named := from("192.0.2.1")
	named.Username, named.HasUsername = "ann", true
	r.want(named, "", ErrBadCredentials)
	for labels, want := range map[string]float64{
		"method=password reason=accepted": 2, "method=password reason=credentials": 2, "method=jwt reason=accepted": 2,
		"method=jwt reason=token_expired": 1, "method=jwt reason=username": 1, "method=certificate reason=accepted": 1,
		"method=anonymous reason=accepted": 1, "method=none reason=credentials": 1,
	} {
		if got := r.counted("beeline_gateway_authentications_total", strings.Fields(labels)...); got != want {
			t.Errorf("%s: %v, want %v", labels, got, want)
		}
	}
}

func TestWithoutAMethodForItNobodyIsLetIn(t *testing.T) {
	r := newRig(t, withPasswords)
	r.want(from("192.0.2.1"), "", ErrNotAuthorized)
	r.want(as("", "secret"), "", ErrBadCredentials)
	certified := from("192.0.2.1")
	certified.Via = &Via{Verified: true, CommonName: "ann"}
	r.want(certified, "", ErrNotAuthorized)

	r = newRig(t, method1("certificate"))
	r.want(as("ann", "secret"), "", ErrBadCredentials)
	r = newRig(t, method1("anonymous"))
	r.want(as("ann", "secret"), "", ErrBadCredentials)
	r.want(as("", "secret"), "", ErrBadCredentials)
	r.want(from("192.0.2.1"), "", nil)
}

func TestAClientIDMayHaveToBeTheUserName(t *testing.T) {
	s := issuertest.NewSigner(t, "k1")
	r := newRig(t, all(withPasswords, withKeys(s), method1("certificate"), func(r *rig) { r.cfg.ClientID = "username" }))
	certified := Attempt{Via: &Via{Verified: true, CommonName: "c"}}
	for _, a := range []Attempt{as("ann", "secret"), as("joe", s.Sign(t, issuertest.Claims(r.now())))} {
		r.want(a, "", ErrNotAuthorized)
		a.ClientID = a.Username
		r.want(a, a.Username, nil)
	}
	r.want(certified, "", ErrNotAuthorized)
	certified.ClientID = "c"
	r.want(certified, "c", nil)
}

func TestAJWTSaysWhoTheClientIs(t *testing.T) {
	s := issuertest.NewSigner(t, "k1")
	r := newRig(t, all(withKeys(s), func(r *rig) {
		r.cfg.JWT.UsernameClaim, r.cfg.JWT.ClientIDClaim = "device.name", "cid"
	}))
	sign := func(changes ...func(jwt.MapClaims)) Attempt {
		device := issuertest.Set("device", map[string]any{"name": "meter"})
		return as("", s.Sign(t, issuertest.Claims(r.now(), append([]func(jwt.MapClaims){device, issuertest.Set("cid", "c")}, changes...)...)))
	}
	id := r.want(sign(), "meter", nil)
	if end := r.now().Add(time.Hour).Truncate(time.Second).Add(r.cfg.JWT.Skew); !id.Expires.Equal(end) || id.Rules != nil {
		t.Errorf("%+v; want its end at %v", id, end)
	}
	named := sign()
	named.Username, named.HasUsername = "meter", true
	r.want(named, "meter", nil)
	named.Username = "other"
	r.want(named, "", ErrBadCredentials)
	r.want(sign(issuertest.Set("cid", "d")), "", ErrNotAuthorized)
	r.want(sign(issuertest.Set("cid", nil)), "", ErrNotAuthorized)
	r.want(sign(issuertest.Set("device", "meter")), "", ErrNotAuthorized)
	r.want(sign(issuertest.Set("device", map[string]any{"name": 7})), "", ErrNotAuthorized)
	r.want(sign(issuertest.Set("acl", "all")), "", ErrNotAuthorized)
	r.want(sign(issuertest.Set("acl", []any{map[string]any{"permission": "allow", "action": "all"}})), "", ErrNotAuthorized)
	r.want(as("", s.Unsigned(t, issuertest.Claims(r.now()))), "", ErrBadCredentials)
	r.want(as("", s.Confused(t, issuertest.Claims(r.now()))), "", ErrBadCredentials)
	r.want(as("", "eyJ"+strings.Repeat("a", 60000)+".b.c"), "", ErrBadCredentials)
	r.want(as("", strings.Repeat("a", 60000)), "", ErrBadCredentials)
}

func TestASecretMaySignJWTs(t *testing.T) {
	const secret = "a secret of thirty-two bytes, and more"
	r := newRig(t, func(r *rig) {
		r.cfg.Methods, r.cfg.JWT.SecretFile = []string{"jwt"}, r.file("secret", secret)
	})
	r.want(as("joe", issuertest.Secret(t, secret, issuertest.Claims(r.now()))), "joe", nil)
	r.want(as("joe", issuertest.Secret(t, secret+".", issuertest.Claims(r.now()))), "", ErrBadCredentials)
	r.want(as("joe", issuertest.NewSigner(t, "").Sign(t, issuertest.Claims(r.now()))), "", ErrBadCredentials)
}

func TestWithoutKeysItIsNotKnownWhoAClientIs(t *testing.T) {
	s := issuertest.NewSigner(t, "k1")
	r := newRig(t, func(r *rig) {
		r.cfg.Methods, r.cfg.JWT.JWKSURL = []string{"jwt"}, "https://keys.invalid"
		r.cfg.JWT.Issuer, r.cfg.JWT.Audience = issuertest.Issuer, issuertest.Audience
	})
	for range r.cfg.Failures + 1 { // it is not their mistake
		r.want(as("joe", s.Sign(t, issuertest.Claims(r.now()))), "", errUnavailable)
	}
}

func TestACertificateSaysWhoTheClientIs(t *testing.T) {
	uri, err := url.Parse("urn:dev:7")
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		Subject: pkix.Name{CommonName: "cn"}, DNSNames: []string{"dns"}, EmailAddresses: []string{"a@b"}, URIs: []*url.URL{uri},
	}
	shown := func(c *x509.Certificate) Attempt {
		a := from("192.0.2.1")
		a.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}, VerifiedChains: [][]*x509.Certificate{{c}}}
		return a
	}
	unverified := shown(cert)
	unverified.TLS.VerifiedChains = nil
	behind := shown(cert) // the proxy's own certificate
	behind.Via = &Via{TLS: true}
	verified := from("192.0.2.1")
	verified.Via = &Via{TLS: true, Verified: true, CommonName: "far"}
	for field, want := range map[string]string{"cn": "cn", "dns": "dns", "email": "a@b", "uri": "urn:dev:7"} {
		t.Run(field, func(t *testing.T) {
			r := newRig(t, all(method1("certificate"), func(r *rig) { r.cfg.Certificate.Username = field }))
			r.want(shown(cert), want, nil)
			r.want(shown(&x509.Certificate{}), "", ErrNotAuthorized)
			r.want(shown(&x509.Certificate{DNSNames: []string{"a", "b"}, EmailAddresses: []string{"a", "b"}, URIs: []*url.URL{uri, uri}}), "", ErrNotAuthorized)
			r.want(unverified, "", ErrNotAuthorized)
			r.want(behind, "", ErrNotAuthorized)
			if field == "cn" {
				r.want(verified, "far", nil)
			} else {
				r.want(verified, "", ErrNotAuthorized)
			}
			named := shown(cert)
			named.Username, named.HasUsername = "other", true
			r.want(named, "", ErrBadCredentials)
			named.Username = want
			r.want(named, want, nil)
		})
	}
}

func TestAfterTooManyFailuresAnAddressIsRefused(t *testing.T) {
	r := newRig(t, all(withPasswords, func(r *rig) { r.cfg.Failures = 3 }))
	for range 3 {
		r.want(as("ann", "wrong"), "", ErrBadCredentials)
	}
	r.want(as("ann", "secret"), "", ErrTooManyFailures)
	elsewhere := as("ann", "secret")
	elsewhere.Remote = from("192.0.2.2").Remote
	r.want(elsewhere, "ann", nil)
	r.advance(20 * time.Second)
	r.want(as("ann", "secret"), "ann", nil)
	r.want(as("ann", "wrong"), "", ErrBadCredentials)
	r.want(as("ann", "secret"), "", ErrTooManyFailures)
	r.advance(time.Minute)
	for range 10 {
		r.want(as("ann", "secret"), "ann", nil)
	}
	if n := r.counted("beeline_gateway_authentications_total", "reason=failures"); n != 2 {
		t.Errorf("%v were counted", n)
	}
}

func TestRulesOfATokenComeBeforeThoseForEverybody(t *testing.T) {
	s := issuertest.NewSigner(t, "k1")
	r := newRig(t, all(withKeys(s), withPasswords, func(r *rig) {
		r.cfg.RulesFile = r.file("rules", `
rules:
  - {permission: deny, action: publish, topic: config/#}
  - {permission: allow, action: all, topic: ["config/#", "u/${username}/#", "p2p/+/note"]}
  - {permission: deny, action: publish, topic: group/locked/#}
`)
	}))
	joe := r.want(as("joe", s.Sign(t, issuertest.Claims(r.now(), issuertest.Set("acl", []map[string]any{
		{"permission": "allow", "action": "publish", "topic": "config/${username}"},
		{"permission": "deny", "action": "all", "topic": "u/#"},
	})))), "joe", nil)
	ann := r.want(as("ann", "secret"), "ann", nil)
	answers := topic.Direct("$service-router-XYZ", "answer")
	for _, c := range []struct {
		name     string
		id       Identity
		q        rules.Request
		expected bool
	}{
		{"what the token permits", joe, rules.Request{Action: rules.Publish, Topic: "config/joe"}, true},
		{"what the file forbids", joe, rules.Request{Action: rules.Publish, Topic: "config/x"}, false},
		{"what the file permits", joe, rules.Request{Action: rules.Subscribe, Topic: "config/#"}, true},
		{"what the token forbids", joe, rules.Request{Action: rules.Publish, Topic: "u/joe/x"}, false},
		{"without a token's rules", ann, rules.Request{Action: rules.Publish, Topic: "config/ann"}, false},
		{"her own", ann, rules.Request{Action: rules.Publish, Topic: "u/ann/x"}, true},
		{"another's", ann, rules.Request{Action: rules.Publish, Topic: "u/joe/x"}, false},
		{"what nothing says", ann, rules.Request{Action: rules.Publish, Topic: "a"}, false},
		{"all", ann, rules.Request{Action: rules.Subscribe, Topic: "#"}, false},
		{"a client", ann, rules.Request{Action: rules.Publish, Topic: "p2p/x/note"}, true},
		{"a client, otherwise", ann, rules.Request{Action: rules.Publish, Topic: "p2p/x/cmd"}, false},
		{"a group, of which the gateway says that she is a member", ann, rules.Request{Action: rules.Publish, Topic: "group/g/x"}, true},
		{"a group that is named", ann, rules.Request{Action: rules.Publish, Topic: "group/locked/x"}, false},
		{"the answer to a command", ann, rules.Request{Action: rules.Publish, Topic: answers}, true},
		{"another service", ann, rules.Request{Action: rules.Publish, Topic: "p2p/$service-x/y"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := r.Authorize(c.id, c.q); got != c.expected {
				t.Errorf("%+v: %v", c.q, got)
			}
		})
	}
	if n := r.counted("beeline_gateway_authorization_denied_total", "action=publish"); n != 8 {
		t.Errorf("%v were counted", n)
	}
	n := testing.AllocsPerRun(100, func() {
		r.Authorize(joe, rules.Request{Action: rules.Publish, Topic: "u/joe/x", QoS: 1})
		r.Authorize(ann, rules.Request{Action: rules.Publish, Topic: "u/ann/x", QoS: 1})
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestWithoutRulesAllIsPermittedButToWhoBringsSome(t *testing.T) {
	s := issuertest.NewSigner(t, "k1")
	r := newRig(t, withKeys(s))
	some := r.want(as("joe", s.Sign(t, issuertest.Claims(r.now(), issuertest.Set("acl", []map[string]any{
		{"permission": "allow", "action": "publish", "topic": "a"},
	})))), "joe", nil)
	none := r.want(as("joe", s.Sign(t, issuertest.Claims(r.now()))), "joe", nil)
	empty := r.want(as("joe", s.Sign(t, issuertest.Claims(r.now(), issuertest.Set("acl", []string{})))), "joe", nil)
	for name, c := range map[string]struct {
		id   Identity
		a, b bool
	}{"some": {some, true, false}, "none": {none, true, true}, "an empty list": {empty, false, false}} {
		a := r.Authorize(c.id, rules.Request{Action: rules.Publish, Topic: "a"})
		b := r.Authorize(c.id, rules.Request{Action: rules.Subscribe, Topic: "b"})
		if a != c.a || b != c.b {
			t.Errorf("%s: %v, %v", name, a, b)
		}
	}
}

func TestRulesAreReadAgainWhileTheyRun(t *testing.T) {
	r := newRig(t, all(method1("anonymous"), func(r *rig) {
		r.cfg.RulesFile = r.file("rules", "rules: [{permission: allow, action: all, topic: a}]")
	}))
	may := func(topic string) bool {
		r.rules.Get(t.Context())
		return r.Authorize(Identity{ClientID: "c"}, rules.Request{Action: rules.Publish, Topic: topic})
	}
	if !may("a") || may("b") {
		t.Error("the first rules are not in force")
	}
	r.file("rules", "rules: [{permission: allow, action: all, topic: b}]")
	r.advance(watched.Interval)
	if may("a") || !may("b") {
		t.Error("the second rules are not in force")
	}
	r.file("rules", "rules: [{permission: perhaps}]")
	r.advance(watched.Interval)
	if may("a") || !may("b") {
		t.Error("with wrong rules the former ones are not in force")
	}
	if !strings.Contains(r.log.String(), "cannot be read again") {
		t.Errorf("it says:\n%s", r.log.String())
	}

	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.Run(ctx)
	}()
	stop()
	<-ended
}

func TestTheLogHasNoSecrets(t *testing.T) {
	s := issuertest.NewSigner(t, "k1")
	r := newRig(t, all(withPasswords, withKeys(s), func(r *rig) { r.cfg.Failures = 0 }))
	token := s.Sign(t, issuertest.Claims(r.now()))
	r.want(as("ann", "secret"), "ann", nil)
	r.want(as("ann", "swordfish"), "", ErrBadCredentials)
	r.want(as("joe", token), "joe", nil)
	r.want(as("joe", token[:len(token)-2]+"AA"), "", ErrBadCredentials)
	r.want(as(strings.Repeat("x", 1000), "swordfish"), "", ErrBadCredentials)
	for range 100 {
		r.want(as("", "swordfish"), "", ErrBadCredentials)
	}
	said := r.log.String()
	for _, secret := range []string{"secret", "swordfish", token[:20], strings.Repeat("x", longestLogged+1), "$2a$"} {
		if strings.Contains(said, secret) {
			t.Errorf("%q is in the log", secret)
		}
	}
	if n := strings.Count(said, "level=INFO msg=audit"); n < 3 || n > 60 {
		t.Errorf("%d refusals are in the log", n)
	}
	if !strings.Contains(said, "who=ann client_id=c from=192.0.2.1:1000 listener=mqtt method=password outcome=credentials") {
		t.Errorf("the log is\n%s", said)
	}
}

func TestWrongConfigurationNamesTheKey(t *testing.T) {
	for _, c := range []struct {
		want   string
		change func(*Config)
	}{
		{"methods", func(c *Config) { c.Methods = []string{"magic"} }},
		{"methods", func(c *Config) { c.Methods = []string{"anonymous", "anonymous"} }},
		{"rules_file", func(c *Config) { c.RulesFile = "x" }},
		{"client_id", func(c *Config) { c.ClientID = "mine" }},
		{"client_id", func(c *Config) { c.ClientID, c.Methods = "username", []string{"anonymous"} }},
		{"failures", func(c *Config) { c.Failures = -1 }},
		{"password.file", func(c *Config) { c.Methods = []string{"password"} }},
		{"password.concurrency", func(c *Config) { c.Password.Concurrency = -1 }},
		{"password.waiting", func(c *Config) { c.Password.Waiting = 0 }},
		{"jwt", func(c *Config) { c.Methods = []string{"jwt"} }},
		{"jwt.secret_file", func(c *Config) { c.JWT.JWKSFile, c.JWT.SecretFile = "x", "y" }},
		{"jwt.username_claim", func(c *Config) {
			c.Methods, c.JWT.SecretFile, c.JWT.UsernameClaim = []string{"jwt"}, "x", ""
		}},
		{"certificate.username", func(c *Config) { c.Certificate.Username = "serial" }},
	} {
		cfg := DefaultConfig()
		if err := cfg.Validate(); err != nil || cfg.Enabled() {
			t.Fatalf("enabled: %v, %v", cfg.Enabled(), err)
		}
		c.change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.HasPrefix(err.Error(), c.want+": ") {
			t.Errorf("%s: %v", c.want, err)
		}
	}
	skewed := JWTConfig{SecretFile: "x"}
	skewed.Skew = -1
	if err := skewed.Validate(); err == nil {
		t.Error("a skew below 0 is taken")
	}
	r := &rig{t: t, dir: t.TempDir()}
	for name, change := range map[string]func(*Config){
		"users": func(c *Config) { c.Methods, c.Password.File = []string{"password"}, r.file("users", "ann:secret") },
		"keys":  func(c *Config) { c.Methods, c.JWT.JWKSFile = []string{"jwt"}, r.file("jwks", "{}") },
		"secret": func(c *Config) {
			c.Methods, c.JWT.SecretFile = []string{"jwt"}, r.file("secret", "short")
		},
		"rules": func(c *Config) {
			c.Methods, c.RulesFile = []string{"anonymous"}, r.file("rules", "rules: [{}]")
		},
	} {
		cfg := DefaultConfig()
		change(&cfg)
		if _, err := New(cfg, newRig(t, method1("anonymous")).deps()); err == nil || strings.Contains(err.Error(), "ann:secret") {
			t.Errorf("wrong %s: %v", name, err)
		}
	}
}
