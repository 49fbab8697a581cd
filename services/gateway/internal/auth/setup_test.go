package auth

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"golang.org/x/crypto/bcrypt"

	"github.com/beeline-mqtt/beeline/internal/issuer/issuertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a guard, with files in a directory and a clock that tests set.
type rig struct {
	*Guard

	t        testing.TB
	cfg      Config
	dir      string
	at       atomic.Int64
	registry *prometheus.Registry
	log      logBuffer
}

// newRig makes the files of the test, and a guard with what the test configures.
func newRig(t testing.TB, configure func(r *rig)) *rig {
	t.Helper()
	r := &rig{t: t, cfg: DefaultConfig(), dir: t.TempDir(), registry: prometheus.NewRegistry()}
	r.at.Store(time.Now().UnixNano())
	configure(r)
	if err := errors.Join(r.cfg.Validate(), r.cfg.JWT.Validate(), r.cfg.JWT.Config.Validate()); err != nil {
		t.Fatal(err)
	}
	var err error
	r.Guard, err = New(r.cfg, r.deps())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) deps() Deps {
	logger := slog.New(slog.NewTextHandler(&r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	return Deps{Logger: logger, Metrics: r.registry, Now: r.now}
}

func (r *rig) now() time.Time          { return time.Unix(0, r.at.Load()) }
func (r *rig) advance(d time.Duration) { r.at.Add(int64(d)) }

// file writes a file and returns its path.
func (r *rig) file(name, text string) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	issuertest.Write(r.t, path, text)
	return path
}

// user is a line of a password file.
func user(t testing.TB, name, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return name + ":" + string(hash) + "\n"
}

// withPasswords configures the method password with ann and bob.
func withPasswords(r *rig) {
	r.cfg.Methods = append(r.cfg.Methods, "password")
	r.cfg.Password.File = r.file("users", "# who there is\n\n"+user(r.t, "ann", "secret")+user(r.t, "bob:x", "other"))
}

// withKeys configures the method jwt with the keys of signers.
func withKeys(signers ...*issuertest.Signer) func(*rig) {
	return func(r *rig) {
		r.cfg.Methods = append(r.cfg.Methods, "jwt")
		r.cfg.JWT.JWKSFile = r.file("jwks", issuertest.JWKS(r.t, signers...))
		r.cfg.JWT.Issuer, r.cfg.JWT.Audience = issuertest.Issuer, issuertest.Audience
	}
}

func all(configure ...func(*rig)) func(*rig) {
	return func(r *rig) {
		for _, f := range configure {
			f(r)
		}
	}
}

func method1(name string) func(*rig) {
	return func(r *rig) { r.cfg.Methods = append(r.cfg.Methods, name) }
}

// from is an attempt of a client c at an address.
func from(address string) Attempt {
	host, err := net.ResolveTCPAddr("tcp", net.JoinHostPort(address, "1000"))
	if err != nil {
		panic(err)
	}
	return Attempt{ClientID: "c", Listener: "mqtt", Remote: host}
}

// as is an attempt with a user name and a password.
func as(name, password string) Attempt {
	a := from("192.0.2.1")
	a.Username, a.HasUsername = name, name != ""
	a.Password, a.HasPassword = []byte(password), true
	return a
}

// want checks an answer: as whom the attempt is let in, or why not.
func (r *rig) want(a Attempt, name string, told error) Identity {
	r.t.Helper()
	id, err := r.Authenticate(r.t.Context(), a)
	if !errors.Is(err, told) || told == nil && (id.Username != name || id.ClientID != a.ClientID) {
		r.t.Errorf("%q with %.20q: %+v, %v; want %q, %v", a.Username, a.Password, id, err, name, told)
	}
	if err != nil && (id != Identity{}) {
		r.t.Errorf("refused, as %+v", id)
	}
	return id
}

// counted returns a counter, summed over the labels that are not given as name=value.
func (r *rig) counted(name string, labels ...string) (sum float64) {
	r.t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			have := ""
			for _, l := range m.GetLabel() {
				have += fmt.Sprintf("%s=%s ", l.GetName(), l.GetValue())
			}
			is := f.GetName() == name
			for _, want := range labels {
				is = is && strings.Contains(have, want+" ")
			}
			if is {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// logBuffer keeps what is logged.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
