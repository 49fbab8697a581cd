package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/rpc"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/internal/turn"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/broker"
)

const (
	// mostUnsettled and mostBytes bound the messages of one stream whose results have not been written. Reported ones may be
	// half of them.
	mostUnsettled = 65_536
	mostBytes     = 64 << 20
	// mostResults and mostReceiptsTogether bound one frame of results; one result may have more receipts.
	mostResults          = 4096
	mostReceiptsTogether = 10_000
	// lookPeriod is how often a stream looks for messages whose receivers do not answer.
	lookPeriod = time.Second
)

// Stream is the gateway's end of a stream.
type Stream = grpc.BidiStreamingServer[gatewayv1.PublishRequest, gatewayv1.PublishResponse]

// stream is one stream of a router.
type stream struct {
	d     *Deps
	grpc  Stream
	turn  turn.Turn     // of the reading goroutine
	ready chan struct{} // one element: there is something for the writer
	room  chan struct{} // one element: the reader may go on

	mu sync.Mutex // guards the following
	// unsettled and bytes are of messages whose results have not been written; reported are those among them.
	unsettled, reported, bytes int
	waits                      waits
	results                    []*gatewayv1.Result
	wrote                      []*item // of results, what is returned once they are written
	line                       line
	end                        error // why the stream is not read any more; io.EOF: the router has said so
}

// item is one message under way.
type item struct {
	st         *stream
	m          *message.Message
	report     *gatewayv1.Report // nil: plain
	clients    []string          // that it is for, of a user
	id         uint64
	size       int
	since      time.Time
	prev, next *item       // in waits
	settled    bool        // it has its result
	storing    bool        // as a retained message
	code       packet.Code // a failure when it could not be stored
}

// Serve takes what comes on a stream until it ends, or ctx does, which is the incarnation's. The goroutine that it starts is
// running's, and ends soon after Serve has returned.
func Serve(ctx context.Context, s Stream, running *sync.WaitGroup, d *Deps) error {
	d.Metrics.streams.Inc()
	defer d.Metrics.streams.Dec()
	if err := s.SendHeader(nil); err != nil { // says that what comes is taken
		return fmt.Errorf("answer: %w", err)
	}
	st := &stream{d: d, grpc: s, ready: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	running.Go(func() { st.read(s.Context()) })
	return st.write(ctx)
}

// read publishes what comes, as long as there is room for its results.
func (st *stream) read(ctx context.Context) {
	for {
		r, err := st.grpc.Recv()
		if err == nil {
			err = st.take(r)
		}
		if err == nil {
			err = st.waitForRoom(ctx)
		}
		if err != nil {
			st.mu.Lock()
			st.end = err
			st.mu.Unlock()
			signal(st.ready)
			return
		}
	}
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // it has been told
	}
}

// take publishes the messages of one frame.
func (st *stream) take(r *gatewayv1.PublishRequest) error {
	if !st.d.Serving() {
		return rpc.Refuse(rpc.Stopping, "the incarnation is over")
	}
	st.turn.Now = time.Now()
	defer st.turn.End()
	for _, p := range r.GetPublications() {
		if err := st.publish(p); err != nil {
			return err
		}
	}
	return nil
}

func (st *stream) publish(p *gatewayv1.Publication) error {
	if p.GetRequestId() == 0 || p.GetMessage() == nil {
		return status.Error(codes.InvalidArgument, "a publication without a request id or a message")
	}
	it := &item{st: st, id: p.GetRequestId(), since: st.turn.Now, report: p.GetReport(), clients: p.GetClientIds()}
	if it.report != nil {
		if _, ok := termsOf(it.report); !ok {
			return status.Error(codes.InvalidArgument, "a report without a time, or with an unknown wait")
		}
		st.d.Metrics.reported.Inc()
	} else {
		st.d.Metrics.plain.Inc()
	}
	m, code := st.d.message(p, st.turn.Now)
	if !code.Failure() {
		it.m, it.size = m, m.Size()
		code = st.admit(it)
	}
	if code.Failure() {
		st.d.Metrics.refused.Inc()
		st.refuse(it, code)
		return nil
	}
	if st.queued(it) {
		return nil
	}
	it.send(&st.turn)
	return nil
}

// admit counts a message, unless it is reported and there is no room for such.
func (st *stream) admit(it *item) packet.Code {
	st.mu.Lock()
	defer st.mu.Unlock()
	if it.report != nil {
		if st.reported >= mostUnsettled/2 || st.reported > 0 && st.bytes+it.size > mostBytes/2 {
			return packet.QuotaExceeded
		}
		st.reported++
	}
	st.unsettled++
	st.bytes += it.size
	st.waits.add(it)
	return packet.Success
}

// refuse answers a message that has not been admitted.
func (st *stream) refuse(it *item, code packet.Code) {
	st.mu.Lock()
	st.unsettled++
	it.settled, it.report = true, nil
	st.answer(it, &gatewayv1.Result{RequestId: it.id, ReasonCode: uint32(code)})
	st.mu.Unlock()
	signal(st.ready)
}

// send gives a message to the broker.
func (it *item) send(t *turn.Turn) {
	switch {
	case it.code.Failure():
		it.done(it.code)
	case it.report != nil:
		terms, _ := termsOf(it.report)
		terms.Clients = it.clients
		it.st.d.Broker.PublishReported(it.m, terms, it.told, t)
	default:
		it.st.d.Broker.PublishFrom(it.m, it.done, t)
	}
}

// done is the outcome of a plain message.
func (it *item) done(code packet.Code) {
	it.settle(&gatewayv1.Result{RequestId: it.id, ReasonCode: uint32(code)})
}

// told is the outcome of a reported message.
func (it *item) told(r broker.Report) {
	it.settle(resultOf(it.id, r, it.report.GetSummary()))
}

// settle gives a message its result, once.
func (it *item) settle(r *gatewayv1.Result) {
	st := it.st
	st.mu.Lock()
	if it.settled {
		st.mu.Unlock()
		return
	}
	it.settled = true
	st.waits.remove(it)
	st.answer(it, r)
	st.mu.Unlock()
	signal(st.ready)
}

// answer has the result of a message written. With mu held.
func (st *stream) answer(it *item, r *gatewayv1.Result) {
	st.results = append(st.results, r)
	st.wrote = append(st.wrote, it)
}

// waitForRoom returns when the stream is within its bounds.
func (st *stream) waitForRoom(ctx context.Context) error {
	for {
		st.mu.Lock()
		over := st.unsettled >= mostUnsettled || st.bytes >= mostBytes
		st.mu.Unlock()
		if !over {
			return nil
		}
		select {
		case <-st.room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// write writes results until the stream is over.
func (st *stream) write(ctx context.Context) error {
	look := time.NewTicker(lookPeriod)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return rpc.Refuse(rpc.Stopping, "the incarnation is over")
		case <-st.grpc.Context().Done():
			return status.FromContextError(st.grpc.Context().Err()).Err()
		case now := <-look.C:
			st.giveUp(now)
		case <-st.ready:
		}
		results, items := st.next()
		for len(results) > 0 {
			if err := st.send(results); err != nil {
				return fmt.Errorf("send results: %w", err)
			}
			st.written(items)
			results, items = st.next()
		}
		if over, err := st.over(); over {
			return err
		}
	}
}

// next takes the results that wait, with what they are of.
func (st *stream) next() ([]*gatewayv1.Result, []*item) {
	st.mu.Lock()
	defer st.mu.Unlock()
	results, items := st.results, st.wrote
	st.results, st.wrote = nil, nil
	return results, items
}

// send writes results in as many frames as they need.
func (st *stream) send(results []*gatewayv1.Result) error {
	for len(results) > 0 {
		n, receipts := 0, 0
		for n < len(results) && n < mostResults && (n == 0 || receipts+len(results[n].GetReceipts()) <= mostReceiptsTogether) {
			receipts += len(results[n].GetReceipts())
			n++
		}
		if err := st.grpc.Send(&gatewayv1.PublishResponse{Results: results[:n]}); err != nil {
			return err
		}
		results = results[n:]
	}
	return nil
}

// written returns the room that messages have taken.
func (st *stream) written(items []*item) {
	st.mu.Lock()
	for _, it := range items {
		st.unsettled--
		st.bytes -= it.size
		if it.report != nil {
			st.reported--
		}
	}
	st.mu.Unlock()
	signal(st.room)
}

// over reports whether the stream is to end now, and how.
func (st *stream) over() (bool, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	switch {
	case st.end == nil:
		return false, nil
	case !errors.Is(st.end, io.EOF):
		return true, st.end
	}
	return st.unsettled == 0, nil
}

// giveUp answers plain messages whose receivers have had their time.
func (st *stream) giveUp(now time.Time) {
	deadline := now.Add(-st.d.Limits.ReceiptTimeout)
	for {
		st.mu.Lock()
		it := st.waits.first()
		if it != nil && !it.since.Before(deadline) {
			it = nil
		}
		st.mu.Unlock()
		if it == nil {
			return
		}
		it.done(packet.UnspecifiedError)
	}
}

// retains reports whether a message has to be stored before it is published.
func retains(m *message.Message) bool { return m.Retain && topic.IsRetained(m.Topic) }
