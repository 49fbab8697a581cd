package session

// SetOutbox bounds the frames that may wait for one gateway. It is called before Run.
func (s *Session) SetOutbox(frames int) { s.outbox = frames }

// Kept, Desk and Keep are what SetKeep needs.
type (
	Kept = kept
	Desk = desk
	Keep = keep
)

// SetKeep has every term keep something. It is called before Run.
func (s *Session) SetKeep(k Keep) { s.keep = k }
