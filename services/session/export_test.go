package session

// SetOutbox bounds the frames that may wait for one gateway. It is called before Run.
func (s *Session) SetOutbox(frames int) { s.outbox = frames }
