package session

import (
	"time"

	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
)

// Publish implements desk. The message is given to one gateway; if that one goes before it has answered, it failed.
func (t *term) Publish(m *message.Message, done func(failed bool)) {
	frame := &sessionv1.Publish{Message: journal.MessageToWire(m, time.Now())}
	t.mu.Lock()
	for _, st := range t.streams {
		// Any of them; the order of a map is as good as a lot.
		t.publishes++
		frame.RequestId = t.publishes
		st.publishing[frame.RequestId] = done
		st.push(&sessionv1.AttachResponse{Frame: &sessionv1.AttachResponse_Publish{Publish: frame}})
		t.mu.Unlock()
		return
	}
	t.mu.Unlock()
	done(true)
}

// published is a gateway's answer.
func (t *term) published(st *stream, id uint64, failed bool) {
	t.mu.Lock()
	done := st.publishing[id]
	delete(st.publishing, id)
	t.mu.Unlock()
	if done != nil {
		done(failed)
	}
}

// unpublished fails what a gateway has not answered, which is not attached any more.
func (t *term) unpublished(st *stream) {
	t.mu.Lock()
	left := st.publishing
	st.publishing = nil
	t.mu.Unlock()
	for _, done := range left {
		done(true)
	}
}

// Forget implements desk.
func (t *term) Forget(client string, epoch uint64) {
	frame := &sessionv1.AttachResponse{Frame: &sessionv1.AttachResponse_Forget{
		Forget: &sessionv1.Forget{ClientId: client, Epoch: epoch},
	}}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, st := range t.streams {
		st.push(frame)
	}
}

// Fail implements desk.
func (t *term) Fail(err error) { t.fail(err) }
