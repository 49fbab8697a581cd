package foreign

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

const (
	pollTimeout  = 5 * time.Second // of one URL
	maxAnswer    = 1 << 20
	maxHeaders   = 64 << 10
	maxFile      = 64 << 10
	maxRedirects = 3
)

// poller asks the management API of one EMQX cluster. It is for one goroutine.
type poller struct {
	config EMQX // with its defaults
	deps   Deps
	first  int // the URL that answered last
}

// poll asks one URL after the other until one answers, beginning with the one that did last time.
func (p *poller) poll(ctx context.Context) ([]listed, error) {
	secret, err := p.secret()
	if err != nil {
		return nil, err
	}
	trust, err := p.trust()
	if err != nil {
		return nil, err
	}
	var failures []string
	for i := range p.config.URLs {
		at := (p.first + i) % len(p.config.URLs)
		nodes, err := p.ask(ctx, trust, p.config.URLs[at], secret)
		if err == nil {
			p.first = at
			return nodes, nil
		}
		failures = append(failures, p.config.URLs[at]+": "+err.Error())
	}
	return nil, errors.New("ask EMQX at " + p.redact(strings.Join(failures, "; "), secret))
}

// redact takes the secret out of a text, into which only a server that repeats it can have brought it.
func (p *poller) redact(s, secret string) string {
	basic := base64.StdEncoding.EncodeToString([]byte(p.config.Key + ":" + secret))
	return strings.NewReplacer(basic, "********", secret, "********").Replace(s)
}

func (p *poller) secret() (string, error) {
	if p.config.SecretFile == "" {
		return string(p.config.Secret), nil
	}
	b, err := p.deps.ReadFile(p.config.SecretFile)
	if err != nil {
		return "", fmt.Errorf("read secret_file: %w", err)
	}
	s := strings.TrimRight(string(b), "\r\n")
	if s == "" {
		return "", fmt.Errorf("read secret_file: %s is empty", p.config.SecretFile)
	}
	return s, nil
}

// trust says whose certificate is believed.
func (p *poller) trust() (*tls.Config, error) {
	t := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         p.config.TLS.ServerName,
		InsecureSkipVerify: p.config.TLS.InsecureSkipVerify,
	}
	if p.config.TLS.CAFile != "" {
		pem, err := p.deps.ReadFile(p.config.TLS.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read tls.ca_file: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read tls.ca_file: no certificate in %s", p.config.TLS.CAFile)
		}
	}
	return t, nil
}

// client is for requests under one context. Their connections are new, which finds out where a name points now, and
// leaves nothing open.
func (p *poller) client(ctx context.Context, trust *tls.Config) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			// A Transport goes on dialling and shaking hands when nobody waits any more.
			DialContext: func(_ context.Context, network, address string) (net.Conn, error) {
				conn, err := p.deps.Dial(ctx, network, address)
				if err == nil {
					context.AfterFunc(ctx, func() { _ = conn.Close() })
				}
				return conn, err
			},
			TLSClientConfig:        trust,
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxHeaders,
		},
		CheckRedirect: sameHost,
	}
}

// sameHost lets a redirect pass that does not take the secret to anybody else.
func sameHost(next *http.Request, before []*http.Request) error {
	switch first := before[0].URL; {
	case len(before) > maxRedirects:
		return errors.New("too many redirects")
	case !strings.EqualFold(next.URL.Hostname(), first.Hostname()):
		return errors.New("it redirects to another host")
	case next.URL.Scheme != first.Scheme && next.URL.Scheme != "https":
		return errors.New("it redirects from https to " + next.URL.Scheme)
	}
	return nil
}

func (p *poller) ask(ctx context.Context, trust *tls.Config, base, secret string) ([]listed, error) {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	target := fmt.Sprintf("%s/api/v%d/nodes", strings.TrimRight(base, "/"), p.config.API)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, plain(ctx, err)
	}
	r.SetBasicAuth(p.config.Key, secret)
	r.Header.Set("Accept", "application/json")
	answer, err := p.client(ctx, trust).Do(r)
	if err != nil {
		return nil, plain(ctx, err)
	}
	defer func() { _ = answer.Body.Close() }()
	switch answer.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden:
		return nil, fmt.Errorf("it refuses the key or its secret (%d)", answer.StatusCode)
	default:
		return nil, fmt.Errorf("it answers %d %s", answer.StatusCode, http.StatusText(answer.StatusCode))
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	if err != nil {
		return nil, plain(ctx, err)
	}
	if len(body) > maxAnswer {
		return nil, fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	}
	return parseAnswer(p.config.API, body)
}

// plain takes out of an error what is different each time although the reason is the same, like local ports.
func plain(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %v", pollTimeout)
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		err = op.Err
	}
	return steady(err)
}

// readFile reads a file, or a pipe that ends, of at most maxFile bytes.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%s is longer than %d bytes", name, maxFile)
	}
	return b, nil
}
