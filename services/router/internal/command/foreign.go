package command

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"

	"github.com/beeline-mqtt/beeline/services/router/internal/client"
	"github.com/beeline-mqtt/beeline/services/router/internal/foreign"
)

var (
	// errNoChannel: the device's cluster has no channel for commands.
	errNoChannel = errors.New("has no channel: its definition needs channel.command_topic")
	// errNoNode: no node of the device's cluster takes connections.
	errNoNode = errors.New("no node takes connections")
)

// keepAlive is how often, in seconds, a foreign broker hears of a router.
const keepAlive = 30

// Foreign is a foreign cluster, as far as commands need it. The zero value is the own one.
type Foreign struct {
	// Cluster is its name, and Revision that of its definition.
	Cluster  string
	Revision int64
	// Channel is nil when there is none.
	Channel *foreign.Channel
	// Nodes are those that take clients now, by host:port, in the order in which they are to be tried.
	Nodes func() []string
}

// abroad is the way to a foreign cluster, for one definition of it.
type abroad struct {
	*way
	revision int64
}

// wayTo is how a command gets to a client, until done is called.
func (c *Commander) wayTo(ctx context.Context, clientID string) (w *way, done func(), err error) {
	var f Foreign
	if c.deps.Place != nil {
		f = c.deps.Place(ctx, clientID)
	}
	switch {
	case f.Cluster == "":
		w, done = c.toOwn()
		return w, done, nil
	case f.Channel == nil:
		return nil, nil, fmt.Errorf("client %q belongs to the cluster %q, which %w", clientID, f.Cluster, errNoChannel)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.foreign[f.Cluster]
	if x != nil && x.revision >= f.Revision {
		return x.way, func() {}, nil
	}
	if x != nil {
		x.line.stop()
	}
	x = &abroad{way: c.newAbroad(f), revision: f.Revision}
	c.foreign[f.Cluster] = x
	return x.way, func() {}, nil
}

func (c *Commander) newAbroad(f Foreign) *way {
	id := "beeline-router-" + rand.Text()
	l := newLine(f.Cluster, id, f.connect, c.deps.Logger)
	l.config.Connect.KeepAlive = keepAlive
	w := &way{cluster: f.Cluster, line: l, topic: f.Channel.Commands, answers: f.Channel.Answers(id)}
	l.always = []string{w.answers}
	return c.newWay(w)
}

// Follow gives up the connections to foreign clusters that are not defined any more, or not as they were.
func (c *Commander) Follow(defined func(cluster string, revision int64) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, x := range c.foreign {
		if !defined(name, x.revision) {
			x.line.stop()
			delete(c.foreign, name)
		}
	}
}

// connect opens a connection to a node: the next one when one does not take it.
func (f Foreign) connect(ctx context.Context, c client.Config) (*client.Conn, error) {
	password, err := f.Channel.Password()
	if err != nil {
		return nil, err
	}
	c.Connect.Username, c.Connect.HasUsername = f.Channel.Username, f.Channel.Username != ""
	c.Connect.Password, c.Connect.HasPassword = password, password != nil
	err = errNoNode
	for _, address := range f.Nodes() {
		var conn *client.Conn
		if conn, err = f.connectTo(ctx, address, c); err == nil {
			return conn, nil
		}
		err = fmt.Errorf("node %s: %w", address, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

func (f Foreign) connectTo(ctx context.Context, address string, c client.Config) (*client.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	secure, err := f.Channel.TLS.Config(host)
	if err != nil {
		return nil, err
	}
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if secure != nil {
		nc = tls.Client(nc, secure)
	}
	return client.Open(ctx, nc, c)
}
