// Package gate stands before the public services: it finds out who calls, and decides by the rules of package access whether
// the call goes on, how fast, and whether its requests are as the contract says. It records what changes something. A Gate is
// the rpc.Guard of the server; it is safe for concurrent use, and the caller runs it.
package gate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"buf.build/go/protovalidate"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/auth"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/beeline-mqtt/beeline/internal/issuer"
	"github.com/beeline-mqtt/beeline/internal/rpc"
	"github.com/beeline-mqtt/beeline/services/router/internal/access"
	"github.com/beeline-mqtt/beeline/services/router/internal/tokens"
)

// Deps are what a Gate works with.
type Deps struct {
	Logger  *slog.Logger
	Metrics prometheus.Registerer
	// Now is the clock, time.Now outside tests.
	Now func() time.Time
}

// Gate decides about calls.
type Gate struct {
	rules    access.Rules
	verifier *tokens.Verifier
	rates    *rates
	valid    protovalidate.Validator
	logger   *slog.Logger
	refused  *prometheus.CounterVec
}

var _ rpc.Guard = (*Gate)(nil)

// New reads the files that cfg names.
func New(cfg Config, d Deps) (*Gate, error) {
	verifier, err := tokens.New(tokens.Config{File: cfg.TokensFile, JWT: cfg.JWT}, tokens.Deps{Logger: d.Logger, Now: d.Now})
	if err != nil {
		return nil, fmt.Errorf("access: %w", err)
	}
	valid, err := protovalidate.New()
	if err != nil {
		return nil, fmt.Errorf("access: validation: %w", err)
	}
	g := &Gate{
		rules: access.AllRules(), verifier: verifier, rates: newRates(cfg.Rates, d.Now), valid: valid, logger: d.Logger,
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "beeline_router_access_refused_total", Help: "Calls and requests that were refused before a service saw them, by why.",
		}, []string{"reason"}),
	}
	if err := d.Metrics.Register(g.refused); err != nil {
		return nil, fmt.Errorf("access: metrics: %w", err)
	}
	return g, nil
}

// Run keeps the keys of tokens fresh until ctx ends.
func (g *Gate) Run(ctx context.Context) error { return g.verifier.Run(ctx) }

// Unary implements rpc.Guard.
func (g *Gate) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	rule, known := g.rules[info.FullMethod]
	if known && rule.Least == access.Anyone {
		return handler(ctx, req)
	}
	p, err := g.authenticate(ctx)
	if err != nil {
		return nil, g.refuse(err)
	}
	answer, err := g.unary(ctx, p, rule, req, handler)
	g.record(ctx, p, rule, info.FullMethod, access.Target(req), err)
	return answer, err
}

func (g *Gate) unary(ctx context.Context, p access.Principal, rule access.Rule, req any, handler grpc.UnaryHandler) (any, error) {
	err := permit(p, rule)
	if err == nil {
		err = g.rates.call(p)
	}
	if err == nil {
		err = g.check(p, req)
	}
	if err != nil {
		return nil, g.refuse(err)
	}
	return handler(access.With(ctx, p), req)
}

// Stream implements rpc.Guard.
func (g *Gate) Stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	rule, known := g.rules[info.FullMethod]
	if known && rule.Least == access.Anyone {
		return handler(srv, ss)
	}
	p, err := g.authenticate(ss.Context())
	if err != nil {
		return g.refuse(err)
	}
	if err = permit(p, rule); err == nil {
		err = g.rates.call(p)
	}
	if err != nil {
		err = g.refuse(err)
	} else {
		err = handler(srv, g.wrap(ss, p, info.FullMethod))
	}
	g.record(ss.Context(), p, rule, info.FullMethod, "", err)
	return err
}

// authenticate finds out who calls: by the token, if there is one, otherwise by the certificate. Without TLS whoever shows
// no token is an operator.
func (g *Gate) authenticate(ctx context.Context) (access.Principal, error) {
	if len(metadata.ValueFromIncomingContext(ctx, "authorization")) > 0 {
		token, err := auth.AuthFromMD(ctx, "bearer")
		if err != nil {
			return access.Principal{}, unauthenticated(tokenInvalid, "the authorization is no bearer token")
		}
		return g.verify(ctx, token)
	}
	if rpc.Trusted(ctx) {
		return access.Principal{Name: "anybody", Role: access.Operator}, nil
	}
	id, err := rpc.PeerIdentity(ctx)
	if err != nil {
		return access.Principal{}, unauthenticated(noIdentity, "show a client certificate or a bearer token")
	}
	role, err := access.ParseRole(id.Role)
	if err != nil {
		role = access.Known // a service of the cluster
	}
	return access.Principal{Name: id.Name, Source: access.ByCertificate, Role: role}, nil
}

func (g *Gate) verify(ctx context.Context, token string) (access.Principal, error) {
	p, err := g.verifier.Verify(ctx, token)
	switch {
	case err == nil:
		return p, nil
	case errors.Is(err, issuer.ErrExpired):
		return p, unauthenticated(tokenExpired, "the token has expired")
	case errors.Is(err, issuer.ErrUnavailable):
		return p, unavailable()
	}
	// Why it is not taken helps those who run this, and those who guess.
	g.logger.DebugContext(ctx, "a token is not taken", slog.Any("error", err))
	return p, unauthenticated(tokenInvalid, "the token is not valid")
}

// permit says whether a role is enough for a method; for one without a rule none is.
func permit(p access.Principal, rule access.Rule) error {
	if rule.Least == access.Anyone {
		return roleMissing(p.Role, access.Operator)
	}
	if p.Role < rule.Least {
		return roleMissing(p.Role, rule.Least)
	}
	return nil
}

// record writes down what has changed something, or was to: who, what and how it ended. Of messages there are too many for
// more than the debug log.
func (g *Gate) record(ctx context.Context, p access.Principal, rule access.Rule, method, target string, err error) {
	level := slog.LevelInfo
	switch rule.Effect {
	case access.Changes:
	case access.Messages:
		level = slog.LevelDebug
	default:
		return
	}
	if !g.logger.Enabled(ctx, level) {
		return
	}
	g.logger.LogAttrs(ctx, level, "audit",
		slog.String("who", p.Name), slog.String("role", p.Role.String()), slog.String("from", from(ctx)),
		slog.String("method", method), slog.String("target", target), slog.String("outcome", outcome(err)))
}
