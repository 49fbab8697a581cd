package tokens

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/beeline-mqtt/beeline/internal/config"
	"github.com/beeline-mqtt/beeline/internal/issuer"
	"github.com/beeline-mqtt/beeline/services/router/internal/access"
)

// JWTConfig says which JWTs are taken, and what their claims mean.
type JWTConfig struct {
	issuer.Config `koanf:",squash"`

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
		Config:     issuer.DefaultConfig(),
		NameClaim:  "sub",
		RoleClaim:  "beeline_role",
		Viewers:    []string{access.Viewer.String()},
		Publishers: []string{access.Publisher.String()},
		Operators:  []string{access.Operator.String()},
	}
}

// Validate reports the first setting that cannot work, by its key, beside those of issuer.Config, which has its own.
func (c JWTConfig) Validate() error {
	switch {
	case !c.Enabled():
	case c.NameClaim == "":
		return config.Invalid("name_claim", "is missing")
	case c.RoleClaim == "":
		return config.Invalid("role_claim", "is missing")
	}
	return nil
}

// signed knows who presents a JWT.
type signed struct {
	cfg    JWTConfig
	issuer *issuer.Issuer
}

func newSigned(cfg JWTConfig, d Deps) (*signed, error) {
	i, err := issuer.New(cfg.Config, issuer.Deps(d))
	if err != nil {
		return nil, err
	}
	return &signed{cfg, i}, nil
}

func (s *signed) verify(ctx context.Context, token string) (access.Principal, error) {
	claims, err := s.issuer.Verify(ctx, token)
	if err != nil {
		return access.Principal{}, err
	}
	return s.principal(claims)
}

// principal reads the claims. Where limits belong and there are none, nothing is allowed.
func (s *signed) principal(claims issuer.Claims) (access.Principal, error) {
	name, _ := claims.Get(s.cfg.NameClaim).(string)
	if name == "" {
		return access.Principal{}, fmt.Errorf("%w: claim %s is missing", issuer.ErrInvalid, s.cfg.NameClaim)
	}
	p := access.Principal{Name: name, Source: access.ByJWT, Role: s.role(claims.Get(s.cfg.RoleClaim))}
	if s.cfg.LimitsClaim == "" || p.Role == access.Operator {
		return p, nil
	}
	p.Limits = &access.Limits{}
	value := claims.Get(s.cfg.LimitsClaim)
	if value == nil {
		return p, nil
	}
	text, err := json.Marshal(value)
	if err != nil {
		return access.Principal{}, fmt.Errorf("%w: claim %s: %w", issuer.ErrInvalid, s.cfg.LimitsClaim, err)
	}
	if err := errors.Join(json.Unmarshal(text, p.Limits), p.Limits.Validate()); err != nil {
		return access.Principal{}, fmt.Errorf("%w: claim %s: %w", issuer.ErrInvalid, s.cfg.LimitsClaim, err)
	}
	return p, nil
}

// role is the greatest that the claim names; Known when it names none.
func (s *signed) role(value any) access.Role {
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
		case slices.Contains(s.cfg.Operators, n):
			role = access.Operator
		case slices.Contains(s.cfg.Publishers, n):
			role = max(role, access.Publisher)
		case slices.Contains(s.cfg.Viewers, n):
			role = max(role, access.Viewer)
		}
	}
	return role
}
