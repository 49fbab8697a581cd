package command

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/beeline-mqtt/beeline/internal/lifecycle"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/services/router/internal/client"
)

const (
	// receiveMaximum is how many answers may be on their way to a line: they are acknowledged as they come.
	receiveMaximum = 1000
	// reconnectPause is how long a line that was lost, or could not be opened, waits before it is opened again.
	reconnectPause = 200 * time.Millisecond
	// connectTimeout bounds one attempt.
	connectTimeout = 10 * time.Second
	// leaveTimeout bounds the end of the subscription to a reply topic.
	leaveTimeout = 5 * time.Second
)

// line is a session that is kept once it was needed, by which commands go out and answers come. Its client id stays the same.
type line struct {
	name    string // for the log
	id      string
	connect func(context.Context, client.Config) (*client.Conn, error)
	config  client.Config
	always  []string // topics that are subscribed to on every connection
	logger  *slog.Logger
	take    func(packet.Publish) // gets what comes
	needed  func()               // starts it; once
	life    context.Context      //nolint:containedctx // what run is for ends with it
	stop    context.CancelFunc

	mu        sync.Mutex // guards the following
	conn      *client.Conn
	had       bool          // there was one
	trouble   error         // why there is none
	over      bool          // there will be none
	changed   chan struct{} // closed when one of the two has changed, and then another one
	listening map[string]*listening
}

// listening is the subscription to a reply topic.
type listening struct {
	turn  chan struct{} // taken by whoever changes it, or looks
	conn  *client.Conn  // on which there is the subscription; of whoever has the turn
	tried *client.Conn  // on which there may be one; likewise
	users int           // guarded by mu of the line
}

// lineID is a client id for a line.
func lineID() string { return message.AnswerPrefix + rand.Text() }

// newLine makes a line that run keeps as soon as it is needed. take and needed are to be set. name is the cluster's.
func newLine(name, id string, connect func(context.Context, client.Config) (*client.Conn, error), logger *slog.Logger) *line {
	l := &line{name: name, id: id, connect: connect, logger: logger, changed: make(chan struct{}), listening: make(map[string]*listening)}
	l.life, l.stop = context.WithCancel(context.Background())
	l.config = client.Config{Connect: packet.Connect{ClientID: id, CleanStart: true, ReceiveMaximum: receiveMaximum}}
	l.config.OnPublish = func(c *client.Conn, p packet.Publish) {
		acknowledge(c, p)
		l.take(p)
	}
	return l
}

// acknowledge acknowledges at once: whoever waits for an answer does not have it stored.
func acknowledge(c *client.Conn, p packet.Publish) {
	switch p.QoS {
	case message.AtLeastOnce:
		c.Acknowledge(packet.Ack{Type: packet.PUBACK, PacketID: p.PacketID})
	case message.ExactlyOnce:
		c.Acknowledge(packet.Ack{Type: packet.PUBREC, PacketID: p.PacketID})
	default:
	}
}

// run keeps the line until ctx ends, or stop is called.
func (l *line) run(ctx context.Context) {
	defer context.AfterFunc(ctx, l.stop)()
	defer l.end()
	for ctx := l.life; ctx.Err() == nil; {
		l.keep(ctx)
		lifecycle.Pause(ctx, reconnectPause)
	}
}

// errOver: the router ends, or the cluster is not defined any more, or is anew.
var errOver = errors.New("it has been given up")

// end has nobody wait for the line any more.
func (l *line) end() {
	l.mu.Lock()
	l.over = true
	l.mu.Unlock()
	l.set(nil, errOver)
}

// keep opens the line and returns when it is lost.
func (l *line) keep(ctx context.Context) {
	opening, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := l.open(opening)
	if err != nil {
		if ctx.Err() == nil {
			l.logger.WarnContext(ctx, "commands cannot be sent", slog.String("cluster", l.name), slog.Any("error", err))
		}
		l.set(nil, err)
		return
	}
	l.set(conn, nil)
	defer conn.Close()
	select {
	case <-conn.Done():
		l.logger.InfoContext(ctx, "the line of commands is lost and opened again", slog.String("cluster", l.name), slog.Any("because", conn.Err()))
		l.set(nil, conn.Err())
	case <-ctx.Done():
		l.set(nil, context.Cause(ctx))
	}
}

func (l *line) open(ctx context.Context) (*client.Conn, error) {
	conn, err := l.connect(ctx, l.config)
	if err != nil || len(l.always) == 0 {
		return conn, err
	}
	if err := subscribe(ctx, conn, l.always...); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// subscribe subscribes to topics at QoS 1.
func subscribe(ctx context.Context, conn *client.Conn, topics ...string) error {
	var filters []packet.Filter
	for _, t := range topics {
		filters = append(filters, packet.Filter{Filter: t, Options: subscriptions.Options{QoS: message.AtLeastOnce, RetainHandling: 2}})
	}
	granted, err := conn.Subscribe(ctx, filters)
	if err != nil {
		return err
	}
	for _, code := range granted {
		if code.Failure() {
			return &notListeningError{code}
		}
	}
	return nil
}

// notListeningError: the topic of answers cannot be subscribed to.
type notListeningError struct{ code packet.Code }

func (n *notListeningError) Error() string {
	return "subscribe to the topic of answers: " + n.code.String()
}

func (l *line) set(conn *client.Conn, trouble error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn, l.had, l.trouble = conn, l.had || conn != nil, trouble
	close(l.changed)
	l.changed = make(chan struct{})
}

// lost reports whether the line was open and is not any more.
func (l *line) lost() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.had && l.conn == nil && !l.over
}

// get returns the connection, and waits for it. When ctx ends first the error says what the trouble is, if there is any.
func (l *line) get(ctx context.Context) (*client.Conn, error) {
	l.needed()
	for {
		l.mu.Lock()
		conn, trouble, over, changed := l.conn, l.trouble, l.over, l.changed
		l.mu.Unlock()
		switch {
		case over:
			return nil, &noLineError{trouble}
		case conn != nil:
			return conn, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if trouble != nil {
				return nil, &noLineError{trouble}
			}
			return nil, context.Cause(ctx)
		}
	}
}

// noLineError: there is no connection, and why.
type noLineError struct{ err error }

func (n *noLineError) Error() string { return "no connection for commands: " + n.err.Error() }
func (n *noLineError) Unwrap() error { return n.err }

// listen subscribes to a reply topic until release is called, and returns the connection on which that is so.
func (l *line) listen(ctx context.Context, topic string) (conn *client.Conn, release func(), err error) {
	if conn, err = l.get(ctx); err != nil {
		return nil, nil, err
	}
	l.mu.Lock()
	x := l.listening[topic]
	if x == nil {
		x = &listening{turn: make(chan struct{}, 1)}
		l.listening[topic] = x
	}
	x.users++
	l.mu.Unlock()
	release = func() { l.stopListening(topic, x) }
	select {
	case x.turn <- struct{}{}:
	case <-ctx.Done():
		release()
		return nil, nil, context.Cause(ctx)
	}
	if x.conn != conn {
		x.tried = conn
		if err = subscribe(ctx, conn, topic); err == nil {
			x.conn = conn
		}
	}
	<-x.turn
	if err != nil {
		release()
		return nil, nil, err
	}
	return conn, release, nil
}

// stopListening gives up a use of a reply topic. The last one ends the subscription before anybody can begin it anew.
func (l *line) stopListening(topic string, x *listening) {
	x.turn <- struct{}{}
	defer func() { <-x.turn }()
	l.mu.Lock()
	last := x.users == 1
	l.mu.Unlock()
	if last && x.tried != nil {
		ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
		defer cancel()
		_, _ = x.tried.Unsubscribe(ctx, []string{topic}) // when the connection is lost, so is the subscription
		x.conn, x.tried = nil, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if x.users--; x.users == 0 {
		delete(l.listening, topic)
	}
}
