package journal

import (
	"errors"
	"time"

	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
)

// WriteToWire gives w its form under a request id. Expiries are given as what is left of them at now.
func WriteToWire(w Write, requestID uint64, now time.Time) *sessionv1.Write {
	changes := make([]*sessionv1.Change, len(w.Changes))
	for i := range w.Changes {
		changes[i] = ChangeToWire(w.Changes[i], now)
	}
	return &sessionv1.Write{
		RequestId: requestID, ClientId: w.Client, SessionId: uint64(w.Session), Epoch: w.Epoch, Changes: changes,
	}
}

// WriteFromWire is the inverse of WriteToWire; the request id is for the caller to read.
func WriteFromWire(w *sessionv1.Write, now time.Time) (Write, error) {
	if w == nil {
		return Write{}, errMissing
	}
	if err := checkName("client_id", w.GetClientId()); err != nil {
		return Write{}, err
	}
	switch {
	case w.GetSessionId() == 0:
		return Write{}, in("session_id", errMissing)
	case w.GetEpoch() == 0:
		return Write{}, in("epoch", errMissing)
	case len(w.GetChanges()) == 0:
		return Write{}, in("changes", errMissing)
	}
	changes := make([]Change, len(w.GetChanges()))
	for i, one := range w.GetChanges() {
		c, err := ChangeFromWire(one, now)
		if err != nil {
			return Write{}, at("changes", i, err)
		}
		changes[i] = c
	}
	return Write{Client: w.GetClientId(), Session: SessionID(w.GetSessionId()), Epoch: w.GetEpoch(), Changes: changes}, nil
}

// ChangeToWire returns a change without anything in it, which nobody takes, when the kind of c is none of ours.
func ChangeToWire(c Change, now time.Time) *sessionv1.Change {
	w := &sessionv1.Change{}
	switch c.Kind {
	case Append:
		w.Change = &sessionv1.Change_Append{Append: EntryToWire(c.Entry, now)}
	case Sent:
		w.Change = &sessionv1.Change_Sent{Sent: &sessionv1.Sent{Position: uint64(c.Position), PacketId: uint32(c.PacketID)}}
	case Released:
		w.Change = &sessionv1.Change_Released{Released: uint64(c.Position)}
	case Done:
		w.Change = &sessionv1.Change_Done{Done: uint64(c.Position)}
	case Taken:
		w.Change = &sessionv1.Change_Taken{Taken: takenToWire(c.PacketID, c.Message)}
	case Completed:
		w.Change = &sessionv1.Change_Completed{Completed: uint32(c.PacketID)}
	case Subscribed:
		w.Change = &sessionv1.Change_Subscribed{
			Subscribed: SubscriptionToWire(Subscription{Filter: c.Filter, Options: c.Options}),
		}
	case Unsubscribed:
		w.Change = &sessionv1.Change_Unsubscribed{Unsubscribed: c.Filter}
	}
	return w
}

// ChangeFromWire is the inverse of ChangeToWire.
func ChangeFromWire(w *sessionv1.Change, now time.Time) (c Change, err error) {
	switch one := w.GetChange().(type) {
	case *sessionv1.Change_Append:
		c.Kind = Append
		c.Entry, err = EntryFromWire(one.Append, now)
		err = in("append", err)
	case *sessionv1.Change_Sent:
		c.Kind = Sent
		if c.Position, err = position("position", one.Sent.GetPosition()); err == nil {
			c.PacketID, err = packetIDPresent(one.Sent.GetPacketId())
		}
		err = in("sent", err)
	case *sessionv1.Change_Released:
		c.Kind = Released
		c.Position, err = position("released", one.Released)
	case *sessionv1.Change_Done:
		c.Kind = Done
		c.Position, err = position("done", one.Done)
	case *sessionv1.Change_Taken:
		c.Kind = Taken
		c.PacketID, c.Message, err = takenFromWire(one.Taken)
		err = in("taken", err)
	case *sessionv1.Change_Completed:
		c.Kind = Completed
		c.PacketID, err = packetIDPresent(one.Completed)
		err = in("completed", err)
	case *sessionv1.Change_Subscribed:
		c.Kind = Subscribed
		var s Subscription
		s, err = SubscriptionFromWire(one.Subscribed)
		c.Filter, c.Options, err = s.Filter, s.Options, in("subscribed", err)
	case *sessionv1.Change_Unsubscribed:
		c.Kind, c.Filter = Unsubscribed, one.Unsubscribed
		err = in("unsubscribed", checkFilter(one.Unsubscribed))
	default:
		// Nothing in it, or a kind that a newer gateway knows: to leave it out would be to lose it.
		err = errors.New("change: of an unknown kind")
	}
	if err != nil {
		return Change{}, err
	}
	return c, nil
}

func position(field string, n uint64) (Position, error) {
	if n == 0 {
		return 0, outside(field, n)
	}
	return Position(n), nil
}
