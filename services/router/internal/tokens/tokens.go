// Package tokens finds out who presents a bearer token: by a file with the hashes of tokens, or by the signature of a JWT.
// The file and the keys are read again when they change; as long as what is new cannot be read, what was read last counts,
// and never more than that. A Verifier is safe for concurrent use; the caller runs it.
package tokens

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/beeline-mqtt/beeline/services/router/internal/access"
)

// Why a token is not taken. Errors of Verify wrap one of them.
var (
	// ErrInvalid: it is nobody's, or not as it has to be.
	ErrInvalid = errors.New("the token is not valid")
	// ErrExpired: it was valid until some time ago.
	ErrExpired = errors.New("the token has expired")
	// ErrUnavailable: it cannot be checked, because no keys could be fetched yet.
	ErrUnavailable = errors.New("tokens cannot be checked now")
)

// Config says which tokens there are.
type Config struct {
	// File is the path of a token file; empty: there is none.
	File string
	JWT  JWTConfig
}

// Deps are what a Verifier works with.
type Deps struct {
	Logger *slog.Logger
	// Now is the clock, time.Now outside tests.
	Now func() time.Time
}

// Verifier knows the tokens.
type Verifier struct {
	file *watched[*table] // nil: none
	jwt  *issuer          // nil: none
}

// New reads the token file and the file of keys, if there are. Keys of a URL are fetched when it runs.
func New(cfg Config, d Deps) (*Verifier, error) {
	v := &Verifier{}
	var err error
	if cfg.File != "" {
		if v.file, err = watch(cfg.File, parseTable, d); err != nil {
			return nil, fmt.Errorf("token file: %w", err)
		}
	}
	if cfg.JWT.enabled() {
		if v.jwt, err = newIssuer(cfg.JWT, d); err != nil {
			return nil, fmt.Errorf("keys of tokens: %w", err)
		}
	}
	return v, nil
}

// Run fetches keys from time to time, until ctx ends.
func (v *Verifier) Run(ctx context.Context) error {
	if v.jwt == nil || v.jwt.keys == nil {
		<-ctx.Done()
		return nil
	}
	v.jwt.keys.run(ctx)
	return nil
}

// Verify returns who presents a token.
func (v *Verifier) Verify(ctx context.Context, token string) (access.Principal, error) {
	if v.file != nil {
		if p, ok := v.file.get(ctx).find(token); ok {
			return p, nil
		}
	}
	if v.jwt != nil {
		return v.jwt.verify(ctx, token)
	}
	return access.Principal{}, ErrInvalid
}
