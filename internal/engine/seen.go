package engine

import "github.com/beeline-mqtt/beeline/internal/message"

// seenMost is how many message ids a session remembers.
const seenMost = 4096

// seen are the ids of the newest messages that a session was given, by which it tells what it is given twice. The zero
// value is ready.
type seen struct {
	off bool
	// forget says that it is to be off as soon as the inbox has been read: it may hold a message twice.
	forget bool
	// unread holds for each id whether it is in the inbox only: an entry that is read is the same message then,
	// not another.
	unread map[message.ID]bool
	order  ring[message.ID]
}

func (s *seen) has(id message.ID) bool {
	_, ok := s.unread[id]
	return ok
}

// note remembers an id. One without a sequence number is none.
func (s *seen) note(id message.ID, unread bool) {
	if s.off || id.Seq == 0 {
		return
	}
	if s.unread == nil {
		s.unread = make(map[message.ID]bool)
	}
	if _, ok := s.unread[id]; !ok {
		if s.order.n == seenMost {
			delete(s.unread, s.order.pop())
		}
		s.order.push(id)
	}
	s.unread[id] = unread
}

// remove forgets an id.
func (s *seen) remove(id message.ID) { delete(s.unread, id) }

// read notes an id that was read from the inbox, and reports whether the message had been before.
func (s *seen) read(id message.ID) (twice bool) {
	if unread, ok := s.unread[id]; ok && !unread {
		return true
	}
	s.note(id, false)
	return false
}
