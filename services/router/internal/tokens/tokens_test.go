package tokens

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"
	"golang.org/x/crypto/bcrypt"

	"github.com/beeline-mqtt/beeline/services/router/internal/access"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a clock that tests set.
type clock struct{ at atomic.Int64 }

func newClock() *clock {
	c := new(clock)
	c.at.Store(time.Now().UnixNano())
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.at.Load()) }
func (c *clock) advance(d time.Duration) { c.at.Add(int64(d)) }

func (c *clock) deps() Deps { return Deps{Logger: slog.New(slog.DiscardHandler), Now: c.now} }

func write(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o600))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newVerifier(t *testing.T, cfg Config, c *clock) *Verifier {
	t.Helper()
	v, err := New(cfg, c.deps())
	must(t, err)
	return v
}

// want checks who presents a token; the name is empty where nobody is to.
func want(t *testing.T, v *Verifier, token, name string, role access.Role, why error) access.Principal {
	t.Helper()
	p, err := v.Verify(t.Context(), token)
	if !errors.Is(err, why) || p.Name != name || err == nil && p.Role != role {
		t.Errorf("%+v, %v; want %s, %v, %v", p, err, name, role, why)
	}
	return p
}

func TestATokenIsFoundByItsHash(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("secret.with.dots"), bcrypt.MinCost)
	must(t, err)
	path := filepath.Join(t.TempDir(), "tokens.yaml")
	write(t, path, fmt.Sprintf(`
tokens:
  - {name: chat, role: publisher, sha256: %s, limits: {publish: [chat/#]}}
  - {name: joe, role: operator, bcrypt: "%s"}
`, strings.ToUpper(Hash("token-1")), hash))
	v := newVerifier(t, Config{File: path}, newClock())
	chat := want(t, v, "token-1", "chat", access.Publisher, nil)
	if !chat.Limits.MayPublish("chat/x") || chat.Limits.MayPublish("x") || chat.Limits.MaySubscribe("chat/x") {
		t.Errorf("its limits are %+v", chat.Limits)
	}
	for range 2 { // the second time it is known
		want(t, v, "joe.secret.with.dots", "joe", access.Operator, nil)
	}
	for _, other := range []string{"", "token-2", Hash("token-1"), "joe", "joe.", "joe.secret", "chat.token-1", string(hash)} {
		want(t, v, other, "", 0, ErrInvalid)
	}
}

func TestATokenFileMayBeJSONOrHaveNoTokens(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a"), `{"tokens": [{"name": "a", "role": "viewer", "sha256": "`+Hash("x")+`", "limits": {"subscribe": ["a/#"]}}]}`)
	want(t, newVerifier(t, Config{File: filepath.Join(dir, "a")}, newClock()), "x", "a", access.Viewer, nil)
	write(t, filepath.Join(dir, "b"), "")
	want(t, newVerifier(t, Config{File: filepath.Join(dir, "b")}, newClock()), "x", "", 0, ErrInvalid)
}

func TestAWrongTokenFileIsRefused(t *testing.T) {
	for name, c := range map[string]struct{ entry, why string }{
		"no YAML":               {"[", "yaml"},
		"unknown key":           {"- {name: a, role: viewer, token: x}", "token"},
		"no name":               {"- {role: viewer, sha256: " + Hash("x") + "}", "name is missing"},
		"unknown role":          {"- {name: a, role: king, sha256: " + Hash("x") + "}", `"king"`},
		"no hash":               {"- {name: a, role: viewer}", "give sha256 or bcrypt"},
		"two hashes":            {"- {name: a, role: viewer, sha256: " + Hash("x") + ", bcrypt: y}", "give sha256 or bcrypt"},
		"short hash":            {"- {name: a, role: viewer, sha256: abcd}", "64 hexadecimal digits"},
		"no bcrypt":             {"- {name: a, role: viewer, bcrypt: abcd}", "bcrypt"},
		"the same token twice":  {"- {name: a, role: viewer, sha256: " + Hash("x") + "}\n- {name: b, role: viewer, sha256: " + Hash("x") + "}", "same token"},
		"an operator's limits":  {"- {name: a, role: operator, sha256: " + Hash("x") + ", limits: {}}", "operator has none"},
		"a limit that is wrong": {"- {name: a, role: viewer, sha256: " + Hash("x") + `, limits: {publish: ["a/#/b"]}}`, "a/#/b"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := parseTable([]byte("tokens:\n" + c.entry + "\n")); err == nil || !strings.Contains(err.Error(), c.why) {
				t.Errorf("%v, want one about %s", err, c.why)
			}
		})
	}
	if _, err := New(Config{File: filepath.Join(t.TempDir(), "none")}, newClock().deps()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestATokenFileIsReadAgainWhenItChanges(t *testing.T) {
	c := newClock()
	path := filepath.Join(t.TempDir(), "tokens.yaml")
	entry := func(token string) string {
		return "tokens: [{name: a, role: viewer, sha256: " + Hash(token) + "}]"
	}
	write(t, path, entry("first"))
	v := newVerifier(t, Config{File: path}, c)
	want(t, v, "first", "a", access.Viewer, nil)

	write(t, path+".new", entry("second"))
	must(t, os.Rename(path+".new", path))
	want(t, v, "first", "a", access.Viewer, nil)
	c.advance(checkInterval)
	want(t, v, "first", "", 0, ErrInvalid)
	want(t, v, "second", "a", access.Viewer, nil)

	write(t, path, "what is this")
	c.advance(checkInterval)
	want(t, v, "second", "a", access.Viewer, nil)
	must(t, os.Remove(path))
	c.advance(checkInterval)
	want(t, v, "second", "a", access.Viewer, nil)
	write(t, path, entry("third"))
	c.advance(checkInterval)
	want(t, v, "second", "", 0, ErrInvalid)
	want(t, v, "third", "a", access.Viewer, nil)
}

// signer signs JWTs with one key.
type signer struct {
	key *ecdsa.PrivateKey
	kid string
}

func newSigner(t *testing.T, kid string) *signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return &signer{key, kid}
}

func jwks(t *testing.T, signers ...*signer) string {
	t.Helper()
	var keys []map[string]string
	for _, s := range signers {
		point, err := s.key.PublicKey.Bytes() // 4, x, y
		must(t, err)
		keys = append(keys, map[string]string{
			"kty": "EC", "crv": "P-256", "kid": s.kid, "alg": "ES256", "use": "sig",
			"x": base64.RawURLEncoding.EncodeToString(point[1:33]), "y": base64.RawURLEncoding.EncodeToString(point[33:]),
		})
	}
	text, err := json.Marshal(map[string]any{"keys": keys})
	must(t, err)
	return string(text)
}

func (s *signer) sign(t *testing.T, claims jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	token.Header["kid"] = s.kid
	text, err := token.SignedString(s.key)
	must(t, err)
	return text
}

func (c *clock) claims(changes ...func(jwt.MapClaims)) jwt.MapClaims {
	m := jwt.MapClaims{
		"iss": "https://issuer", "aud": []string{"beeline", "other"}, "sub": "joe", "beeline_role": "publisher",
		"iat": c.now().Unix(), "exp": c.now().Add(time.Hour).Unix(),
	}
	for _, change := range changes {
		change(m)
	}
	return m
}

func set(name string, value any) func(jwt.MapClaims) {
	return func(m jwt.MapClaims) {
		if m[name] = value; value == nil {
			delete(m, name)
		}
	}
}

func jwtConfig() JWTConfig {
	cfg := DefaultJWTConfig()
	cfg.Issuer, cfg.Audience = "https://issuer", "beeline"
	return cfg
}

func TestAJWTIsTakenIfEverythingAboutItIsRight(t *testing.T) {
	c, s := newClock(), newSigner(t, "k1")
	cfg := jwtConfig()
	cfg.JWKSFile = filepath.Join(t.TempDir(), "jwks.json")
	write(t, cfg.JWKSFile, jwks(t, s))
	v := newVerifier(t, Config{JWT: cfg}, c)
	want(t, v, s.sign(t, c.claims()), "joe", access.Publisher, nil)
	want(t, v, s.sign(t, c.claims(set("beeline_role", nil))), "joe", access.Known, nil)
	want(t, v, s.sign(t, c.claims(set("beeline_role", []string{"x", "viewer", "operator"}))), "joe", access.Operator, nil)
	want(t, v, s.sign(t, c.claims(set("exp", c.now().Add(-20*time.Second).Unix()))), "joe", access.Publisher, nil)

	none := jwt.NewWithClaims(jwt.SigningMethodNone, c.claims())
	none.Header["kid"] = "k1"
	unsigned, err := none.SignedString(jwt.UnsafeAllowNoneSignatureType)
	must(t, err)
	public, err := s.key.PublicKey.Bytes()
	must(t, err)
	confused := jwt.NewWithClaims(jwt.SigningMethodHS256, c.claims())
	confused.Header["kid"] = "k1"
	symmetric, err := confused.SignedString(public)
	must(t, err)
	right := s.sign(t, c.claims())
	for name, x := range map[string]struct {
		token string
		why   error
	}{
		"expired":            {s.sign(t, c.claims(set("exp", c.now().Add(-time.Minute).Unix()))), ErrExpired},
		"without an end":     {s.sign(t, c.claims(set("exp", nil))), ErrInvalid},
		"not yet valid":      {s.sign(t, c.claims(set("nbf", c.now().Add(time.Minute).Unix()))), ErrInvalid},
		"of the future":      {s.sign(t, c.claims(set("iat", c.now().Add(time.Minute).Unix()))), ErrInvalid},
		"of another issuer":  {s.sign(t, c.claims(set("iss", "https://other"))), ErrInvalid},
		"of no issuer":       {s.sign(t, c.claims(set("iss", nil))), ErrInvalid},
		"for somebody else":  {s.sign(t, c.claims(set("aud", "other"))), ErrInvalid},
		"for nobody":         {s.sign(t, c.claims(set("aud", nil))), ErrInvalid},
		"without a name":     {s.sign(t, c.claims(set("sub", nil))), ErrInvalid},
		"unsigned":           {unsigned, ErrInvalid},
		"signed with HMAC":   {symmetric, ErrInvalid},
		"of another key":     {newSigner(t, "k1").sign(t, c.claims()), ErrInvalid},
		"of an unknown key":  {newSigner(t, "k2").sign(t, c.claims()), ErrInvalid},
		"with another end":   {right[:len(right)-4] + "AAAA", ErrInvalid},
		"with another claim": {strings.Replace(right, ".", ".e30", 1), ErrInvalid},
		"not a token":        {"a.b.c", ErrInvalid},
		"nothing":            {"", ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) { want(t, v, x.token, "", 0, x.why) })
	}
}

func TestClaimsAreFoundWhereTheyAreSaidToBe(t *testing.T) {
	c, s := newClock(), newSigner(t, "k1")
	cfg := jwtConfig()
	cfg.JWKSFile = filepath.Join(t.TempDir(), "jwks.json")
	write(t, cfg.JWKSFile, jwks(t, s))
	cfg.NameClaim, cfg.RoleClaim, cfg.LimitsClaim = "client.id", "https://x.example/roles", "limits"
	cfg.Operators = []string{"admins"}
	v := newVerifier(t, Config{JWT: cfg}, c)
	name := set("client", map[string]any{"id": "svc"})
	role := func(r string) func(jwt.MapClaims) { return set("https://x.example/roles", []string{r}) }

	if p := want(t, v, s.sign(t, c.claims(name, role("admins"))), "svc", access.Operator, nil); p.Limits != nil {
		t.Errorf("an operator has limits: %+v", p.Limits)
	}
	if p := want(t, v, s.sign(t, c.claims(name, role("publisher"))), "svc", access.Publisher, nil); p.Limits.MayPublish("a") {
		t.Error("without the claim there are no limits")
	}
	limited := set("limits", map[string]any{"publish": []string{"a/#"}})
	if p := want(t, v, s.sign(t, c.claims(name, role("publisher"), limited)), "svc", access.Publisher, nil); !p.Limits.MayPublish("a/b") || p.Limits.MayPublish("b") {
		t.Errorf("the limits are %+v", p.Limits)
	}
	for _, wrong := range []any{"a/#", map[string]any{"publish": "a"}, map[string]any{"publish": []string{"#/a"}}} {
		want(t, v, s.sign(t, c.claims(name, role("viewer"), set("limits", wrong))), "", 0, ErrInvalid)
	}
}

func TestAFileOfKeysIsReadAgainWhenItChanges(t *testing.T) {
	c, first, second := newClock(), newSigner(t, "k1"), newSigner(t, "k2")
	cfg := jwtConfig()
	cfg.JWKSFile = filepath.Join(t.TempDir(), "jwks.json")
	write(t, cfg.JWKSFile, jwks(t, first))
	v := newVerifier(t, Config{JWT: cfg}, c)
	want(t, v, first.sign(t, c.claims()), "joe", access.Publisher, nil)
	write(t, cfg.JWKSFile, jwks(t, first, second))
	c.advance(checkInterval)
	want(t, v, second.sign(t, c.claims()), "joe", access.Publisher, nil)
	write(t, cfg.JWKSFile, `{"keys": []}`)
	c.advance(checkInterval)
	want(t, v, second.sign(t, c.claims()), "joe", access.Publisher, nil)
}

// provider serves keys.
type provider struct {
	mu    sync.Mutex
	text  string // empty: it is away
	asked int
	seen  chan struct{}
}

func (p *provider) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	select {
	case p.seen <- struct{}{}:
	default:
	}
	if p.text == "" {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	_, _ = w.Write([]byte(p.text))
}

func (p *provider) say(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.text = text
}

func (p *provider) times() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

func TestKeysOfAURLAreKeptWhileItIsAway(t *testing.T) {
	c, first, second := newClock(), newSigner(t, "k1"), newSigner(t, "k2")
	p := &provider{seen: make(chan struct{}, 1)}
	s := httptest.NewServer(p)
	t.Cleanup(s.Close)
	cfg := jwtConfig()
	cfg.JWKSURL = s.URL
	v := newVerifier(t, Config{JWT: cfg}, c)
	want(t, v, first.sign(t, c.claims()), "", 0, ErrUnavailable)

	if v.jwt.keys.fetch(t.Context()) {
		t.Error("keys were fetched of nowhere")
	}
	want(t, v, first.sign(t, c.claims()), "", 0, ErrUnavailable)
	p.say(jwks(t, first))
	if !v.jwt.keys.fetch(t.Context()) {
		t.Error("keys were not fetched")
	}
	want(t, v, first.sign(t, c.claims()), "joe", access.Publisher, nil)

	// A new key is fetched when it is first seen, not more often than now and then.
	p.say(jwks(t, first, second))
	want(t, v, second.sign(t, c.claims()), "", 0, ErrInvalid)
	c.advance(fetchAgain)
	want(t, v, second.sign(t, c.claims()), "joe", access.Publisher, nil)
	asked := p.times()
	c.advance(fetchAgain)
	for range 10 {
		want(t, v, newSigner(t, "k3").sign(t, c.claims()), "", 0, ErrInvalid)
	}
	if got := p.times() - asked; got != 1 {
		t.Errorf("unknown keys had them fetched %d times", got)
	}

	for _, away := range []string{"", "what is this", `{"keys": []}`} {
		p.say(away)
		c.advance(fetchAgain)
		want(t, v, newSigner(t, "k3").sign(t, c.claims()), "", 0, ErrInvalid)
		want(t, v, second.sign(t, c.claims()), "joe", access.Publisher, nil)
	}
	s.Close()
	c.advance(fetchAgain)
	want(t, v, newSigner(t, "k3").sign(t, c.claims()), "", 0, ErrInvalid)
	want(t, v, second.sign(t, c.claims()), "joe", access.Publisher, nil)
}

func TestKeysAreFetchedUntilTheEnd(t *testing.T) {
	p := &provider{seen: make(chan struct{}, 1), text: "wrong"}
	s := httptest.NewServer(p)
	t.Cleanup(s.Close)
	cfg := jwtConfig()
	cfg.JWKSURL, cfg.Refresh = s.URL, time.Millisecond
	for _, x := range []Config{{JWT: cfg}, {}} {
		v := newVerifier(t, x, newClock())
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- v.Run(ctx) }()
		if x.JWT.enabled() {
			for range 3 {
				<-p.seen
			}
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func TestWrongConfigurationOfJWTsNamesTheKey(t *testing.T) {
	for want, change := range map[string]func(*JWTConfig){
		"jwks_file":    func(c *JWTConfig) { c.JWKSFile = "x" },
		"jwks_url":     func(c *JWTConfig) { c.JWKSURL = "http://keys.example" },
		"jwks_ca_file": func(c *JWTConfig) { c.JWKSURL, c.JWKSFile, c.JWKSCAFile = "", "x", "y" },
		"refresh":      func(c *JWTConfig) { c.Refresh = 0 },
		"issuer":       func(c *JWTConfig) { c.Issuer = "" },
		"audience":     func(c *JWTConfig) { c.Audience = "" },
		"algorithms":   func(c *JWTConfig) { c.Algorithms = []string{"RS256", "none"} },
		"skew":         func(c *JWTConfig) { c.Skew = -1 },
		"name_claim":   func(c *JWTConfig) { c.NameClaim = "" },
		"role_claim":   func(c *JWTConfig) { c.RoleClaim = "" },
	} {
		cfg := jwtConfig()
		cfg.JWKSURL = "https://keys.example"
		if err := cfg.Validate(); err != nil {
			t.Fatal(err)
		}
		change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if err := (JWTConfig{}).Validate(); err != nil || slices.Contains(asymmetric(), "HS256") {
		t.Errorf("without keys: %v", err)
	}
	wrong := jwtConfig()
	wrong.JWKSURL, wrong.JWKSCAFile = "https://keys.example", filepath.Join(t.TempDir(), "none")
	if _, err := New(Config{JWT: wrong}, newClock().deps()); err == nil {
		t.Error("an authority that is not there is taken")
	}
}
