package tokens

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"

	"github.com/beeline-mqtt/beeline/internal/config"
	"github.com/beeline-mqtt/beeline/services/router/internal/access"
)

// JWTConfig says which JWTs are taken, and what their claims mean.
type JWTConfig struct {
	// JWKSURL or JWKSFile is where the keys are with which they are signed; neither: none is taken.
	JWKSURL    string `koanf:"jwks_url" help:"URL of the keys (JWKS) that sign JWTs, https"`
	JWKSFile   string `koanf:"jwks_file" help:"file with the keys (JWKS) that sign JWTs, instead of a URL"`
	JWKSCAFile string `koanf:"jwks_ca_file" help:"authority (PEM) of the URL's certificate; default: the system's"`
	// Refresh is how often the keys of a URL are fetched.
	Refresh time.Duration `koanf:"refresh" help:"how often the keys of jwks_url are fetched"`
	// Issuer and Audience are what the claims iss and aud have to have.
	Issuer   string `koanf:"issuer" help:"what the claim iss has to be"`
	Audience string `koanf:"audience" help:"what the claim aud has to have"`
	// Algorithms are those of the signatures that are taken.
	Algorithms []string `koanf:"algorithms" help:"algorithms of signatures, comma separated"`
	// Skew is by how much clocks may differ.
	Skew time.Duration `koanf:"skew" help:"by how much clocks may differ"`
	// The claims. A dot goes into an object: realm_access.roles.
	NameClaim   string `koanf:"name_claim" help:"claim with the caller's name"`
	RoleClaim   string `koanf:"role_claim" help:"claim with the caller's role, or a list of which the greatest counts"`
	LimitsClaim string `koanf:"limits_claim" help:"claim with the caller's limits; empty: JWTs carry none"`
	// What the role claim says for each role.
	Viewers    []string `koanf:"viewers" help:"values of the role claim that make a viewer"`
	Publishers []string `koanf:"publishers" help:"values of the role claim that make a publisher"`
	Operators  []string `koanf:"operators" help:"values of the role claim that make an operator"`
}

// DefaultJWTConfig takes no JWTs before it gets keys, an issuer and an audience.
func DefaultJWTConfig() JWTConfig {
	return JWTConfig{
		Refresh:    5 * time.Minute,
		Algorithms: []string{"RS256", "ES256", "EdDSA"},
		Skew:       30 * time.Second,
		NameClaim:  "sub",
		RoleClaim:  "beeline_role",
		Viewers:    []string{access.Viewer.String()},
		Publishers: []string{access.Publisher.String()},
		Operators:  []string{access.Operator.String()},
	}
}

// asymmetric are the algorithms whose keys may be public.
func asymmetric() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

func (c JWTConfig) enabled() bool { return c.JWKSURL != "" || c.JWKSFile != "" }

// Validate reports the first setting that cannot work, by its key.
func (c JWTConfig) Validate() error {
	if !c.enabled() {
		return nil
	}
	switch {
	case c.JWKSURL != "" && c.JWKSFile != "":
		return config.Invalid("jwks_file", "must not be set together with jwks_url")
	case c.JWKSURL != "" && !safe(c.JWKSURL):
		return config.Invalid("jwks_url", "must be https, or on this machine: who can change the keys is everybody")
	case c.JWKSCAFile != "" && c.JWKSURL == "":
		return config.Invalid("jwks_ca_file", "is of no use without jwks_url")
	case c.Refresh < time.Second:
		return config.Invalid("refresh", "must be at least 1s")
	case c.Issuer == "":
		return config.Invalid("issuer", "is missing")
	case c.Audience == "":
		return config.Invalid("audience", "is missing: otherwise tokens for other services would be taken")
	case len(c.Algorithms) == 0:
		return config.Invalid("algorithms", "is missing")
	case c.Skew < 0 || c.Skew > time.Hour:
		return config.Invalid("skew", "must be between 0 and 1h")
	case c.NameClaim == "":
		return config.Invalid("name_claim", "is missing")
	case c.RoleClaim == "":
		return config.Invalid("role_claim", "is missing")
	}
	for _, a := range c.Algorithms {
		if !slices.Contains(asymmetric(), a) {
			return config.Invalid("algorithms", "has %q: there are %s", a, strings.Join(asymmetric(), ", "))
		}
	}
	return nil
}

func safe(address string) bool {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Scheme == "https" || u.Scheme == "http" && (u.Hostname() == "localhost" || ip != nil && ip.IsLoopback())
}

// issuer checks the JWTs of one issuer.
type issuer struct {
	cfg    JWTConfig
	parser *jwt.Parser
	file   *watched[keyfunc.Keyfunc] // nil: the keys are those of keys
	keys   *keys
}

func newIssuer(cfg JWTConfig, d Deps) (*issuer, error) {
	i := &issuer{cfg: cfg, parser: jwt.NewParser(
		jwt.WithValidMethods(cfg.Algorithms),
		jwt.WithIssuer(cfg.Issuer),
		jwt.WithAudience(cfg.Audience),
		jwt.WithLeeway(cfg.Skew),
		jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(),
		jwt.WithTimeFunc(d.Now),
	)}
	var err error
	if cfg.JWKSFile != "" {
		i.file, err = watch(cfg.JWKSFile, parseKeys, d)
	} else {
		i.keys, err = newKeys(cfg, d)
	}
	return i, err
}

// verify checks a JWT. A key that is not known may be new: then they are fetched, if they have not just been.
func (i *issuer) verify(ctx context.Context, token string) (access.Principal, error) {
	known := i.known(ctx)
	if known == nil {
		return access.Principal{}, ErrUnavailable
	}
	claims, err := i.parse(ctx, token, known)
	if errors.Is(err, jwkset.ErrKeyNotFound) && i.keys != nil && i.keys.refresh(ctx) {
		claims, err = i.parse(ctx, token, i.known(ctx))
	}
	switch {
	case errors.Is(err, jwt.ErrTokenExpired):
		return access.Principal{}, ErrExpired
	case err != nil:
		return access.Principal{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return i.principal(claims)
}

func (i *issuer) known(ctx context.Context) keyfunc.Keyfunc {
	if i.file != nil {
		return i.file.get(ctx)
	}
	return i.keys.current()
}

func (i *issuer) parse(ctx context.Context, token string, k keyfunc.Keyfunc) (jwt.MapClaims, error) {
	claims := jwt.MapClaims{}
	_, err := i.parser.ParseWithClaims(token, claims, k.KeyfuncCtx(ctx))
	return claims, err
}

// principal reads the claims. Where limits belong and there are none, nothing is allowed.
func (i *issuer) principal(claims jwt.MapClaims) (access.Principal, error) {
	name, _ := claim(claims, i.cfg.NameClaim).(string)
	if name == "" {
		return access.Principal{}, fmt.Errorf("%w: claim %s is missing", ErrInvalid, i.cfg.NameClaim)
	}
	p := access.Principal{Name: name, Source: access.ByJWT, Role: i.role(claim(claims, i.cfg.RoleClaim))}
	if i.cfg.LimitsClaim == "" || p.Role == access.Operator {
		return p, nil
	}
	p.Limits = &access.Limits{}
	value := claim(claims, i.cfg.LimitsClaim)
	if value == nil {
		return p, nil
	}
	text, err := json.Marshal(value)
	if err != nil {
		return access.Principal{}, fmt.Errorf("%w: claim %s: %w", ErrInvalid, i.cfg.LimitsClaim, err)
	}
	if err := errors.Join(json.Unmarshal(text, p.Limits), p.Limits.Validate()); err != nil {
		return access.Principal{}, fmt.Errorf("%w: claim %s: %w", ErrInvalid, i.cfg.LimitsClaim, err)
	}
	return p, nil
}

// role is the greatest that the claim names; Known when it names none.
func (i *issuer) role(value any) access.Role {
	var named []string
	switch v := value.(type) {
	case string:
		named = []string{v}
	case []any:
		for _, x := range v {
			if s, ok := x.(string); ok {
				named = append(named, s)
			}
		}
	}
	role := access.Known
	for _, n := range named {
		switch {
		case slices.Contains(i.cfg.Operators, n):
			role = access.Operator
		case slices.Contains(i.cfg.Publishers, n):
			role = max(role, access.Publisher)
		case slices.Contains(i.cfg.Viewers, n):
			role = max(role, access.Viewer)
		}
	}
	return role
}

// claim finds a claim by its name, which may have dots of its own, or by the way into an object.
func claim(claims map[string]any, path string) any {
	if v, ok := claims[path]; ok {
		return v
	}
	first, rest, more := strings.Cut(path, ".")
	inner, ok := claims[first].(map[string]any)
	if !more || !ok {
		return nil
	}
	return claim(inner, rest)
}
