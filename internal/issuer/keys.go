package issuer

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/MicahParks/keyfunc/v3"

	"github.com/beeline-mqtt/beeline/internal/lifecycle"
	"github.com/beeline-mqtt/beeline/internal/pki"
)

const (
	fetchTimeout = 5 * time.Second
	// fetchAgain is how soon keys are fetched again after a failure, and at the soonest because of a key that is not known.
	fetchAgain = 10 * time.Second
	mostKeys   = 1 << 20
)

// keys are those of a URL.
type keys struct {
	url     string
	refetch time.Duration
	client  *http.Client
	deps    Deps

	fetching sync.Mutex // held while they are fetched
	mu       sync.Mutex // guards the following
	set      keyfunc.Keyfunc
	fetched  time.Time // or not, when they were tried to be last
}

func newKeys(cfg Config, d Deps) (*keys, error) {
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	if cfg.JWKSCAFile != "" {
		var err error
		if transport.TLSClientConfig, err = (pki.Files{CA: cfg.JWKSCAFile}).Client(); err != nil {
			return nil, err
		}
	}
	return &keys{
		url: cfg.JWKSURL, refetch: cfg.Refresh, deps: d,
		client: &http.Client{Transport: transport, Timeout: fetchTimeout},
	}, nil
}

// current is nil before the first ones have come.
func (k *keys) current() keyfunc.Keyfunc {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.set
}

// run fetches them now and again until ctx ends.
func (k *keys) run(ctx context.Context) {
	defer k.client.CloseIdleConnections()
	for {
		pause := k.refetch
		if !k.fetch(ctx) {
			pause = min(pause, fetchAgain)
		}
		if !lifecycle.Pause(ctx, pause) {
			return
		}
	}
}

// refresh fetches them unless that has just been tried, and reports whether there may be new ones.
func (k *keys) refresh(ctx context.Context) bool {
	asked := k.deps.Now()
	k.fetching.Lock()
	defer k.fetching.Unlock()
	k.mu.Lock()
	last := k.fetched
	k.mu.Unlock()
	if last.After(asked) {
		return true // while we waited
	}
	if asked.Sub(last) < fetchAgain {
		return false
	}
	return k.locked(context.WithoutCancel(ctx)) // a caller that has had enough does not spoil it for others
}

func (k *keys) fetch(ctx context.Context) bool {
	k.fetching.Lock()
	defer k.fetching.Unlock()
	return k.locked(ctx)
}

// locked is fetch with the lock held. What cannot be had leaves what there was.
func (k *keys) locked(ctx context.Context) bool {
	set, err := k.get(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fetched = k.deps.Now()
	if err != nil {
		if ctx.Err() == nil {
			k.deps.Logger.WarnContext(ctx, "keys of tokens cannot be fetched: those that were fetched last count", slog.Any("error", err))
		}
		return false
	}
	k.set = set
	return true
}

func (k *keys) get(ctx context.Context) (keyfunc.Keyfunc, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, k.url, http.NoBody)
	if err != nil {
		return nil, err
	}
	answer, err := k.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", k.url, answer.Status)
	}
	text, err := io.ReadAll(io.LimitReader(answer.Body, mostKeys))
	if err != nil {
		return nil, err
	}
	return parseKeys(text)
}

// parseKeys reads a JWKS with at least one key.
func parseKeys(text []byte) (keyfunc.Keyfunc, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, err
	}
	if len(set.Keys) == 0 {
		return nil, errors.New("there are no keys in it")
	}
	return keyfunc.NewJWKSetJSON(text)
}
