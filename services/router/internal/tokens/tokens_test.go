package tokens

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"
	"golang.org/x/crypto/bcrypt"

	"github.com/beeline-mqtt/beeline/internal/issuer"
	"github.com/beeline-mqtt/beeline/internal/issuer/issuertest"
	"github.com/beeline-mqtt/beeline/internal/watched"
	"github.com/beeline-mqtt/beeline/services/router/internal/access"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func depsAt(c *issuertest.Clock) Deps { return Deps{Logger: slog.New(slog.DiscardHandler), Now: c.Now} }

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

func newVerifier(t *testing.T, cfg Config, c *issuertest.Clock) *Verifier {
	t.Helper()
	v, err := New(cfg, depsAt(c))
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
	v := newVerifier(t, Config{File: path}, issuertest.NewClock())
	chat := want(t, v, "token-1", "chat", access.Publisher, nil)
	if !chat.Limits.MayPublish("chat/x") || chat.Limits.MayPublish("x") || chat.Limits.MaySubscribe("chat/x") {
		t.Errorf("its limits are %+v", chat.Limits)
	}
	for range 2 { // the second time it is known
		want(t, v, "joe.secret.with.dots", "joe", access.Operator, nil)
	}
	for _, other := range []string{"", "token-2", Hash("token-1"), "joe", "joe.", "joe.secret", "chat.token-1", string(hash)} {
		want(t, v, other, "", 0, issuer.ErrInvalid)
	}
}

func TestATokenFileMayBeJSONOrHaveNoTokens(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a"), `{"tokens": [{"name": "a", "role": "viewer", "sha256": "`+Hash("x")+`", "limits": {"subscribe": ["a/#"]}}]}`)
	want(t, newVerifier(t, Config{File: filepath.Join(dir, "a")}, issuertest.NewClock()), "x", "a", access.Viewer, nil)
	write(t, filepath.Join(dir, "b"), "")
	want(t, newVerifier(t, Config{File: filepath.Join(dir, "b")}, issuertest.NewClock()), "x", "", 0, issuer.ErrInvalid)
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
	if _, err := New(Config{File: filepath.Join(t.TempDir(), "none")}, depsAt(issuertest.NewClock())); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestATokenFileIsReadAgainWhenItChanges(t *testing.T) {
	c := issuertest.NewClock()
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
	c.Advance(watched.Interval)
	want(t, v, "first", "", 0, issuer.ErrInvalid)
	want(t, v, "second", "a", access.Viewer, nil)

	write(t, path, "what is this")
	c.Advance(watched.Interval)
	want(t, v, "second", "a", access.Viewer, nil)
	must(t, os.Remove(path))
	c.Advance(watched.Interval)
	want(t, v, "second", "a", access.Viewer, nil)
	write(t, path, entry("third"))
	c.Advance(watched.Interval)
	want(t, v, "second", "", 0, issuer.ErrInvalid)
	want(t, v, "third", "a", access.Viewer, nil)
}

func jwtConfig() JWTConfig {
	cfg := DefaultJWTConfig()
	cfg.Issuer, cfg.Audience = issuertest.Issuer, issuertest.Audience
	return cfg
}

func TestClaimsAreFoundWhereTheyAreSaidToBe(t *testing.T) {
	c, s := issuertest.NewClock(), issuertest.NewSigner(t, "k1")
	cfg := jwtConfig()
	cfg.JWKSFile = filepath.Join(t.TempDir(), "jwks.json")
	write(t, cfg.JWKSFile, issuertest.JWKS(t, s))
	cfg.NameClaim, cfg.RoleClaim, cfg.LimitsClaim = "client.id", "https://x.example/roles", "limits"
	cfg.Operators = []string{"admins"}
	v := newVerifier(t, Config{JWT: cfg}, c)
	name := issuertest.Set("client", map[string]any{"id": "svc"})
	role := func(r string) func(jwt.MapClaims) { return issuertest.Set("https://x.example/roles", []string{r}) }

	if p := want(t, v, s.Sign(t, issuertest.Claims(c.Now(), name, role("admins"))), "svc", access.Operator, nil); p.Limits != nil {
		t.Errorf("an operator has limits: %+v", p.Limits)
	}
	if p := want(t, v, s.Sign(t, issuertest.Claims(c.Now(), name, role("publisher"))), "svc", access.Publisher, nil); p.Limits.MayPublish("a") {
		t.Error("without the claim there are no limits")
	}
	limited := issuertest.Set("limits", map[string]any{"publish": []string{"a/#"}})
	if p := want(t, v, s.Sign(t, issuertest.Claims(c.Now(), name, role("publisher"), limited)), "svc", access.Publisher, nil); !p.Limits.MayPublish("a/b") || p.Limits.MayPublish("b") {
		t.Errorf("the limits are %+v", p.Limits)
	}
	for _, wrong := range []any{"a/#", map[string]any{"publish": "a"}, map[string]any{"publish": []string{"#/a"}}} {
		want(t, v, s.Sign(t, issuertest.Claims(c.Now(), name, role("viewer"), issuertest.Set("limits", wrong))), "", 0, issuer.ErrInvalid)
	}
}

func TestARoleIsWhatAClaimSays(t *testing.T) {
	c, s := issuertest.NewClock(), issuertest.NewSigner(t, "k1")
	cfg := jwtConfig()
	cfg.JWKSFile = filepath.Join(t.TempDir(), "jwks.json")
	write(t, cfg.JWKSFile, issuertest.JWKS(t, s))
	v := newVerifier(t, Config{JWT: cfg}, c)
	sign := func(claim string, value any) string {
		return s.Sign(t, issuertest.Claims(c.Now(), issuertest.Set(claim, value)))
	}
	want(t, v, sign("beeline_role", "publisher"), "joe", access.Publisher, nil)
	want(t, v, sign("beeline_role", nil), "joe", access.Known, nil)
	want(t, v, sign("beeline_role", []string{"x", "viewer", "operator"}), "joe", access.Operator, nil)
	want(t, v, sign("sub", nil), "", 0, issuer.ErrInvalid)
	want(t, v, sign("exp", c.Now().Add(-time.Minute).Unix()), "", 0, issuer.ErrExpired)
}

func TestAVerifierRunsUntilTheEnd(t *testing.T) {
	cfg := jwtConfig()
	cfg.JWKSFile = filepath.Join(t.TempDir(), "jwks.json")
	write(t, cfg.JWKSFile, issuertest.JWKS(t, issuertest.NewSigner(t, "k1")))
	for _, x := range []Config{{JWT: cfg}, {}} {
		v := newVerifier(t, x, issuertest.NewClock())
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- v.Run(ctx) }()
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func TestWrongConfigurationOfJWTsNamesTheKey(t *testing.T) {
	for want, change := range map[string]func(*JWTConfig){
		"name_claim": func(c *JWTConfig) { c.NameClaim = "" },
		"role_claim": func(c *JWTConfig) { c.RoleClaim = "" },
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
	wrong := jwtConfig()
	wrong.JWKSURL, wrong.JWKSCAFile = "https://keys.example", filepath.Join(t.TempDir(), "none")
	if _, err := New(Config{JWT: wrong}, depsAt(issuertest.NewClock())); err == nil {
		t.Error("an authority that is not there is taken")
	}
}
