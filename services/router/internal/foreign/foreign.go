// Package foreign keeps current which nodes the MQTT clusters have that are not Beeline's: those of EMQX as its
// management API lists them, those of any other broker from a static list whose nodes are checked by connecting.
//
// It owns the definition of such a cluster and one loop for each that is watched. It does not store definitions, and it
// places no client. What a poll, a resolution or a check means for the nodes is decided in state, which is pure; the
// loop asks and tells. Time is that of package time.
package foreign

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

const (
	// atOnce bounds the checks and look-ups of one cluster that are under way.
	atOnce = 16
	// maxNodes bounds the nodes of one cluster, maxPerName those that one name stands for.
	maxNodes   = 10_000
	maxPerName = 256
)

// Node is one broker to which clients may be sent.
type Node struct {
	// ID stays the same as long as the node is the same. EMQX: the node's name. Static: the entry of the list as it is
	// written, or host:port of one address when the entry's name has several.
	ID string
	// Address is host:port of its MQTT listener. The host is an IP address, unless its name was never resolved: such a
	// node is not active.
	Address string
	// Weight is its share of new clients, relative to others; at least 1.
	Weight uint32
	// Active says that new clients may be sent there.
	Active bool
	// Load is the number of clients that are connected, as EMQX tells it; else 0.
	Load int
}

// View is a cluster as it is known at a time. It is not changed after it has been handed out.
type View struct {
	// Nodes are in the order of the static list, or by ID. No two have the same ID. At most 10,000.
	Nodes []Node
	// Known is false as long as EMQX has never answered: that there are no nodes means nothing then.
	Known bool
	// Err is why the view may be out of date, in words for an operator; nil when everything could be asked. It holds no
	// secret. That a node does not answer is no error, only what Active says.
	Err error
	// Since is when Err appeared, or went away.
	Since time.Time
}

// Resolver finds the addresses of a name. *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Deps are what Watch works with. Only Logger must be set.
type Deps struct {
	Logger *slog.Logger
	// Metrics is nil when nothing is to be counted.
	Metrics *Metrics
	// Dial connects to nodes and to the management API; nil: as a net.Dialer does. It returns soon after its context
	// has ended.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Resolver is asked for names of nodes; nil: net.DefaultResolver. Names in URLs are Dial's business.
	Resolver Resolver
	// ReadFile reads the files that a definition names, at every poll; nil: any file of at most 64 KiB. Whoever lets
	// others write definitions may want to read from one directory only.
	ReadFile func(name string) ([]byte, error)
	// Jitter makes an interval a little longer or shorter, so that not all routers ask at the same time; nil: by up to
	// a quarter, at random.
	Jitter func(time.Duration) time.Duration
}

// Watch calls on with the nodes of a cluster: first when they have been asked for, whether that went well or not, then
// each time the view changes and never otherwise. on is called on the goroutine that called Watch, one call at a time,
// and must not block. Watch returns an error at once if the definition is not valid, and else nil when the context is
// done. Then every goroutine that it started has ended, but for those of package http that close a connection.
//
// While EMQX's management API does not answer, the nodes that it named last stand, and connecting to them decides which
// are active. While a name cannot be resolved its last addresses stand.
func Watch(ctx context.Context, d Definition, deps Deps, on func(View)) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("watch cluster %q: %w", d.Name, err)
	}
	w := newWatch(d.withDefaults(), deps.withDefaults(), on)
	w.run(ctx)
	return nil
}

func (d Deps) withDefaults() Deps {
	if d.Dial == nil {
		d.Dial = new(net.Dialer).DialContext
	}
	if d.Resolver == nil {
		d.Resolver = net.DefaultResolver
	}
	if d.ReadFile == nil {
		d.ReadFile = readFile
	}
	if d.Jitter == nil {
		d.Jitter = jitter
	}
	return d
}
