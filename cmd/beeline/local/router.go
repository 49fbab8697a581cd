package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/beeline-mqtt/beeline/internal/node"
	"github.com/beeline-mqtt/beeline/internal/pki"
	"github.com/beeline-mqtt/beeline/services/router"
)

// Router is the router in front of the gateways.
type Router struct {
	*Process
	Service *router.Router
	// Operator are the files with which it can be managed.
	Operator pki.Files
	// OperatorToken is the path of a file with a token that is as good.
	OperatorToken string
}

// Router returns the router, nil when there is none.
func (c *Cluster) Router() *Router {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.router
}

// startRouter starts the router and waits until it takes clients.
func (c *Cluster) startRouter(ctx context.Context, ports RouterPorts) (*Router, error) {
	secret := filepath.Join(c.cfg.Dir, "router-secret")
	if err := router.ProvideSecret(secret, 0o600); err != nil {
		return nil, fmt.Errorf("router: %w", err)
	}
	tls, err := c.ca.Issue(pki.Request{Name: "mqtt"})
	if err != nil {
		return nil, fmt.Errorf("MQTT certificate: %w", err)
	}
	operator, err := c.ca.Issue(pki.Request{Name: "operator", Role: "operator"})
	if err != nil {
		return nil, fmt.Errorf("certificate of the operator: %w", err)
	}
	token, tokens := filepath.Join(c.cfg.Dir, "operator-token"), filepath.Join(c.cfg.Dir, "tokens.yaml")
	if err := provideToken(token, tokens); err != nil {
		return nil, fmt.Errorf("token of the operator: %w", err)
	}
	n, err := c.node(ctx, "router", node.Options{Public: true})
	if err != nil {
		return nil, err
	}
	at := func(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
	cfg := router.DefaultConfig()
	cfg.SecretFile = secret
	cfg.Access.TokensFile = tokens
	cfg.REST.Address = at(ports.REST)
	cfg.Listeners = []router.Listener{
		{Name: "mqtt", Address: at(ports.MQTT)},
		{Name: "mqtts", Address: at(ports.MQTTS), CertFile: tls.Cert, KeyFile: tls.Key},
		{Name: "ws", Address: at(ports.WebSocket), WebSocket: true},
	}
	r, err := router.New(cfg, router.Deps{Etcd: n.Etcd, Dial: n.Dialer.Dial, Metrics: n.Metrics, Logger: n.Logger})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("router: %w", err), n.Close())
	}
	if err := r.Serve(n.Server); err != nil {
		return nil, errors.Join(fmt.Errorf("router: %w", err), n.Close())
	}
	n.Readiness.Add("router", r.Ready)
	p := c.run(n, "router", r.Run)
	if err := c.waitReady(ctx, p, func() bool { return true }); err != nil {
		return nil, errors.Join(fmt.Errorf("router: %w", err), p.Stop())
	}
	return &Router{Process: p, Service: r, Operator: operator, OperatorToken: token}, nil
}

// provideToken sees to it that there is a token file, which is the user's to extend, with a token of the operator, which is in
// a file of its own.
func provideToken(path, tokens string) error {
	_, err := os.Stat(path)
	_, tokensErr := os.Stat(tokens)
	if err == nil && tokensErr == nil {
		return nil
	}
	token, entry, err := router.NewToken("operator", "operator", nil)
	if err != nil {
		return err
	}
	if err := router.AppendToken(tokens, entry); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(token+"\n"), 0o600)
}
