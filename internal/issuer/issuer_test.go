package issuer

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/beeline-mqtt/beeline/internal/issuer/issuertest"
	"github.com/beeline-mqtt/beeline/internal/watched"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func depsAt(c *issuertest.Clock) Deps { return Deps{Logger: slog.New(slog.DiscardHandler), Now: c.Now} }

func newIssuer(t *testing.T, cfg Config, c *issuertest.Clock) *Issuer {
	t.Helper()
	i, err := New(cfg, depsAt(c))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// want checks whose token it is; the name is empty where it is to be nobody's.
func want(t *testing.T, i *Issuer, token, name string, why error) {
	t.Helper()
	claims, err := i.Verify(t.Context(), token)
	got, _ := claims.Get("sub").(string)
	if !errors.Is(err, why) || got != name {
		t.Errorf("%q, %v; want %q, %v", got, err, name, why)
	}
}

func testConfig() Config {
	cfg := DefaultConfig()
	cfg.Issuer, cfg.Audience = issuertest.Issuer, issuertest.Audience
	return cfg
}

func TestAJWTIsTakenIfEverythingAboutItIsRight(t *testing.T) {
	c, s := issuertest.NewClock(), issuertest.NewSigner(t, "k1")
	cfg := testConfig()
	cfg.JWKSFile = filepath.Join(t.TempDir(), "jwks.json")
	issuertest.Write(t, cfg.JWKSFile, issuertest.JWKS(t, s))
	i := newIssuer(t, cfg, c)
	sign := func(claim string, value any) string {
		return s.Sign(t, issuertest.Claims(c.Now(), issuertest.Set(claim, value)))
	}
	right := s.Sign(t, issuertest.Claims(c.Now()))
	want(t, i, right, "joe", nil)
	want(t, i, sign("exp", c.Now().Add(-20*time.Second).Unix()), "joe", nil)
	claims, err := i.Verify(t.Context(), right)
	if end := c.Now().Add(time.Hour).Truncate(time.Second); err != nil || !claims.Expires().Equal(end) {
		t.Errorf("it ends at %v, not at %v; %v", claims.Expires(), end, err)
	}

	for name, x := range map[string]struct {
		token string
		why   error
	}{
		"expired":            {sign("exp", c.Now().Add(-time.Minute).Unix()), ErrExpired},
		"without an end":     {sign("exp", nil), ErrInvalid},
		"not yet valid":      {sign("nbf", c.Now().Add(time.Minute).Unix()), ErrInvalid},
		"of the future":      {sign("iat", c.Now().Add(time.Minute).Unix()), ErrInvalid},
		"of another issuer":  {sign("iss", "https://other"), ErrInvalid},
		"of no issuer":       {sign("iss", nil), ErrInvalid},
		"for somebody else":  {sign("aud", "other"), ErrInvalid},
		"for nobody":         {sign("aud", nil), ErrInvalid},
		"unsigned":           {s.Unsigned(t, issuertest.Claims(c.Now())), ErrInvalid},
		"signed with HMAC":   {s.Confused(t, issuertest.Claims(c.Now())), ErrInvalid},
		"of another key":     {issuertest.NewSigner(t, "k1").Sign(t, issuertest.Claims(c.Now())), ErrInvalid},
		"of an unknown key":  {issuertest.NewSigner(t, "k2").Sign(t, issuertest.Claims(c.Now())), ErrInvalid},
		"with another end":   {right[:len(right)-4] + "AAAA", ErrInvalid},
		"with another claim": {strings.Replace(right, ".", ".e30", 1), ErrInvalid},
		"not a token":        {"a.b.c", ErrInvalid},
		"nothing":            {"", ErrInvalid},
		"huge":               {strings.Repeat("a", 1<<20) + ".b.c", ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) { want(t, i, x.token, "", x.why) })
	}
}

func TestASecretSignsJWTs(t *testing.T) {
	const secret, next = "a secret of thirty-two bytes, and more", "another one of thirty-two bytes or more"
	c, s := issuertest.NewClock(), issuertest.NewSigner(t, "k1")
	path := filepath.Join(t.TempDir(), "secret")
	issuertest.Write(t, path, secret+"\n")
	i, err := NewSecret(path, testConfig(), depsAt(c))
	if err != nil {
		t.Fatal(err)
	}
	sign := func(secret, claim string, value any) string {
		return issuertest.Secret(t, secret, issuertest.Claims(c.Now(), issuertest.Set(claim, value)))
	}
	right := sign(secret, "x", 1)
	want(t, i, right, "joe", nil)
	for name, x := range map[string]struct {
		token string
		why   error
	}{
		"of another secret": {sign(next, "x", 1), ErrInvalid},
		"expired":           {sign(secret, "exp", c.Now().Add(-time.Minute).Unix()), ErrExpired},
		"for somebody else": {sign(secret, "aud", "other"), ErrInvalid},
		"of another issuer": {sign(secret, "iss", "other"), ErrInvalid},
		"unsigned":          {s.Unsigned(t, issuertest.Claims(c.Now())), ErrInvalid},
		"of a public key":   {s.Sign(t, issuertest.Claims(c.Now())), ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) { want(t, i, x.token, "", x.why) })
	}

	issuertest.Write(t, path, "short")
	c.Advance(watched.Interval)
	want(t, i, right, "joe", nil)
	issuertest.Write(t, path, next)
	c.Advance(watched.Interval)
	want(t, i, right, "", ErrInvalid)
	want(t, i, sign(next, "x", 1), "joe", nil)

	anybody, err := NewSecret(path, Config{}, depsAt(c))
	if err != nil {
		t.Fatal(err)
	}
	want(t, anybody, sign(next, "iss", nil), "joe", nil)
	want(t, anybody, sign(next, "aud", "other"), "joe", nil)
	want(t, anybody, sign(next, "exp", nil), "", ErrInvalid)
	issuertest.Write(t, path, "short")
	if _, err := NewSecret(path, Config{}, depsAt(c)); err == nil || !strings.Contains(err.Error(), "32") {
		t.Errorf("a short secret: %v", err)
	}
}

func TestClaimsAreFoundByTheirNameOrTheWayToThem(t *testing.T) {
	c := Claims{"a": "1", "https://x.example/a": "2", "b": map[string]any{"c": map[string]any{"d": "3"}}}
	for path, want := range map[string]any{"a": "1", "https://x.example/a": "2", "b.c.d": "3", "b.x": nil, "a.b": nil, "": nil, "x": nil} {
		if got := c.Get(path); got != want {
			t.Errorf("%q: %v, want %v", path, got, want)
		}
	}
	if !c.Expires().IsZero() {
		t.Error("it ends without saying so")
	}
}

func TestAFileOfKeysIsReadAgainWhenItChanges(t *testing.T) {
	c, first, second := issuertest.NewClock(), issuertest.NewSigner(t, "k1"), issuertest.NewSigner(t, "k2")
	cfg := testConfig()
	cfg.JWKSFile = filepath.Join(t.TempDir(), "jwks.json")
	issuertest.Write(t, cfg.JWKSFile, issuertest.JWKS(t, first))
	v := newIssuer(t, cfg, c)
	want(t, v, first.Sign(t, issuertest.Claims(c.Now())), "joe", nil)
	issuertest.Write(t, cfg.JWKSFile, issuertest.JWKS(t, first, second))
	c.Advance(watched.Interval)
	want(t, v, second.Sign(t, issuertest.Claims(c.Now())), "joe", nil)
	issuertest.Write(t, cfg.JWKSFile, `{"keys": []}`)
	c.Advance(watched.Interval)
	want(t, v, second.Sign(t, issuertest.Claims(c.Now())), "joe", nil)
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
	c, first, second := issuertest.NewClock(), issuertest.NewSigner(t, "k1"), issuertest.NewSigner(t, "k2")
	p := &provider{seen: make(chan struct{}, 1)}
	s := httptest.NewServer(p)
	t.Cleanup(s.Close)
	cfg := testConfig()
	cfg.JWKSURL = s.URL
	v := newIssuer(t, cfg, c)
	want(t, v, first.Sign(t, issuertest.Claims(c.Now())), "", ErrUnavailable)

	if v.keys.fetch(t.Context()) {
		t.Error("keys were fetched of nowhere")
	}
	want(t, v, first.Sign(t, issuertest.Claims(c.Now())), "", ErrUnavailable)
	p.say(issuertest.JWKS(t, first))
	if !v.keys.fetch(t.Context()) {
		t.Error("keys were not fetched")
	}
	want(t, v, first.Sign(t, issuertest.Claims(c.Now())), "joe", nil)

	// A new key is fetched when it is first seen, not more often than now and then.
	p.say(issuertest.JWKS(t, first, second))
	want(t, v, second.Sign(t, issuertest.Claims(c.Now())), "", ErrInvalid)
	c.Advance(fetchAgain)
	want(t, v, second.Sign(t, issuertest.Claims(c.Now())), "joe", nil)
	asked := p.times()
	c.Advance(fetchAgain)
	for range 10 {
		want(t, v, issuertest.NewSigner(t, "k3").Sign(t, issuertest.Claims(c.Now())), "", ErrInvalid)
	}
	if got := p.times() - asked; got != 1 {
		t.Errorf("unknown keys had them fetched %d times", got)
	}

	for _, away := range []string{"", "what is this", `{"keys": []}`} {
		p.say(away)
		c.Advance(fetchAgain)
		want(t, v, issuertest.NewSigner(t, "k3").Sign(t, issuertest.Claims(c.Now())), "", ErrInvalid)
		want(t, v, second.Sign(t, issuertest.Claims(c.Now())), "joe", nil)
	}
	s.Close()
	c.Advance(fetchAgain)
	want(t, v, issuertest.NewSigner(t, "k3").Sign(t, issuertest.Claims(c.Now())), "", ErrInvalid)
	want(t, v, second.Sign(t, issuertest.Claims(c.Now())), "joe", nil)
}

func TestKeysAreFetchedUntilTheEnd(t *testing.T) {
	p := &provider{seen: make(chan struct{}, 1), text: "wrong"}
	s := httptest.NewServer(p)
	t.Cleanup(s.Close)
	cfg := testConfig()
	cfg.JWKSURL, cfg.Refresh = s.URL, time.Millisecond
	v := newIssuer(t, cfg, issuertest.NewClock())
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		v.Run(ctx)
	}()
	for range 3 {
		<-p.seen
	}
	stop()
	<-ended
}

func TestWrongConfigurationOfJWTsNamesTheKey(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"jwks_file":    func(c *Config) { c.JWKSFile = "x" },
		"jwks_url":     func(c *Config) { c.JWKSURL = "http://keys.example" },
		"jwks_ca_file": func(c *Config) { c.JWKSURL, c.JWKSFile, c.JWKSCAFile = "", "x", "y" },
		"refresh":      func(c *Config) { c.Refresh = 0 },
		"issuer":       func(c *Config) { c.Issuer = "" },
		"audience":     func(c *Config) { c.Audience = "" },
		"algorithms":   func(c *Config) { c.Algorithms = []string{"RS256", "none"} },
		"skew":         func(c *Config) { c.Skew = -1 },
	} {
		cfg := testConfig()
		cfg.JWKSURL = "https://keys.example"
		if err := cfg.Validate(); err != nil {
			t.Fatal(err)
		}
		change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if err := (Config{}).Validate(); err != nil || slices.Contains(asymmetric(), "HS256") {
		t.Errorf("without keys: %v", err)
	}
	wrong := testConfig()
	wrong.JWKSURL, wrong.JWKSCAFile = "https://keys.example", filepath.Join(t.TempDir(), "none")
	if _, err := New(wrong, depsAt(issuertest.NewClock())); err == nil {
		t.Error("an authority that is not there is taken")
	}
}
