package publish

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"google.golang.org/protobuf/proto"

	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster"
)

// mostPending bounds the messages of a Desk that have no result.
const mostPending = 32_768

// mostPendingBytes bounds their bytes; one message always finds room.
const mostPendingBytes = 64 << 20

// errUnsent: the stream ended before a message was written.
var errUnsent = errors.New("not written")

// Desk publishes single messages for many callers, on one stream to one gateway. What waits while a frame is written goes
// into the next one. It is safe for concurrent use.
type Desk struct {
	gateways Gateways

	begun chan struct{} // one element: there are windows to run

	mu      sync.Mutex // guards the following
	window  *window    // takes messages; nil: there is none at present
	windows []*window  // to be run
	pending int
	bytes   int    // of those that are pending
	nearest string // the gateway that the last one went to
	ended   bool
}

// window is a stream of a Desk, from before it is open to its end.
type window struct {
	desk *Desk
	wake chan struct{} // one element: something waits

	// guarded by desk.mu
	waiting []*request
	sent    map[uint64]*request // written, or about to be
	last    uint64
}

// request is a message with who waits for its result.
type request struct {
	p    *gatewayv1.Publication
	size int           // of p, in bytes
	done chan struct{} // closed with the following
	r    *gatewayv1.Result
	err  error
}

// NewDesk returns a Desk, which has to run.
func NewDesk(g Gateways) *Desk { return &Desk{gateways: g, begun: make(chan struct{}, 1)} }

// Run serves until ctx ends. Nothing is published before or after.
func (d *Desk) Run(ctx context.Context) error {
	var running sync.WaitGroup
	for {
		select {
		case <-d.begun:
			for _, w := range d.begin(false) {
				running.Go(func() { w.run(ctx) })
			}
		case <-ctx.Done():
			for _, w := range d.begin(true) {
				w.fail(ErrNoGateway, ErrNoGateway)
			}
			running.Wait()
			return nil
		}
	}
}

// begin takes the windows that are to be run. last: there will be no more.
func (d *Desk) begin(last bool) []*window {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := d.windows
	d.windows, d.ended = nil, d.ended || last
	return all
}

// Publish publishes p, whose request id it sets, and returns its result. The error is one of this package, or that of ctx:
// then it is not known whether p was published.
func (d *Desk) Publish(ctx context.Context, p *gatewayv1.Publication) (*gatewayv1.Result, error) {
	q := &request{p: p, size: proto.Size(p), done: make(chan struct{})}
	w, err := d.add(q)
	if err != nil {
		return nil, err
	}
	defer d.left(q)
	for {
		select {
		case <-q.done:
		case <-ctx.Done():
			w.forget(q)
			return nil, fmt.Errorf("wait for the result: %w", context.Cause(ctx))
		}
		if !errors.Is(q.err, errUnsent) {
			return q.r, q.err
		}
		q = &request{p: p, size: q.size, done: make(chan struct{})}
		if w, err = d.put(q); err != nil {
			return nil, err
		}
	}
}

// add counts a request and puts it. Without an error, left has to follow.
func (d *Desk) add(q *request) (*window, error) {
	d.mu.Lock()
	full := d.pending >= mostPending || d.pending > 0 && d.bytes+q.size > mostPendingBytes
	if !full {
		d.pending++
		d.bytes += q.size
	}
	d.mu.Unlock()
	if full {
		return nil, ErrBusy
	}
	w, err := d.put(q)
	if err != nil {
		d.left(q)
	}
	return w, err
}

// put puts a request into the present window, or a new one.
func (d *Desk) put(q *request) (*window, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		return nil, ErrNoGateway
	}
	if d.window == nil {
		d.window = &window{desk: d, wake: make(chan struct{}, 1), sent: make(map[uint64]*request)}
		d.windows = append(d.windows, d.window)
		signal(d.begun)
	}
	w := d.window
	w.last++
	q.p.RequestId = w.last
	w.waiting = append(w.waiting, q)
	signal(w.wake)
	return w, nil
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // it has been told
	}
}

func (d *Desk) left(q *request) {
	d.mu.Lock()
	d.pending--
	d.bytes -= q.size
	d.mu.Unlock()
}

// forget has nobody wait for a request any more. If it has not been written it is not published.
func (w *window) forget(q *request) {
	w.desk.mu.Lock()
	defer w.desk.mu.Unlock()
	for i, x := range w.waiting {
		if x == q {
			w.waiting = append(w.waiting[:i], w.waiting[i+1:]...)
			return
		}
	}
	delete(w.sent, q.p.GetRequestId())
}

// run opens the stream, writes what waits, and ends everything that has no result in the end.
func (w *window) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.desk.mu.Lock()
	nearest := w.desk.nearest
	w.desk.mu.Unlock()
	s, err := Open(ctx, w.desk.gateways, nearest)
	if err != nil {
		w.close()
		w.fail(err, err)
		return
	}
	w.desk.mu.Lock()
	w.desk.nearest = s.Gateway
	w.desk.mu.Unlock()
	var reading sync.WaitGroup
	broken := make(chan struct{})
	reading.Go(func() {
		defer close(broken)
		w.read(s)
	})
	w.write(s, broken)
	reading.Wait()
	w.fail(errUnsent, ErrNotKnown)
}

// write writes what waits, until the stream is broken, or the gateway is about to go away: then what has been written gets
// its results, and the stream ends.
func (w *window) write(s Stream, broken <-chan struct{}) {
	for {
		select {
		case <-broken:
			w.close()
			return
		case <-w.wake:
		}
		leaving := w.leaving(s.Gateway)
		if leaving {
			w.close() // what comes from now on goes to another gateway
		}
		err := Frames(w.next(), func(part []*gatewayv1.Publication) error {
			return s.Send(&gatewayv1.PublishRequest{Publications: part})
		})
		if err == nil && leaving {
			err = s.CloseSend()
		}
		if err != nil || leaving {
			w.close()
			<-broken // the reader knows why
			return
		}
	}
}

// leaving reports whether the gateway is not active any more and another one is.
func (w *window) leaving(gateway string) bool {
	if at, err := w.desk.gateways.Gateway(gateway); err == nil && at.State == cluster.Active {
		return false
	}
	other, err := w.desk.gateways.Next(func(id string) bool { return id == gateway })
	return err == nil && other.State == cluster.Active
}

// next takes what waits.
func (w *window) next() []*gatewayv1.Publication {
	w.desk.mu.Lock()
	defer w.desk.mu.Unlock()
	all := make([]*gatewayv1.Publication, len(w.waiting))
	for i, q := range w.waiting {
		all[i] = q.p
		w.sent[q.p.GetRequestId()] = q
	}
	w.waiting = nil
	return all
}

// read hands out results until the stream ends.
func (w *window) read(s Stream) {
	for {
		r, err := s.Recv()
		if err != nil {
			return
		}
		w.desk.mu.Lock()
		for _, x := range r.GetResults() {
			if q := w.sent[x.GetRequestId()]; q != nil {
				delete(w.sent, x.GetRequestId())
				q.r = x
				close(q.done)
			}
		}
		w.desk.mu.Unlock()
	}
}

// close has what comes from now on go into another window.
func (w *window) close() {
	w.desk.mu.Lock()
	defer w.desk.mu.Unlock()
	if w.desk.window == w {
		w.desk.window = nil
	}
}

// fail ends what has no result: what has not been written, and the rest.
func (w *window) fail(unsent, sent error) {
	w.desk.mu.Lock()
	defer w.desk.mu.Unlock()
	for _, q := range w.waiting {
		q.err = unsent
		close(q.done)
	}
	for _, q := range w.sent {
		q.err = sent
		close(q.done)
	}
	w.waiting, w.sent = nil, nil
}

// Gateway is the gateway to which the desk publishes, or has published last; empty before.
func (d *Desk) Gateway() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.nearest
}
