package auth

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/beeline-mqtt/beeline/internal/issuer"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/rules"
)

// tokens is the method jwt.
type tokens struct {
	cfg    JWTConfig
	issuer *issuer.Issuer
}

func newTokens(cfg JWTConfig, d Deps) (*tokens, error) {
	t := &tokens{cfg: cfg}
	of := issuer.Deps{Logger: d.Logger, Now: d.Now}
	var err error
	if cfg.SecretFile != "" {
		t.issuer, err = issuer.NewSecret(cfg.SecretFile, cfg.Config, of)
	} else {
		t.issuer, err = issuer.New(cfg.Config, of)
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}

// isJWT reports whether a password looks like one: three parts, of which the first is an object of JSON in base64.
func isJWT(password []byte) bool {
	text := string(password)
	return strings.HasPrefix(text, "eyJ") && strings.Count(text, ".") == 2
}

// try implements method. What does not look like a JWT is another method's.
func (t *tokens) try(ctx context.Context, a Attempt) (Identity, error) {
	if !a.HasPassword || !isJWT(a.Password) {
		return Identity{}, errNotMine
	}
	claims, err := t.issuer.Verify(ctx, string(a.Password))
	switch {
	case errors.Is(err, issuer.ErrUnavailable):
		return Identity{}, refused(errUnavailable, reasonKeys)
	case errors.Is(err, issuer.ErrExpired):
		return Identity{}, refused(ErrBadCredentials, reasonExpired)
	case err != nil:
		return Identity{}, refused(ErrBadCredentials, reasonToken)
	}
	return t.identity(a, claims)
}

// identity is what the claims say of the client.
func (t *tokens) identity(a Attempt, claims issuer.Claims) (Identity, error) {
	name, _ := claims.Get(t.cfg.UsernameClaim).(string)
	switch {
	case name == "":
		return Identity{}, refused(ErrNotAuthorized, reasonClaims)
	case a.Username != "" && a.Username != name:
		return Identity{}, refused(ErrBadCredentials, reasonUsername)
	}
	if t.cfg.ClientIDClaim != "" {
		if id, _ := claims.Get(t.cfg.ClientIDClaim).(string); id != a.ClientID {
			return Identity{}, refused(ErrNotAuthorized, reasonClientID)
		}
	}
	own, err := t.rules(claims)
	if err != nil {
		return Identity{}, refused(ErrNotAuthorized, reasonClaims)
	}
	return Identity{ClientID: a.ClientID, Username: name, Expires: t.end(claims), Rules: own}, nil
}

// end is until when the token would be taken.
func (t *tokens) end(claims issuer.Claims) time.Time { return claims.Expires().Add(t.cfg.Skew) }

// rules are those that the token brings; nil when it brings none.
func (t *tokens) rules(claims issuer.Claims) (*rules.Set, error) {
	if t.cfg.RulesClaim == "" {
		return nil, nil
	}
	value := claims.Get(t.cfg.RulesClaim)
	if value == nil {
		return nil, nil
	}
	text, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	return rules.ParseList(text)
}
