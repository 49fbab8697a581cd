package broker

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/internal/turn"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/lease"
)

const (
	// readsAtOnce bounds the pages that are being read from the session service.
	readsAtOnce = 64
	// readTimeout bounds one read; readRetry is the pause before it is tried again.
	readTimeout = 5 * time.Second
	readRetry   = 200 * time.Millisecond
	// noRoomPause is the pause before the session service is asked again whether it takes what need not be written yet.
	noRoomPause = 50 * time.Millisecond
	// inboxPage and inboxPageBytes bound a page of an inbox, retainedPage one of retained messages.
	inboxPage      = 256
	inboxPageBytes = 1 << 20
	retainedPage   = 100
)

// Write makes changes of a durable session durable. See client.Journal.
func (b *Broker) Write(w journal.Write, done func(leftOut []journal.LeftOut, err error)) {
	b.deps.Store.Write(w, func(leftOut []journal.LeftOut, err error) {
		switch {
		case err == nil:
			done(leftOut, nil)
		case errors.Is(err, lease.ErrFenced):
			done(nil, client.ErrFenced)
		default: // the gateway is ending, and nobody knows: nothing is told to anybody any more
		}
	})
}

// Retain stores a retained message. See client.Journal.
func (b *Broker) Retain(m *message.Message, done func(error)) {
	b.deps.Store.Retain(m, func(_ uint64, err error) {
		switch {
		case err == nil:
			done(nil)
		case errors.Is(err, lease.ErrQuota):
			done(client.ErrQuota)
		default: // as in Write
		}
	})
}

// ReadInbox reads a page of c's inbox. See client.Journal.
func (b *Broker) ReadInbox(c *client.Client, after journal.Position, done func([]journal.Entry, error)) {
	b.read(c.Stopped(), func(ctx context.Context) error {
		entries, err := b.deps.Store.ReadInbox(ctx, c.ID, c.SessionID(), c.Epoch(), after, inboxPage, inboxPageBytes)
		switch {
		case err == nil:
			done(entries, nil)
		case errors.Is(err, lease.ErrFenced):
			done(nil, client.ErrFenced)
		default:
			return err
		}
		return nil
	})
}

// ReadRetained reads a page of retained messages. See client.Journal.
func (b *Broker) ReadRetained(c *client.Client, filter string, cursor []byte, done func([]*message.Message, []byte)) {
	b.read(c.Stopped(), func(ctx context.Context) error {
		page, next, err := b.deps.Store.ReadRetained(ctx, filter, cursor, retainedPage)
		if err != nil {
			return err
		}
		messages := make([]*message.Message, len(page))
		for i, r := range page {
			messages[i] = r.Message
		}
		done(messages, next)
		return nil
	})
}

// read tries until f has succeeded or stopped is closed. It does not wait.
func (b *Broker) read(stopped <-chan struct{}, f func(ctx context.Context) error) {
	b.background.Go(func() {
		for {
			select {
			case b.reading <- struct{}{}:
			case <-stopped:
				return
			}
			ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
			err := f(ctx)
			cancel()
			<-b.reading
			if err == nil {
				return
			}
			again := time.NewTimer(readRetry)
			select {
			case <-again.C:
			case <-stopped:
				again.Stop()
				return
			}
		}
	})
}

// watch has clients look after what they have delivered a while ago.
type watch struct {
	wake chan struct{} // one element: list is not empty any more

	mu   sync.Mutex
	list []watched // guarded by mu, in the order in which they are due
}

type watched struct {
	c  *client.Client
	at time.Time
}

func (w *watch) init() { w.wake = make(chan struct{}, 1) }

// Watch has c.Look called when what is delivered now is due to be stored. See client.Journal.
func (b *Broker) Watch(c *client.Client) {
	w := &b.watch
	w.mu.Lock()
	first := len(w.list) == 0
	w.list = append(w.list, watched{c, time.Now().Add(b.cfg.StoreAfter)})
	w.mu.Unlock()
	if first {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// run calls Look until ctx ends. While the session service takes nothing that need not be written, messages stay where
// they are, and their publishers wait.
func (w *watch) run(ctx context.Context, room func() bool) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		now := time.Now()
		due, next := w.due(now, room)
		for _, x := range due {
			x.c.Look(now)
		}
		if next.IsZero() {
			timer.Reset(time.Hour)
		} else {
			timer.Reset(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-timer.C:
		}
	}
}

// due takes those whose time has come, if there is room for what they write, and says when to look again; zero: when
// there is one.
func (w *watch) due(now time.Time, room func() bool) (due []watched, next time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.list) > 0 && !room() {
		return nil, now.Add(noRoomPause)
	}
	n := 0
	for n < len(w.list) && !w.list[n].at.After(now) {
		n++
	}
	due, w.list = w.list[:n:n], w.list[n:]
	if len(w.list) == 0 {
		w.list = nil
		return due, time.Time{}
	}
	return due, w.list[0].at
}

// PublishFor publishes a message on behalf of the session service, a will. failed says that a receiver could not get
// it, or that nobody knows.
func (b *Broker) PublishFor(m *message.Message, done func(failed bool)) {
	if m.Retain && topic.IsRetained(m.Topic) {
		b.deps.Store.Retain(m, func(uint64, error) { b.publishFor(m, done) })
		return
	}
	b.publishFor(m, done)
}

func (b *Broker) publishFor(m *message.Message, done func(failed bool)) {
	t := turn.Turn{Now: time.Now()}
	defer t.End()
	if m.QoS == message.AtMostOnce {
		b.send(nil, m, nil, &t)
		done(false)
		return
	}
	p := &publication{b: b, m: m}
	p.Begin(nil, 0, m.QoS, m.Size(), t.Now)
	p.Tell(func(code packet.Code) { done(code.Failure()) })
	b.send(nil, m, p, &t)
}
