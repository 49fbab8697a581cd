package splice

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/beeline-mqtt/beeline/internal/tcp"
)

// side is one of the two connections.
type side struct {
	name           string
	conn           net.Conn
	tcp            *tcp.Conn // conn, if it is plain TCP
	closed, failed Ended
}

func newSide(name string, conn net.Conn, closed, failed Ended) side {
	conn = tcp.Wrap(conn)
	plain, _ := conn.(*tcp.Conn)
	// Those for reading the CONNECT. If it fails, so does the first read.
	_ = conn.SetDeadline(time.Time{})
	return side{name: name, conn: conn, tcp: plain, closed: closed, failed: failed}
}

// abort closes the connection without a goodbye, which could wait for a peer that does not read.
func (s *side) abort() {
	if t, ok := s.conn.(interface{ NetConn() net.Conn }); ok {
		_ = t.NetConn().Close()
		return
	}
	_ = s.conn.Close()
}

// Pair is two connections, and what the two directions share: how it all ends.
type Pair struct {
	opts             Options
	client, node     side
	toNode, toClient direction
	other            sync.WaitGroup // the goroutine of toClient

	begun time.Time
	last  atomic.Int64 // when a byte has passed last, in nanoseconds since begun

	// callbacks counts those of the timer and of the context that run or may still begin.
	callbacks sync.WaitGroup
	forget    func() (stopped bool) // the callback of the context

	mu       sync.Mutex // guards what follows
	ended    Ended
	err      error
	timer    *time.Timer
	lingerBy time.Duration // since begun; 0: no lingering
	over     bool          // both directions have ended: no callback has anything to do
}

// result closes what is open still.
func (p *Pair) result() *Result {
	p.unwatch()
	_ = p.client.conn.Close()
	_ = p.node.conn.Close()
	return &Result{
		ToNode: p.toNode.passed, ToClient: p.toClient.passed, Spliced: p.toNode.spliced + p.toClient.spliced,
		Ended: p.ended, Err: p.err,
	}
}

// note keeps the first reason.
func (p *Pair) note(why Ended, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended == 0 {
		p.ended, p.err = why, err
	}
}

// end closes both connections; the directions find out by that.
func (p *Pair) end(why Ended, err error) {
	p.note(why, err)
	p.client.abort()
	p.node.abort()
}

// closeWrite tells one side that the other has ended what it sends.
func (p *Pair) closeWrite(from, to *side) {
	p.note(from.closed, nil)
	half, ok := to.conn.(interface{ CloseWrite() error })
	switch {
	case !ok && p.opts.Linger <= 0:
		p.end(from.closed, nil)
	case !ok:
		p.linger()
	default:
		// It fails only when the connection has, or the peer does not read: there is nobody to speak to.
		if err := half.CloseWrite(); err != nil {
			p.end(to.failed, fmt.Errorf("close towards the %s: %w", to.name, err))
		}
	}
}

// watch has the pair end when ctx does or nothing passes. unwatch is to follow.
func (p *Pair) watch(ctx context.Context) {
	p.callbacks.Add(1)
	p.forget = context.AfterFunc(ctx, func() {
		defer p.callbacks.Done()
		p.end(Cancelled, context.Cause(ctx))
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.opts.Idle > 0 {
		p.wake(p.opts.Idle)
	}
}

// unwatch returns when no callback runs any more and none will.
func (p *Pair) unwatch() {
	if p.forget() {
		p.callbacks.Done()
	}
	p.mu.Lock()
	p.over = true
	if p.timer != nil && p.timer.Stop() {
		p.callbacks.Done()
	}
	p.mu.Unlock()
	p.callbacks.Wait()
}

// linger has the pair end after Options.Linger.
func (p *Pair) linger() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lingerBy = time.Since(p.begun) + p.opts.Linger
	left, _ := p.left()
	p.wake(max(left, 0))
}

// wake has look called after d. The caller holds p.mu.
func (p *Pair) wake(d time.Duration) {
	if p.timer == nil {
		p.callbacks.Add(1)
		p.timer = time.AfterFunc(d, p.look)
		return
	}
	if !p.timer.Reset(d) {
		p.callbacks.Add(1)
	}
}

// look ends the pair if its time is over. It is the one timer's: a byte that passes only says when it did.
func (p *Pair) look() {
	defer p.callbacks.Done()
	if why := p.due(); why != 0 {
		p.end(why, nil)
	}
}

// due is why the pair is to end now; 0: it is not, and look is called again.
func (p *Pair) due() Ended {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return 0
	}
	left, why := p.left()
	if left > 0 {
		p.wake(left)
		return 0
	}
	return why
}

// left is how long the pair may go on as it is, and what ends it then. The caller holds p.mu, and has a limit set.
func (p *Pair) left() (time.Duration, Ended) {
	now := time.Since(p.begun)
	idle := p.opts.Idle - (now - time.Duration(p.last.Load()))
	if p.lingerBy != 0 && (p.opts.Idle <= 0 || p.lingerBy-now < idle) {
		return p.lingerBy - now, p.ended
	}
	return idle, Idled
}
