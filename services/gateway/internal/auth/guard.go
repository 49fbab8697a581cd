package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/internal/watched"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/rules"
)

// Deps are what a Guard works with.
type Deps struct {
	Logger  *slog.Logger
	Metrics prometheus.Registerer
	// Now is the clock, time.Now outside tests.
	Now func() time.Time
}

// method is one way to find out who a client is. It answers with errNotMine when the client has brought nothing for it.
type method interface {
	try(ctx context.Context, a Attempt) (Identity, error)
}

var (
	errNotMine = errors.New("the client has brought nothing for this method")
	// errUnavailable: the answer is not known.
	errUnavailable = errors.New("clients cannot be authenticated now")
)

// reason is why somebody was let in or refused, as metrics and the log have it.
type reason string

const (
	reasonAccepted    reason = "accepted"
	reasonCredentials reason = "credentials" // unknown user, or wrong password
	reasonExpired     reason = "token_expired"
	reasonToken       reason = "token_invalid"
	reasonKeys        reason = "keys_missing"
	reasonClaims      reason = "claims"      // a claim is missing, or wrong
	reasonUsername    reason = "username"    // not that of the token or certificate
	reasonClientID    reason = "client_id"   // not one that the user may have
	reasonCertificate reason = "certificate" // without the name
	reasonNothing     reason = "nothing"     // nothing was brought, and anonymous clients are not let in
	reasonBusy        reason = "busy"
	reasonFailures    reason = "failures" // too many from that address
	reasonUnknown     reason = "unknown"
)

// refusal is why somebody is refused. It wraps what the client is told.
type refusal struct {
	error

	why reason
}

func refused(told error, why reason) error { return &refusal{told, why} }

func (r *refusal) Unwrap() error { return r.error }

// reasonOf is the reason of an answer.
func reasonOf(err error) reason {
	var r *refusal
	switch {
	case err == nil:
		return reasonAccepted
	case errors.As(err, &r):
		return r.why
	}
	return reasonUnknown
}

// Guard knows the users, and what they may do.
type Guard struct {
	cfg      Config
	methods  []method // beside cfg.Methods
	password *passwords
	jwt      *tokens
	rules    *watched.File[*rules.Set] // nil: there are none
	failures *failures
	logger   *slog.Logger
	lines    *rate.Limiter // of refusals in the log
	results  *prometheus.CounterVec
	denied   map[rules.Action]prometheus.Counter
}

// New reads the files that cfg names.
func New(cfg Config, d Deps) (*Guard, error) {
	g := &Guard{cfg: cfg, failures: newFailures(cfg.Failures, d.Now), logger: d.Logger, lines: rate.NewLimiter(10, 50)}
	for _, name := range cfg.Methods {
		m, err := g.method(name, d)
		if err != nil {
			return nil, fmt.Errorf("auth: %s: %w", name, err)
		}
		g.methods = append(g.methods, m)
	}
	if cfg.RulesFile != "" {
		var err error
		if g.rules, err = watched.Open(cfg.RulesFile, rules.ParseFile, watched.Deps{Logger: d.Logger, Now: d.Now}); err != nil {
			return nil, fmt.Errorf("auth: rules: %w", err)
		}
	}
	if err := g.register(d.Metrics); err != nil {
		return nil, fmt.Errorf("auth: metrics: %w", err)
	}
	return g, nil
}

func (g *Guard) method(name string, d Deps) (m method, err error) {
	switch name {
	case methodPassword:
		g.password, err = newPasswords(g.cfg.Password, d)
		return g.password, err
	case methodJWT:
		g.jwt, err = newTokens(g.cfg.JWT, d)
		return g.jwt, err
	case methodCertificate:
		return certificates{g.cfg.Certificate}, nil
	default:
		return anonymous{}, nil
	}
}

func (g *Guard) register(r prometheus.Registerer) error {
	g.results = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "beeline_gateway_authentications_total", Help: "CONNECTs by the method that has decided about them, and why so.",
	}, []string{"method", "reason"})
	denied := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "beeline_gateway_authorization_denied_total", Help: "Messages, wills and subscriptions that rules do not permit.",
	}, []string{"action"})
	g.denied = map[rules.Action]prometheus.Counter{
		rules.Publish: denied.WithLabelValues("publish"), rules.Subscribe: denied.WithLabelValues("subscribe"),
	}
	waiting := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "beeline_gateway_passwords_waiting", Help: "Passwords that are being compared with hashes, or wait for that.",
	}, func() float64 {
		if g.password == nil {
			return 0
		}
		return float64(g.password.waiting.Load())
	})
	return errors.Join(r.Register(g.results), r.Register(denied), r.Register(waiting))
}

// Run looks after files and keys until ctx ends.
func (g *Guard) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	if g.rules != nil {
		running.Go(func() { g.rules.Run(ctx) })
	}
	if g.jwt != nil {
		running.Go(func() { g.jwt.issuer.Run(ctx) })
	}
	<-ctx.Done()
}

// anonymous is the method anonymous: for those who do not say who they are.
type anonymous struct{}

func (anonymous) try(_ context.Context, a Attempt) (Identity, error) {
	if a.Username != "" || a.HasPassword {
		return Identity{}, errNotMine
	}
	return Identity{ClientID: a.ClientID}, nil
}

// Authenticate is an Authenticate: the first method for which the client has brought something decides.
func (g *Guard) Authenticate(ctx context.Context, a Attempt) (Identity, error) {
	if g.failures.tooMany(a.Remote) {
		return g.decided(ctx, a, "none", Identity{}, refused(ErrTooManyFailures, reasonFailures))
	}
	for i, m := range g.methods {
		id, err := m.try(ctx, a)
		if errors.Is(err, errNotMine) {
			continue
		}
		if err == nil && g.cfg.ClientID == usernameID && id.ClientID != id.Username {
			err = refused(ErrNotAuthorized, reasonClientID)
		}
		return g.decided(ctx, a, g.cfg.Methods[i], id, err)
	}
	switch {
	case g.password != nil && a.HasPassword:
		return g.decided(ctx, a, methodPassword, Identity{}, g.password.idle(ctx, a))
	case a.HasPassword || a.Username != "":
		return g.decided(ctx, a, "none", Identity{}, refused(ErrBadCredentials, reasonCredentials))
	}
	return g.decided(ctx, a, "none", Identity{}, refused(ErrNotAuthorized, reasonNothing))
}

// decided counts and records an answer.
func (g *Guard) decided(ctx context.Context, a Attempt, method string, id Identity, err error) (Identity, error) {
	if err != nil {
		id = Identity{}
	}
	if errors.Is(err, ErrBadCredentials) || errors.Is(err, ErrNotAuthorized) {
		g.failures.count(a.Remote)
	}
	why := reasonOf(err)
	g.results.WithLabelValues(method, string(why)).Inc()
	g.record(ctx, a, method, why)
	return id, err
}

// longestLogged is how much of a name is in the log.
const longestLogged = 64

// record writes down who was refused, no more often than now and then, and, for who wants to know, who was let in.
func (g *Guard) record(ctx context.Context, a Attempt, method string, why reason) {
	level := slog.LevelDebug
	if why != reasonAccepted {
		if level = slog.LevelInfo; !g.lines.Allow() {
			return
		}
	}
	if !g.logger.Enabled(ctx, level) {
		return
	}
	from := ""
	if a.Remote != nil {
		from = a.Remote.String()
	}
	g.logger.LogAttrs(ctx, level, "audit", slog.String("who", clip(a.Username)), slog.String("client_id", clip(a.ClientID)),
		slog.String("from", from), slog.String("listener", a.Listener), slog.String("method", method), slog.String("outcome", string(why)))
}

func clip(text string) string { return text[:min(len(text), longestLogged)] }

// Authorize is an Authorize: the client's own rules come before those for everybody. What neither knows is not permitted,
// unless there are no rules at all, or the topic is one that others decide about: members may publish to their groups, and
// whoever got a command to where it is answered.
func (g *Guard) Authorize(id Identity, q rules.Request) bool {
	who := rules.Client{ID: id.ClientID, Username: id.Username}
	decision := rules.Undecided
	if id.Rules != nil {
		decision = id.Rules.Decide(who, q)
	}
	if decision == rules.Undecided && g.rules != nil {
		decision = g.rules.Current().Decide(who, q)
	}
	permitted := decision == rules.Allowed || decision == rules.Undecided && (id.Rules == nil && g.rules == nil || isByAddress(q))
	if !permitted {
		g.denied[q.Action].Inc()
	}
	return permitted
}

// isByAddress reports whether the client's right to publish follows from the topic: the gateway has asked for membership.
func isByAddress(q rules.Request) bool {
	if q.Action != rules.Publish {
		return false
	}
	if topic.IsGroup(q.Topic) {
		return true
	}
	id, err := topic.ParseDirect(q.Topic)
	return err == nil && strings.HasPrefix(id, message.AnswerPrefix)
}
