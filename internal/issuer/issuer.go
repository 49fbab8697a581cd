// Package issuer checks the JWTs of one issuer: their signatures, by keys that are read again when they change, and the claims
// that every JWT has. What the other claims mean is for whoever asks. An Issuer is safe for concurrent use; the caller runs it.
package issuer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"

	"github.com/beeline-mqtt/beeline/internal/config"
	"github.com/beeline-mqtt/beeline/internal/watched"
)

// Why a JWT is not taken. Errors of Verify wrap one of them.
var (
	// ErrInvalid: it is nobody's, or not as it has to be.
	ErrInvalid = errors.New("the token is not valid")
	// ErrExpired: it was valid until some time ago.
	ErrExpired = errors.New("the token has expired")
	// ErrUnavailable: it cannot be checked, because no keys could be fetched yet.
	ErrUnavailable = errors.New("tokens cannot be checked now")
)

// Config says which JWTs are taken.
type Config struct {
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
}

// DefaultConfig takes no JWTs before it gets keys, an issuer and an audience.
func DefaultConfig() Config {
	return Config{Refresh: 5 * time.Minute, Algorithms: []string{"RS256", "ES256", "EdDSA"}, Skew: 30 * time.Second}
}

// asymmetric are the algorithms whose keys may be public.
func asymmetric() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

// symmetric are those whose keys are secrets.
func symmetric() []string { return []string{"HS256", "HS384", "HS512"} }

// Enabled reports whether there are keys, so that JWTs are taken.
func (c Config) Enabled() bool { return c.JWKSURL != "" || c.JWKSFile != "" }

// Validate reports the first setting that cannot work, by its key.
func (c Config) Validate() error {
	if !c.Enabled() {
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
	}
	for _, a := range c.Algorithms {
		if !slices.Contains(asymmetric(), a) {
			return config.Invalid("algorithms", "has %q: there are %s", a, strings.Join(asymmetric(), ", "))
		}
	}
	return c.ValidateSkew()
}

// ValidateSkew is the part of Validate that concerns JWTs of a secret, too.
func (c Config) ValidateSkew() error {
	if c.Skew < 0 || c.Skew > time.Hour {
		return config.Invalid("skew", "must be between 0 and 1h")
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

// Deps are what an Issuer works with.
type Deps struct {
	Logger *slog.Logger
	// Now is the clock, time.Now outside tests.
	Now func() time.Time
}

// Issuer checks JWTs.
type Issuer struct {
	parser *jwt.Parser
	file   *watched.File[jwt.Keyfunc] // nil: the keys are those of keys
	keys   *keys
}

// New checks JWTs by public keys. A file of keys is read at once; those of a URL are fetched when the Issuer runs.
func New(cfg Config, d Deps) (*Issuer, error) {
	i := &Issuer{parser: parser(cfg, cfg.Algorithms, d)}
	var err error
	if cfg.JWKSFile != "" {
		i.file, err = watched.Open(cfg.JWKSFile, publicKeys, watched.Deps(d))
	} else {
		i.keys, err = newKeys(cfg, d)
	}
	if err != nil {
		return nil, err
	}
	return i, nil
}

// leastSecret is how many bytes of a secret nobody can guess.
const leastSecret = 32

// NewSecret checks JWTs that are signed with the secret in a file, which is read again when it changes, by HMAC (HS256, HS384,
// HS512). Of cfg only Issuer, Audience and Skew count; what is empty there is not checked.
func NewSecret(path string, cfg Config, d Deps) (*Issuer, error) {
	file, err := watched.Open(path, secretKey, watched.Deps(d))
	if err != nil {
		return nil, err
	}
	return &Issuer{parser: parser(cfg, symmetric(), d), file: file}, nil
}

// parser takes signatures by some algorithms alone: what a key is for is never left to the token.
func parser(cfg Config, algorithms []string, d Deps) *jwt.Parser {
	options := []jwt.ParserOption{
		jwt.WithValidMethods(algorithms),
		jwt.WithLeeway(cfg.Skew),
		jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(),
		jwt.WithTimeFunc(d.Now),
	}
	if cfg.Issuer != "" {
		options = append(options, jwt.WithIssuer(cfg.Issuer))
	}
	if cfg.Audience != "" {
		options = append(options, jwt.WithAudience(cfg.Audience))
	}
	return jwt.NewParser(options...)
}

func publicKeys(text []byte) (jwt.Keyfunc, error) {
	set, err := parseKeys(text)
	if err != nil {
		return nil, err
	}
	return set.Keyfunc, nil
}

// secretKey reads a secret: all of a file but the line break that editors put at its end.
func secretKey(text []byte) (jwt.Keyfunc, error) {
	secret := bytes.TrimRight(text, "\r\n")
	if len(secret) < leastSecret {
		return nil, fmt.Errorf("the secret has %d bytes: %d are needed", len(secret), leastSecret)
	}
	return func(*jwt.Token) (any, error) { return secret, nil }, nil
}

// Run fetches keys from time to time, until ctx ends.
func (i *Issuer) Run(ctx context.Context) {
	if i.keys == nil {
		<-ctx.Done()
		return
	}
	i.keys.run(ctx)
}

// Verify checks a JWT and returns what it says. A key that is not known may be new: then they are fetched, if they have not
// just been.
func (i *Issuer) Verify(ctx context.Context, token string) (Claims, error) {
	known := i.known(ctx)
	if known == nil {
		return nil, ErrUnavailable
	}
	claims, err := i.parse(token, known)
	if errors.Is(err, jwkset.ErrKeyNotFound) && i.keys != nil && i.keys.refresh(ctx) {
		claims, err = i.parse(token, i.known(ctx))
	}
	switch {
	case errors.Is(err, jwt.ErrTokenExpired):
		return nil, ErrExpired
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return claims, nil
}

func (i *Issuer) known(ctx context.Context) jwt.Keyfunc {
	if i.file != nil {
		return i.file.Get(ctx)
	}
	return keyfuncOf(i.keys.current())
}

// keyfuncOf is nil for nil.
func keyfuncOf(k keyfunc.Keyfunc) jwt.Keyfunc {
	if k == nil {
		return nil
	}
	return k.Keyfunc
}

func (i *Issuer) parse(token string, known jwt.Keyfunc) (Claims, error) {
	claims := jwt.MapClaims{}
	_, err := i.parser.ParseWithClaims(token, claims, known)
	return Claims(claims), err
}

// Claims are what a JWT says.
type Claims map[string]any

// Get finds a claim by its name, which may have dots of its own, or by the way into an object: "a.b". It is nil when there is
// none.
func (c Claims) Get(path string) any {
	if v, ok := c[path]; ok {
		return v
	}
	first, rest, more := strings.Cut(path, ".")
	inner, ok := c[first].(map[string]any)
	if !more || !ok {
		return nil
	}
	return Claims(inner).Get(rest)
}

// Expires returns when the JWT ends, by the issuer's clock. Claims that were verified have it.
func (c Claims) Expires() time.Time {
	at, err := jwt.MapClaims(c).GetExpirationTime()
	if err != nil || at == nil {
		return time.Time{}
	}
	return at.Time
}
