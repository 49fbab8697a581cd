package listener

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// scripted is a net.Listener that answers as told, and then waits for its end.
type scripted struct {
	answers chan any // net.Conn or error
	closed  chan struct{}
	once    sync.Once
	asked   []time.Time
}

func newScripted(answers ...any) *scripted {
	s := &scripted{answers: make(chan any, len(answers)), closed: make(chan struct{})}
	for _, a := range answers {
		s.answers <- a
	}
	return s
}

func (s *scripted) Accept() (net.Conn, error) {
	s.asked = append(s.asked, time.Now())
	select {
	case a := <-s.answers:
		if nc, ok := a.(net.Conn); ok {
			return nc, nil
		}
		return nil, a.(error)
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

func (s *scripted) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *scripted) Addr() net.Addr { return &net.TCPAddr{} }

func emfile() error {
	return &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
}

// errors that do not say that they pass.
func oddError() error { return errors.New("by order of the test") }

func TestAcceptingGoesOnAfterErrors(t *testing.T) {
	for name, cfg := range map[string]Config{"TCP": {}, "WebSocket": {WebSocket: true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				defer far.Close()
				ln := newScripted(emfile(), emfile(), oddError(), emfile(), near)
				var log strings.Builder
				l := &Listener{cfg: cfg, ln: ln, max: 10, logger: slog.New(slog.NewTextHandler(&log, nil))}
				l.cfg.Path = "/mqtt"
				ctx, end := context.WithCancel(t.Context())
				var serving sync.WaitGroup
				handled := false
				serving.Go(func() {
					err := l.Serve(ctx, func(_ context.Context, nc net.Conn, _ string) {
						handled = true
						_ = nc.Close()
					})
					if err != nil {
						t.Error(err)
					}
				})
				synctest.Wait()
				time.Sleep(time.Second)
				synctest.Wait()
				if n := len(ln.asked); n != 6 {
					t.Errorf("Accept was called %d times, want 6", n)
				}
				for i, want := range []int64{5, 10, 20, 40} {
					if got := ln.asked[i+1].Sub(ln.asked[i]).Milliseconds(); got != want {
						t.Errorf("pause %d was %d ms, want %d", i, got, want)
					}
				}
				if !cfg.WebSocket && !handled {
					t.Error("the connection that came then was not handled")
				}
				if l.open.Load() != map[bool]int64{false: 0, true: 1}[cfg.WebSocket] {
					t.Errorf("%d connections counted", l.open.Load())
				}
				end()
				serving.Wait()
				if n := strings.Count(log.String(), "accept is paused"); n != 4 {
					t.Errorf("%d lines logged", n)
				}
			})
		})
	}
}

func TestThePauseIsNeverLongerThanASecondAndEndsWithTheListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var answers []any
		for range 100 {
			answers = append(answers, emfile())
		}
		ln := newScripted(answers...)
		l := &Listener{ln: ln, max: 10, logger: slog.New(slog.DiscardHandler)}
		ctx, end := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Serve(ctx, nil) }()
		time.Sleep(30 * time.Second)
		synctest.Wait()
		last := ln.asked[len(ln.asked)-1]
		if before := ln.asked[len(ln.asked)-2]; last.Sub(before) != time.Second {
			t.Errorf("pause of %v after half a minute", last.Sub(before))
		}
		began := time.Now()
		end()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("the end took %v", took)
		}
	})
}
