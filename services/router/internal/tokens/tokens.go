// Package tokens finds out who presents a bearer token: by a file with the hashes of tokens, or by the signature of a JWT.
// The file and the keys are read again when they change; as long as what is new cannot be read, what was read last counts,
// and never more than that. A Verifier is safe for concurrent use; the caller runs it.
package tokens

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/beeline-mqtt/beeline/internal/issuer"
	"github.com/beeline-mqtt/beeline/internal/watched"
	"github.com/beeline-mqtt/beeline/services/router/internal/access"
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
	file *watched.File[*table] // nil: none
	jwt  *signed               // nil: none
}

// New reads the token file and the file of keys, if there are. Keys of a URL are fetched when it runs.
func New(cfg Config, d Deps) (*Verifier, error) {
	v := &Verifier{}
	var err error
	if cfg.File != "" {
		if v.file, err = watched.Open(cfg.File, parseTable, watched.Deps(d)); err != nil {
			return nil, fmt.Errorf("token file: %w", err)
		}
	}
	if cfg.JWT.Enabled() {
		if v.jwt, err = newSigned(cfg.JWT, d); err != nil {
			return nil, fmt.Errorf("keys of tokens: %w", err)
		}
	}
	return v, nil
}

// Run fetches keys from time to time, until ctx ends.
func (v *Verifier) Run(ctx context.Context) error {
	if v.jwt == nil {
		<-ctx.Done()
		return nil
	}
	v.jwt.issuer.Run(ctx)
	return nil
}

// Verify returns who presents a token. Errors wrap one of those of package issuer.
func (v *Verifier) Verify(ctx context.Context, token string) (access.Principal, error) {
	if v.file != nil {
		if p, ok := v.file.Get(ctx).find(token); ok {
			return p, nil
		}
	}
	if v.jwt != nil {
		return v.jwt.verify(ctx, token)
	}
	return access.Principal{}, issuer.ErrInvalid
}
