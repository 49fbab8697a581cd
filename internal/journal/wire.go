package journal

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/internal/topic"
)

// The functions ...ToWire give a value its form in the protos, and ...FromWire read it back. Neither copies: texts
// and payloads are shared by both forms. What comes from another process is checked for everything that this one
// relies on; the error names the field.

const (
	// maxText is the longest text that MQTT can write (1.5.4).
	maxText = math.MaxUint16
	// maxSubscriptionID is the largest Subscription Identifier (3.8.2.1.2).
	maxSubscriptionID = 268_435_455
)

// asMQTT is every topic that MQTT allows: the sender has applied the limits that are configured.
func asMQTT() topic.Limits {
	return topic.Limits{Bytes: maxText, Levels: maxText + 1, LevelBytes: maxText}
}

var (
	errMissing = errors.New("is missing")
	errTooLong = errors.New("is too long")
)

// in says in which field err was found.
func in(field string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", field, err)
}

// at is in for the element i of a list.
func at(field string, i int, err error) error { return in(fmt.Sprintf("%s[%d]", field, i), err) }

// outside says that a number is not among those that field can have.
func outside[N uint64 | uint32 | int32](field string, n N) error {
	return fmt.Errorf("%s: is %d", field, n)
}

func checkText(field, s string) error {
	if len(s) > maxText {
		return in(field, errTooLong)
	}
	return nil
}

func checkName(field, s string) error {
	if s == "" {
		return in(field, errMissing)
	}
	return checkText(field, s)
}

// EntryToWire gives an expiry as what is left of it at now.
func EntryToWire(e Entry, now time.Time) *sessionv1.Entry {
	w := &sessionv1.Entry{
		Position: uint64(e.Position), Qos: qosToWire(e.QoS), Retain: e.Retain, SubscriptionIds: e.IDs,
		PacketId: uint32(e.PacketID), Released: e.Released,
	}
	if e.Message != nil {
		w.Message = MessageToWire(e.Message, now)
	}
	return w
}

// EntryFromWire is the inverse of EntryToWire. Message may be nil when the entry is released, and only then.
func EntryFromWire(w *sessionv1.Entry, now time.Time) (e Entry, err error) {
	if w == nil {
		return e, errMissing
	}
	e = Entry{Position: Position(w.GetPosition()), Retain: w.GetRetain(), IDs: w.GetSubscriptionIds(), Released: w.GetReleased()}
	if e.Position == 0 {
		return Entry{}, outside("position", w.GetPosition())
	}
	if e.QoS, err = qosFromWire(w.GetQos()); err != nil {
		return Entry{}, err
	}
	if e.QoS == message.AtMostOnce || e.Released && e.QoS != message.ExactlyOnce {
		return Entry{}, outside("qos", int32(w.GetQos()))
	}
	if e.PacketID, err = packetID(w.GetPacketId()); err != nil {
		return Entry{}, err
	}
	if e.Released && e.PacketID == 0 {
		return Entry{}, in("packet_id", errMissing)
	}
	for i, id := range e.IDs {
		if id == 0 || id > maxSubscriptionID {
			return Entry{}, at("subscription_ids", i, fmt.Errorf("is %d", id))
		}
	}
	if w.GetMessage() == nil && e.Released {
		return e, nil
	}
	if e.Message, err = MessageFromWire(w.GetMessage(), now); err != nil {
		return Entry{}, in("message", err)
	}
	return e, nil
}

// SubscriptionToWire gives s its form on the wire.
func SubscriptionToWire(s Subscription) *sessionv1.Subscription {
	o := s.Options
	return &sessionv1.Subscription{
		Filter: s.Filter, Qos: qosToWire(o.QoS), NoLocal: o.NoLocal, RetainAsPublished: o.RetainAsPublished,
		RetainHandling: uint32(o.RetainHandling), SubscriptionId: o.ID,
	}
}

// SubscriptionFromWire is the inverse of SubscriptionToWire.
func SubscriptionFromWire(w *sessionv1.Subscription) (s Subscription, err error) {
	if w == nil {
		return s, errMissing
	}
	if err := checkFilter(w.GetFilter()); err != nil {
		return s, in("filter", err)
	}
	qos, err := qosFromWire(w.GetQos())
	if err != nil {
		return s, err
	}
	if w.GetRetainHandling() > 2 {
		return s, outside("retain_handling", w.GetRetainHandling())
	}
	if w.GetSubscriptionId() > maxSubscriptionID {
		return s, outside("subscription_id", w.GetSubscriptionId())
	}
	return Subscription{Filter: w.GetFilter(), Options: subscriptions.Options{
		QoS: qos, NoLocal: w.GetNoLocal(), RetainAsPublished: w.GetRetainAsPublished(),
		RetainHandling: byte(w.GetRetainHandling()), ID: w.GetSubscriptionId(),
	}}, nil
}

func checkFilter(filter string) error {
	s, shared, err := topic.ParseShared(filter)
	switch {
	case err != nil:
		return err
	case shared:
		return s.Validate(asMQTT())
	default:
		return topic.ValidateFilter(filter, asMQTT())
	}
}

// StateToWire gives the messages that were taken in the order of their packet identifiers.
func StateToWire(s *State) *sessionv1.Session {
	w := &sessionv1.Session{
		SessionId: uint64(s.ID), Present: s.Present, FirstPosition: uint64(s.First), NextPosition: uint64(s.Next),
	}
	for _, one := range s.Subscriptions {
		w.Subscriptions = append(w.Subscriptions, SubscriptionToWire(one))
	}
	for _, id := range slices.Sorted(maps.Keys(s.Taken)) {
		w.Taken = append(w.Taken, takenToWire(id, s.Taken[id]))
	}
	return w
}

// StateFromWire is the inverse of StateToWire.
func StateFromWire(w *sessionv1.Session) (*State, error) {
	if w == nil {
		return nil, errMissing
	}
	s := &State{
		ID: SessionID(w.GetSessionId()), Present: w.GetPresent(),
		First: Position(w.GetFirstPosition()), Next: Position(w.GetNextPosition()),
	}
	switch {
	case s.ID == 0:
		return nil, in("session_id", errMissing)
	case s.First == 0:
		return nil, outside("first_position", w.GetFirstPosition())
	case s.Next < s.First:
		return nil, fmt.Errorf("next_position: is %d, behind first_position %d", s.Next, s.First)
	}
	for i, one := range w.GetSubscriptions() {
		sub, err := SubscriptionFromWire(one)
		if err != nil {
			return nil, at("subscriptions", i, err)
		}
		s.Subscriptions = append(s.Subscriptions, sub)
	}
	for i, one := range w.GetTaken() {
		packet, id, err := takenFromWire(one)
		if err != nil {
			return nil, at("taken", i, err)
		}
		if _, twice := s.Taken[packet]; twice {
			return nil, at("taken", i, fmt.Errorf("packet_id: %d is there twice", packet))
		}
		if s.Taken == nil {
			s.Taken = make(map[uint16]message.ID, len(w.GetTaken()))
		}
		s.Taken[packet] = id
	}
	return s, nil
}

// WillToWire gives the Message Expiry Interval as the message's.
func WillToWire(w *Will) *sessionv1.Will {
	m := messageToWire(w.Message)
	if w.HasExpiry {
		ms := message.LeftMs(w.Expiry)
		m.ExpiresInMs = &ms
	}
	return &sessionv1.Will{Message: m, DelaySeconds: uint32(min(w.Delay/time.Second, math.MaxUint32))}
}

// WillFromWire is the inverse of WillToWire.
func WillFromWire(w *sessionv1.Will) (*Will, error) {
	if w == nil {
		return nil, errMissing
	}
	if w.GetMessage().GetId() != nil {
		return nil, in("message", in("id", errors.New("a will has none")))
	}
	m, left, err := messageFromWire(w.GetMessage())
	if err != nil {
		return nil, in("message", err)
	}
	return &Will{
		Message: m, Expiry: left, HasExpiry: w.GetMessage().ExpiresInMs != nil,
		Delay: time.Duration(w.GetDelaySeconds()) * time.Second,
	}, nil
}

func takenToWire(packet uint16, id message.ID) *sessionv1.Taken {
	return &sessionv1.Taken{PacketId: uint32(packet), MessageId: idToWire(id)}
}

func takenFromWire(w *sessionv1.Taken) (packet uint16, id message.ID, err error) {
	if w == nil {
		return 0, id, errMissing
	}
	if packet, err = packetIDPresent(w.GetPacketId()); err != nil {
		return 0, id, err
	}
	id, err = idFromWire(w.GetMessageId())
	return packet, id, in("message_id", err)
}

func packetID(n uint32) (uint16, error) {
	if n > math.MaxUint16 {
		return 0, outside("packet_id", n)
	}
	return uint16(n), nil
}

func packetIDPresent(n uint32) (uint16, error) {
	if n == 0 {
		return 0, outside("packet_id", n)
	}
	return packetID(n)
}

func qosToWire(qos byte) messagev1.Qos { return messagev1.Qos(qos) + 1 }

func qosFromWire(w messagev1.Qos) (byte, error) {
	if w < messagev1.Qos_QOS_AT_MOST_ONCE || w > messagev1.Qos_QOS_EXACTLY_ONCE {
		return 0, outside("qos", int32(w))
	}
	return byte(w - 1), nil
}
