package away

// Settled says that the routes of a client that has been opened at an epoch are in force everywhere: nobody needs the
// ghosts of its former holders any more.
func (k *Keeper) Settled(client string, epoch uint64) {
	k.with(client, func(s *session) {
		k.work.push(func() {
			k.mu.Lock()
			if !s.here && len(s.subs) > 0 && s.ghost < epoch {
				// What publishers have sent here before, and still wait for, may be on its way.
				k.add(timer{at: now().Add(k.cfg.Late), s: s, ghost: s.ghost})
			}
			present := !s.here && s.stored && leaseOf(s.rec) == epoch
			tell := present && s.forget
			if present {
				s.settled, s.forget = epoch, false
			}
			k.mu.Unlock()
			if tell {
				k.deps.Forget(client, epoch)
			}
			if present {
				k.online(s)
			}
			k.release(s)
		})
	})
}

// forgetOld ends the ghost that s is, if it is still that of an epoch.
func (k *Keeper) forgetOld(s *session, epoch uint64) {
	k.mu.Lock()
	still := !s.here && s.ghost == epoch
	k.mu.Unlock()
	if still {
		k.forgetGhost(s)
	}
	k.release(s)
}

// Ghost says that a gateway, which has attached again, still answers Moved for a client that it held at an epoch. It is
// told to forget it when that is not needed any more.
func (k *Keeper) Ghost(client string, epoch uint64) {
	k.with(client, func(s *session) {
		k.work.push(func() {
			k.mu.Lock()
			lease := leaseOf(s.rec)
			tell := uint64(0)
			switch {
			case !s.stored || s.rec.Session == 0:
				tell = epoch + 1
			case lease < epoch: // its release is on its way
			case s.here && (s.settling == nil || s.settling.hold == nil):
				tell = lease + 1
			case !s.here && lease > epoch && s.settled == lease:
				tell = lease
			default:
				s.forget = true
			}
			k.mu.Unlock()
			if tell > 0 {
				k.deps.Forget(client, tell)
			}
			k.release(s)
		})
	})
}

// forgetLater sees to it that the former holders of a session that a gateway has opened at an epoch are told when they
// may forget it: when its routes are in force, or at once when it does not go on. had: there was one.
func (k *Keeper) forgetLater(s *session, epoch uint64, had, goesOn bool) {
	k.mu.Lock()
	s.forget = goesOn
	k.mu.Unlock()
	if had && !goesOn {
		k.deps.Forget(s.client, epoch)
	}
}
