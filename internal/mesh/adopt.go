package mesh

import "errors"

// Adopt tells every living peer that the durable sessions of a dead incarnation have a new holder, this process, and
// that its routes for them are in force; again after a break, until the peer has answered. What a peer has held for
// the dead incarnation it then sends as TargetOrphans, before anything newer.
//
// answered is called once for each peer that has answered and of which everything has been taken that it held: the
// calls to Inbound.Deliver have returned. A peer that dies before is not reported. done is called once, after the
// last call of answered has returned: with nil when each of the peers has answered or is dead, with ErrClosed when
// the mesh ends. Both are called on goroutines of the mesh, answered possibly on several at once, and must not block.
// It is for the caller to stop waiting. Peers that join later are not asked: they never knew the incarnation.
//
// TargetOrphans may still come after answered, from a publisher that looked for routes just before; it has sent
// nothing newer by then.
//
// For this process, too, the incarnation is dead for good. What it has itself sent there and is not settled settles
// as Gone.
//
// Adopt the incarnation that was the holder before this process first, and after it those whose sessions that one
// had not adopted to the end.
func (m *Mesh) Adopt(incarnation string, answered func(peer string), done func(error)) {
	fail := func() { done(errors.New("mesh: Adopt is not there yet")) }
	if !m.later(fail) {
		done(ErrClosed)
	}
}
