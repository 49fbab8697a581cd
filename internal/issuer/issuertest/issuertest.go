// Package issuertest signs JWTs, and has a clock for those who check them. It is imported by tests only.
package issuertest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// The issuer and the audience of Claims.
const (
	Issuer   = "https://issuer"
	Audience = "beeline"
)

// Clock is a clock that tests set.
type Clock struct{ at atomic.Int64 }

// NewClock makes one that shows what time it is.
func NewClock() *Clock {
	c := new(Clock)
	c.at.Store(time.Now().UnixNano())
	return c
}

// Now is what it shows.
func (c *Clock) Now() time.Time { return time.Unix(0, c.at.Load()) }

// Advance puts it on.
func (c *Clock) Advance(d time.Duration) { c.at.Add(int64(d)) }

// Signer signs JWTs with one key.
type Signer struct {
	key *ecdsa.PrivateKey
	kid string
}

// NewSigner makes a key with an id.
func NewSigner(t testing.TB, kid string) *Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return &Signer{key, kid}
}

// Sign makes a JWT.
func (s *Signer) Sign(t testing.TB, claims jwt.MapClaims) string {
	t.Helper()
	return s.sign(t, jwt.SigningMethodES256, claims, s.key)
}

// Unsigned makes a JWT with the algorithm none.
func (s *Signer) Unsigned(t testing.TB, claims jwt.MapClaims) string {
	t.Helper()
	return s.sign(t, jwt.SigningMethodNone, claims, jwt.UnsafeAllowNoneSignatureType)
}

// Confused makes a JWT whose HMAC has the public key for its secret.
func (s *Signer) Confused(t testing.TB, claims jwt.MapClaims) string {
	t.Helper()
	return s.sign(t, jwt.SigningMethodHS256, claims, s.point(t))
}

// Secret makes a JWT that is signed with a secret.
func Secret(t testing.TB, secret string, claims jwt.MapClaims) string {
	t.Helper()
	return (&Signer{}).sign(t, jwt.SigningMethodHS256, claims, []byte(secret))
}

func (s *Signer) sign(t testing.TB, method jwt.SigningMethod, claims jwt.MapClaims, key any) string {
	t.Helper()
	token := jwt.NewWithClaims(method, claims)
	token.Header["kid"] = s.kid
	text, err := token.SignedString(key)
	must(t, err)
	return text
}

// point is the public key: 4, x, y.
func (s *Signer) point(t testing.TB) []byte {
	t.Helper()
	point, err := s.key.PublicKey.Bytes()
	must(t, err)
	return point
}

// JWKS is the set of the signers' public keys.
func JWKS(t testing.TB, signers ...*Signer) string {
	t.Helper()
	var keys []map[string]string
	for _, s := range signers {
		point := s.point(t)
		keys = append(keys, map[string]string{
			"kty": "EC", "crv": "P-256", "kid": s.kid, "alg": "ES256", "use": "sig",
			"x": base64.RawURLEncoding.EncodeToString(point[1:33]), "y": base64.RawURLEncoding.EncodeToString(point[33:]),
		})
	}
	text, err := json.Marshal(map[string]any{"keys": keys})
	must(t, err)
	return string(text)
}

// Claims are those of joe, issued now and valid for an hour, with changes.
func Claims(now time.Time, changes ...func(jwt.MapClaims)) jwt.MapClaims {
	m := jwt.MapClaims{
		"iss": Issuer, "aud": []string{Audience, "other"}, "sub": "joe", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}
	for _, change := range changes {
		change(m)
	}
	return m
}

// Set changes a claim, or drops it if value is nil.
func Set(name string, value any) func(jwt.MapClaims) {
	return func(m jwt.MapClaims) {
		if m[name] = value; value == nil {
			delete(m, name)
		}
	}
}

// Write writes a file.
func Write(t testing.TB, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o600))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
