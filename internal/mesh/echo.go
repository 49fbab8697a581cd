package mesh

import (
	"fmt"
	"sync/atomic"
)

// echoes are calls to make when the peer has echoed. The link's mu guards sent and next.
type echoes struct {
	sent   []func() // wait for the one that is under way
	next   []func() // came meanwhile, and wait for the one after it
	wanted atomic.Bool
}

// Echo calls f once, when the waiters have been told of every receipt that the peer has given by now for what it had
// Accepted; at once when it has nothing of that kind. Calls that come while the peer is asked are answered together, by asking
// it once more. f is called, too, when the peer is dead or the mesh has ended. It must not block, and runs on the caller's
// goroutine or on one of the mesh.
//
// It is for whoever knows that the peer has decided about something: what has become of it is known when f is called.
func (l *Link) Echo(f func()) {
	l.mu.Lock()
	if l.estate.state != open || !l.telling && len(l.out.accepted) == 0 {
		l.mu.Unlock()
		f()
		return
	}
	l.echoes.next = append(l.echoes.next, f)
	l.askEcho()
	l.mu.Unlock()
}

// askEcho has the peer asked for an echo if somebody waits and none is under way. mu is held.
func (l *Link) askEcho() {
	e := &l.echoes
	if len(e.sent) > 0 || len(e.next) == 0 {
		return
	}
	e.sent, e.next = e.next, nil
	e.wanted.Store(true)
	l.nudge()
}

// echoed takes the peer's EchoAck: everything before it on the stream has been told.
func (l *Link) echoed() error {
	l.mu.Lock()
	over := l.echoes.sent
	l.echoes.sent = nil
	l.askEcho()
	l.mu.Unlock()
	if len(over) == 0 {
		return fmt.Errorf("%w: EchoAck without Echo", errProtocol)
	}
	for _, f := range over {
		f()
	}
	return nil
}

// endEchoes calls those who wait: nothing comes from the peer any more.
func (l *Link) endEchoes() {
	l.mu.Lock()
	over := append(l.echoes.sent, l.echoes.next...)
	l.echoes.sent, l.echoes.next = nil, nil
	l.mu.Unlock()
	for _, f := range over {
		f()
	}
}
