// Package command sends commands to devices and waits for their answers: MessagingService.Command and CommandStream.
//
// A router has one session for commands at a gateway of its cluster, and one at a broker of each foreign cluster to whose
// devices there are any. Each is kept once it was needed. When the one of its own cluster is lost there is a new one for the
// commands that come, while the former is opened again for those that wait for their answers. The Response Topic of a command
// leads to that session; its Correlation Data is random, and an answer counts only when it comes from the client that was
// commanded.
package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/services/router/internal/client"
	"github.com/beeline-mqtt/beeline/services/router/internal/envelope"
)

const (
	defaultTimeout = 5 * time.Second
	mostTimeout    = 10 * time.Minute
)

// Send hands a message to a client of the own cluster and says what has become of it, as far as that is known: its outcome is
// never one that there was not. An error says why nothing was handed on, or that it is not known.
type Send func(ctx context.Context, clientID string, m *message.Message) (*messagingv1.Receipt, error)

// Deps are what a Commander works with.
type Deps struct {
	// Connect opens a session at some gateway of the own cluster. Its error is a status.
	Connect func(context.Context, client.Config) (*client.Conn, error)
	// Send is how commands get to their devices; nil: by the session that their answers come to.
	Send Send
	// Place says to which foreign cluster a client belongs; nil, or an empty name: to the own one.
	Place   func(ctx context.Context, clientID string) Foreign
	Metrics *Metrics
	Logger  *slog.Logger
}

// Commander sends commands. It is safe for concurrent use.
type Commander struct {
	deps  Deps
	table *table
	lanes turns[reply]

	mu      sync.Mutex // guards the following
	own     *way
	running context.Context //nolint:containedctx // of Run, which lines that are needed later end with; nil before
	over    bool
	early   []*line // needed before Run
	foreign map[string]*abroad
	lines   sync.WaitGroup
}

// way is how commands get to the devices of one cluster.
type way struct {
	cluster string // empty: the own one
	line    *line
	// topic is where a command for a client goes. Its error says what is wrong with the two.
	topic func(clientID, rest string) (string, error)
	// answers is the Response Topic. verified: who publishes to it is known.
	answers  string
	verified bool
	send     Send
	users    int // commands that are answered there, of one to the own cluster; guarded by mu of the Commander
}

// New makes a Commander. Run has to run for commands to be sent.
func New(d Deps) *Commander {
	c := &Commander{deps: d, table: newTable(), foreign: make(map[string]*abroad)}
	c.own = c.newOwn()
	return c
}

func (c *Commander) newOwn() *way {
	id := lineID()
	return c.newWay(&way{
		line: newLine("", id, c.deps.Connect, c.deps.Logger), topic: direct, verified: true, send: c.deps.Send, answers: topic.Direct(id, "reply"),
	})
}

// toOwn is the way to the own cluster, until done is called. A line that was lost is replaced. After the death of its gateway
// the former session is not to be had elsewhere for a second, and what a device answers there waits behind what it had on its way
// to the dead gateway, until the cluster knows of the death. With another session nothing waits.
func (c *Commander) toOwn() (w *way, done func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if former := c.own; former.line.lost() {
		c.own = c.newOwn()
		c.release(former)
	}
	w = c.own
	w.users++
	return w, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		w.users--
		c.release(w)
	}
}

// release ends a way that was replaced when nobody waits for answers there any more. It needs mu.
func (c *Commander) release(w *way) {
	if w != c.own && w.users == 0 {
		w.line.stop()
	}
}

// newWay completes a way, whose line is begun when it is needed.
func (c *Commander) newWay(w *way) *way {
	w.line.take = func(p packet.Publish) { c.take(w, p) }
	w.line.needed = sync.OnceFunc(func() { c.begin(w.line) })
	if w.send == nil {
		w.send = w.publish
	}
	return w
}

// Run keeps the sessions of commands until ctx ends.
func (c *Commander) Run(ctx context.Context) error {
	c.mu.Lock()
	c.running = ctx
	early := c.early
	c.early = nil
	c.mu.Unlock()
	for _, l := range early {
		c.begin(l)
	}
	<-ctx.Done()
	c.mu.Lock()
	c.over = true
	c.mu.Unlock()
	c.lines.Wait()
	return nil
}

// begin has a line kept as long as Run runs.
func (c *Commander) begin(l *line) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.over:
		l.end()
	case c.running == nil:
		c.early = append(c.early, l)
	default:
		ctx := c.running
		c.lines.Go(func() { l.run(ctx) })
	}
}

// direct is the topic under which a client of the own cluster gets a command.
func direct(clientID, rest string) (string, error) {
	name := topic.Direct(clientID, rest)
	if err := topic.ValidateName(name, topic.DefaultLimits()); err != nil {
		return "", err
	}
	if _, err := topic.ParseDirect(name); err != nil {
		return "", err
	}
	return name, nil
}

// take gets what comes by a way.
func (c *Commander) take(w *way, p packet.Publish) {
	publisher := ""
	if w.verified {
		publisher = packet.TakePublisher(p.Props)
	}
	a := answer{packet: p, came: time.Now()}
	if p.Topic == w.answers {
		c.deps.Metrics.answer(c.table.byCorrelation(publisher, w.verified, a))
		return
	}
	c.deps.Metrics.answer(c.table.byTopic(reply{w.cluster, publisher, p.Topic}, a))
}

// reply is where the answer to a command comes, if it names a topic.
func (w *way) reply(r *messagingv1.CommandRequest) reply {
	if r.GetReplyTopic() == "" {
		return reply{}
	}
	x := reply{cluster: w.cluster, topic: r.GetReplyTopic()}
	if w.verified {
		x.publisher = r.GetClientId()
	}
	return x
}

// publish is Send by the line itself: it says no more than the code of an acknowledgement.
func (w *way) publish(ctx context.Context, clientID string, m *message.Message) (*messagingv1.Receipt, error) {
	conn, err := w.line.get(ctx)
	if err != nil {
		return nil, err
	}
	code, err := conn.Publish(ctx, m)
	if err != nil {
		return nil, err
	}
	r := &messagingv1.Receipt{ClientId: clientID, Outcome: messagingv1.Outcome_OUTCOME_ACCEPTED}
	switch {
	case code == packet.NoMatchingSubscribers && w.cluster != "":
		r.Outcome = messagingv1.Outcome_OUTCOME_OFFLINE // nobody is subscribed: more is not known of a foreign cluster
	case code == packet.NoMatchingSubscribers:
		r.Outcome = messagingv1.Outcome_OUTCOME_UNKNOWN
	case code.Failure():
		r.Outcome, r.Reason = messagingv1.Outcome_OUTCOME_REFUSED, code.String()
	}
	return r, nil
}

// Do sends a command and returns the device's answer. Its error is a status, with a Receipt in its details if the command came
// as far as that.
func (c *Commander) Do(ctx context.Context, r *messagingv1.CommandRequest) (*messagingv1.CommandResponse, error) {
	began := time.Now()
	c.deps.Metrics.open.Inc()
	defer c.deps.Metrics.open.Dec()
	timeout := timeoutOf(r)
	within, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	answer, receipt, err := c.do(within, r, began.Add(timeout))
	if err != nil {
		err = failed(ctx, receipt, err)
		c.deps.Metrics.end(err, 0)
		return nil, err
	}
	took := answer.came.Sub(began)
	c.deps.Metrics.end(nil, took)
	return &messagingv1.CommandResponse{
		Message: envelope.Seal(&answer.packet), Receipt: receipt, RoundTripUs: uint64(max(took.Microseconds(), 0)),
	}, nil
}

func timeoutOf(r *messagingv1.CommandRequest) time.Duration {
	if r.GetTimeoutMs() == 0 {
		return defaultTimeout
	}
	return min(time.Duration(r.GetTimeoutMs())*time.Millisecond, mostTimeout)
}

// invalidError is what is wrong with a request.
type invalidError struct{ err error }

func (i *invalidError) Error() string { return i.err.Error() }

func wrong(format string, args ...any) error { return &invalidError{fmt.Errorf(format, args...)} }

// do is Do. ctx ends when the answer may not come any more.
func (c *Commander) do(ctx context.Context, r *messagingv1.CommandRequest, until time.Time) (answer, *messagingv1.Receipt, error) {
	w, done, err := c.wayTo(ctx, r.GetClientId())
	if err != nil {
		return answer{}, nil, err
	}
	defer done()
	m, err := open(r, w, until)
	if err != nil {
		return answer{}, nil, err
	}
	p, err := c.table.enter(r.GetClientId(), w.reply(r))
	if err != nil {
		return answer{}, nil, err
	}
	defer c.table.leave(p)
	m.Props.ResponseTopic, m.Props.CorrelationData = w.answers, p.correlation[:]
	lost := (<-chan struct{})(nil)
	if p.reply.topic != "" {
		m.Props.ResponseTopic = p.reply.topic
		// In this order: as long as some wait for their turn, the subscription stays.
		conn, release, err := w.line.listen(ctx, p.reply.topic)
		if err != nil {
			return answer{}, nil, err
		}
		defer release()
		done, err := c.lanes.take(ctx, p.reply)
		if err != nil {
			return answer{}, nil, err
		}
		defer done()
		lost = conn.Done()
		c.table.expect(p)
	} else if _, err := w.line.get(ctx); err != nil {
		return answer{}, nil, err // there is nowhere to answer to
	}
	return c.await(ctx, w, p, m, lost)
}

// sent is what has become of a command on its way.
type sent struct {
	receipt *messagingv1.Receipt
	err     error
}

// errLost: the connection to which the answer would have come is lost.
var errLost = errors.New("the connection to which the answer would have come is lost")

// await sends a command and waits for its answer.
func (c *Commander) await(
	ctx context.Context, w *way, p *pending, m *message.Message, lost <-chan struct{},
) (answer, *messagingv1.Receipt, error) {
	on := make(chan sent, 1)
	sending, cancel := context.WithCancel(ctx)
	var working sync.WaitGroup
	defer working.Wait()
	defer cancel()
	working.Go(func() {
		r, err := w.send(sending, p.clientID, m)
		on <- sent{r, err}
	})
	var receipt *messagingv1.Receipt
	for {
		select {
		case a := <-p.answer:
			if receipt == nil {
				receipt = overtaken(p.clientID, on)
			}
			return a, receipt, nil
		case s := <-on:
			if s.err != nil {
				return answer{}, nil, s.err
			}
			if receipt = s.receipt; !underWay(receipt.GetOutcome()) {
				return answer{}, receipt, &undeliveredError{receipt}
			}
		case <-lost:
			return answer{}, receipt, errLost
		case <-ctx.Done():
			return answer{}, receipt, ctx.Err()
		}
	}
}

// receiptPatience is how long an answer waits for the receipt that it has overtaken.
const receiptPatience = 100 * time.Millisecond

// overtaken is the receipt of a command whose answer has come before it: that it was delivered is certain, where the device
// was found the receipt says, which is about to come.
func overtaken(clientID string, on <-chan sent) *messagingv1.Receipt {
	enough := time.NewTimer(receiptPatience)
	defer enough.Stop()
	select {
	case s := <-on:
		if s.err == nil {
			return s.receipt
		}
	case <-enough.C:
	}
	return &messagingv1.Receipt{ClientId: clientID, Outcome: messagingv1.Outcome_OUTCOME_DELIVERED}
}

// underWay reports whether the device may answer.
func underWay(o messagingv1.Outcome) bool {
	switch o {
	case messagingv1.Outcome_OUTCOME_ACCEPTED, messagingv1.Outcome_OUTCOME_DELIVERED, messagingv1.Outcome_OUTCOME_ACKNOWLEDGED,
		messagingv1.Outcome_OUTCOME_TIMED_OUT:
		return true
	default:
		return false
	}
}

// undeliveredError: the command has not reached the device.
type undeliveredError struct{ receipt *messagingv1.Receipt }

func (u *undeliveredError) Error() string { return "not delivered: " + u.receipt.GetOutcome().String() }

// open is the message of a command, which expires with its time unless it says otherwise.
func open(r *messagingv1.CommandRequest, w *way, until time.Time) (*message.Message, error) {
	in := r.GetMessage()
	switch {
	case r.GetClientId() == "":
		return nil, wrong("client_id: must be given")
	case in == nil:
		return nil, wrong("message: must be given")
	case in.GetTopic() == "":
		return nil, wrong("message.topic: must be given")
	case in.GetRetain():
		return nil, wrong("message.retain: a command is not retained")
	case in.GetResponseTopic() != "" || in.CorrelationData != nil:
		return nil, wrong("message: response_topic and correlation_data are set here")
	}
	if reply := r.GetReplyTopic(); reply != "" {
		if err := topic.ValidateName(reply, topic.DefaultLimits()); err != nil {
			return nil, wrong("reply_topic: %w", err)
		}
		if topic.IsDirect(reply) {
			return nil, wrong("reply_topic: begins with %s: there is no subscribing to it", topic.DirectPrefix)
		}
	}
	name, err := w.topic(r.GetClientId(), in.GetTopic())
	if err != nil {
		return nil, wrong("message.topic, client_id: %w", err)
	}
	m, err := envelope.Open(in, name, time.Now())
	if err != nil {
		return nil, wrong("message.%w", err)
	}
	if m.QoS == message.AtMostOnce {
		return nil, wrong("message.qos: a command has QoS 1 or 2")
	}
	if m.Expires.IsZero() {
		m.Expires = until
	}
	if m.Props == nil {
		m.Props = new(message.Properties)
	}
	return m, nil
}

// failed is the status of a command without an answer. ctx is the caller's.
func failed(ctx context.Context, receipt *messagingv1.Receipt, err error) error {
	var i *invalidError
	var u *undeliveredError
	s := status.New(codes.Unavailable, "it is not known whether the device has the command: "+err.Error())
	switch {
	case ctx.Err() != nil:
		s = status.FromContextError(ctx.Err())
	case errors.As(err, &i):
		s = status.New(codes.InvalidArgument, err.Error())
	case errors.As(err, &u):
		s = undeliveredStatus(u.receipt)
	case errors.Is(err, errTooMany), errors.Is(err, errTooManyForClient), errors.Is(err, client.ErrTooLarge):
		s = status.New(codes.ResourceExhausted, err.Error())
	case errors.Is(err, errNoChannel):
		s = status.New(codes.FailedPrecondition, err.Error())
	case errors.Is(err, context.DeadlineExceeded) && receipt == nil:
		s = status.New(codes.DeadlineExceeded, "the time was over before it was known whether the device has the command")
	case errors.Is(err, context.DeadlineExceeded):
		s = status.New(codes.DeadlineExceeded, "the device has not answered in time")
	default:
		var n *noLineError
		var l *notListeningError
		if errors.As(err, &n) || errors.As(err, &l) {
			s = status.New(codes.Unavailable, "nothing was sent: "+err.Error())
		}
	}
	if receipt != nil {
		if with, err := s.WithDetails(receipt); err == nil {
			s = with
		}
	}
	return s.Err()
}

func undeliveredStatus(r *messagingv1.Receipt) *status.Status {
	switch r.GetOutcome() {
	case messagingv1.Outcome_OUTCOME_UNKNOWN:
		return status.Newf(codes.NotFound, "client %q is not known", r.GetClientId())
	case messagingv1.Outcome_OUTCOME_OFFLINE:
		return status.Newf(codes.FailedPrecondition, "client %q is away", r.GetClientId())
	case messagingv1.Outcome_OUTCOME_QUEUED:
		return status.Newf(codes.FailedPrecondition, "client %q is away: the command is kept for it until it expires", r.GetClientId())
	default:
		return status.Newf(codes.ResourceExhausted, "the command was not taken: %s", r.GetReason())
	}
}
