package journal_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
)

var now = time.Unix(1_700_000_000, 0)

// same does not tell an empty payload or list from none: MQTT does not, and protos cannot. Correlation data is told
// apart.
var same = cmp.Options{
	cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() != ".CorrelationData" }, cmpopts.EquateEmpty()),
	cmpopts.IgnoreFields(message.Message{}, "Forms"),
}

// overTheWire is m as the other process gets it.
func overTheWire[M any, P interface {
	*M
	proto.Message
}](t interface{ Fatal(...any) }, m P) P {
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	got := P(new(M))
	if err := proto.Unmarshal(b, got); err != nil {
		t.Fatal(err)
	}
	return got
}

func text() *rapid.Generator[string] { return rapid.StringN(0, 20, 40) }

func name() *rapid.Generator[string] { return rapid.StringMatching(`[a-z/é]{1,8}`) }

func bytesOrNil() *rapid.Generator[[]byte] {
	return rapid.OneOf(rapid.Just[[]byte](nil), rapid.SliceOfN(rapid.Byte(), 0, 20))
}

func id() *rapid.Generator[message.ID] {
	return rapid.Custom(func(t *rapid.T) message.ID {
		return message.ID{Origin: name().Draw(t, "origin"), Seq: rapid.Uint64Min(1).Draw(t, "seq")}
	})
}

func properties() *rapid.Generator[*message.Properties] {
	return rapid.Custom(func(t *rapid.T) *message.Properties {
		p := &message.Properties{
			ContentType: text().Draw(t, "content type"), ResponseTopic: text().Draw(t, "response topic"),
			CorrelationData: bytesOrNil().Draw(t, "correlation data"),
		}
		if p.HasPayloadFormat = rapid.Bool().Draw(t, "has format"); p.HasPayloadFormat {
			p.PayloadFormat = rapid.ByteMax(1).Draw(t, "format")
		}
		for range rapid.IntRange(0, 3).Draw(t, "user properties") {
			p.User = append(p.User, message.UserProperty{Name: text().Draw(t, "name"), Value: text().Draw(t, "value")})
		}
		if !p.HasPayloadFormat && p.ContentType == "" && p.ResponseTopic == "" && p.CorrelationData == nil && p.User == nil {
			return nil
		}
		return p
	})
}

// content is a message without id and expiry.
func content() *rapid.Generator[*message.Message] {
	return rapid.Custom(func(t *rapid.T) *message.Message {
		return &message.Message{
			Publisher: text().Draw(t, "publisher"), Topic: name().Draw(t, "topic"), Payload: bytesOrNil().Draw(t, "payload"),
			QoS: rapid.ByteMax(2).Draw(t, "qos"), Retain: rapid.Bool().Draw(t, "retain"), Props: properties().Draw(t, "properties"),
		}
	})
}

func aMessage() *rapid.Generator[*message.Message] {
	return rapid.Custom(func(t *rapid.T) *message.Message {
		m := content().Draw(t, "content")
		m.ID = id().Draw(t, "id")
		if rapid.Bool().Draw(t, "expires") {
			m.Expires = now.Add(time.Duration(rapid.Int64Range(0, math.MaxUint32*1000).Draw(t, "in ms")) * time.Millisecond)
		}
		return m
	})
}

func packetID() *rapid.Generator[uint16] { return rapid.Uint16Min(1) }

func position() *rapid.Generator[journal.Position] {
	return rapid.Custom(func(t *rapid.T) journal.Position { return journal.Position(rapid.Uint64Min(1).Draw(t, "position")) })
}

func entry() *rapid.Generator[journal.Entry] {
	return rapid.Custom(func(t *rapid.T) journal.Entry {
		e := journal.Entry{
			Position: position().Draw(t, "position"), Message: aMessage().Draw(t, "message"),
			QoS: rapid.ByteRange(1, 2).Draw(t, "qos"), Retain: rapid.Bool().Draw(t, "retain"),
			IDs: rapid.SliceOfN(rapid.Uint32Range(1, 268_435_455), 0, 3).Draw(t, "ids"),
		}
		if rapid.Bool().Draw(t, "sent") {
			e.PacketID = packetID().Draw(t, "packet id")
			e.Released = e.QoS == message.ExactlyOnce && rapid.Bool().Draw(t, "released")
		}
		if e.Released && rapid.Bool().Draw(t, "without message") {
			e.Message = nil
		}
		return e
	})
}

func subscription() *rapid.Generator[journal.Subscription] {
	return rapid.Custom(func(t *rapid.T) journal.Subscription {
		return journal.Subscription{
			Filter: rapid.OneOf(name(), rapid.SampledFrom([]string{"#", "a/+/b", "$share/g/a/#", "$SYS/#"})).Draw(t, "filter"),
			Options: subscriptions.Options{
				QoS: rapid.ByteMax(2).Draw(t, "qos"), NoLocal: rapid.Bool().Draw(t, "no local"),
				RetainAsPublished: rapid.Bool().Draw(t, "as published"),
				RetainHandling:    rapid.ByteMax(2).Draw(t, "handling"), ID: rapid.Uint32Max(268_435_455).Draw(t, "id"),
			},
		}
	})
}

func change() *rapid.Generator[journal.Change] {
	return rapid.Custom(func(t *rapid.T) journal.Change {
		c := journal.Change{Kind: journal.Kind(rapid.ByteRange(byte(journal.Append), byte(journal.Unsubscribed)).Draw(t, "kind"))}
		switch c.Kind {
		case journal.Append:
			c.Entry = entry().Draw(t, "entry")
		case journal.Sent:
			c.Position, c.PacketID = position().Draw(t, "position"), packetID().Draw(t, "packet id")
		case journal.Released, journal.Done:
			c.Position = position().Draw(t, "position")
		case journal.Taken:
			c.PacketID, c.Message = packetID().Draw(t, "packet id"), id().Draw(t, "message")
		case journal.Completed:
			c.PacketID = packetID().Draw(t, "packet id")
		case journal.Subscribed:
			s := subscription().Draw(t, "subscription")
			c.Filter, c.Options = s.Filter, s.Options
		case journal.Unsubscribed:
			c.Filter = subscription().Draw(t, "subscription").Filter
		}
		return c
	})
}

func write() *rapid.Generator[journal.Write] {
	return rapid.Custom(func(t *rapid.T) journal.Write {
		return journal.Write{
			Client: name().Draw(t, "client"), Session: journal.SessionID(rapid.Uint64Min(1).Draw(t, "session")),
			Epoch: rapid.Uint64Min(1).Draw(t, "epoch"), Changes: rapid.SliceOfN(change(), 1, 5).Draw(t, "changes"),
		}
	})
}

func TestAWriteComesBackAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want, request := write().Draw(t, "write"), rapid.Uint64().Draw(t, "request")
		w := overTheWire(t, journal.WriteToWire(want, request, now))
		if w.GetRequestId() != request {
			t.Errorf("request %d, want %d", w.GetRequestId(), request)
		}
		got, err := journal.WriteFromWire(w, now)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got, same); d != "" {
			t.Error(d)
		}
	})
}

func TestAStateComesBackAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first := rapid.Uint64Range(1, 1<<40).Draw(t, "first")
		want := &journal.State{
			ID: journal.SessionID(rapid.Uint64Min(1).Draw(t, "id")), Present: rapid.Bool().Draw(t, "present"),
			Subscriptions: rapid.SliceOfN(subscription(), 0, 3).Draw(t, "subscriptions"),
			Taken:         rapid.MapOfN(packetID(), id(), 0, 3).Draw(t, "taken"),
			First:         journal.Position(first), Next: journal.Position(first + rapid.Uint64Max(1<<40).Draw(t, "entries")),
		}
		got, err := journal.StateFromWire(overTheWire(t, journal.StateToWire(want)))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got, same); d != "" {
			t.Error(d)
		}
	})
}

func TestAWillComesBackAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := &journal.Will{
			Message: content().Draw(t, "message"), HasExpiry: rapid.Bool().Draw(t, "expires"),
			Delay: time.Duration(rapid.Uint32().Draw(t, "delay")) * time.Second,
		}
		if want.HasExpiry {
			want.Expiry = time.Duration(rapid.Uint32().Draw(t, "expiry")) * time.Second
		}
		got, err := journal.WillFromWire(overTheWire(t, journal.WillToWire(want)))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got, same); d != "" {
			t.Error(d)
		}
	})
}

func TestAnExpiryIsWhatIsLeftOfIt(t *testing.T) {
	for _, tt := range []struct {
		name string
		left time.Duration
		want uint64
	}{
		{"an hour", time.Hour, 3_600_000},
		{"rounded up: what has not expired does not seem to have", time.Nanosecond, 1},
		{"rounded up", 1500 * time.Microsecond, 2},
		{"now", 0, 0},
		{"long ago", -time.Hour, 0},
		{"as late as MQTT can say", math.MaxUint32 * time.Second, math.MaxUint32 * 1000},
		{"the clock was set back: not later than MQTT can say", (math.MaxUint32 + 9) * time.Second, math.MaxUint32 * 1000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := &message.Message{ID: message.ID{Origin: "g", Seq: 1}, Topic: "a", Expires: now.Add(tt.left)}
			w := journal.MessageToWire(m, now)
			if w.ExpiresInMs == nil || w.GetExpiresInMs() != tt.want {
				t.Fatalf("expires_in_ms %v, want %d", w.ExpiresInMs, tt.want)
			}
			// It has been under way for a while, on another clock.
			there := now.Add(time.Minute)
			got, err := journal.MessageFromWire(w, there)
			if want := there.Add(time.Duration(tt.want) * time.Millisecond); err != nil || !got.Expires.Equal(want) {
				t.Errorf("expires at %v, %v; want %v", got, err, want)
			}
		})
	}
}

func TestMessagesAreNotCopied(t *testing.T) {
	payload := []byte("payload")
	m := &message.Message{ID: message.ID{Origin: "g", Seq: 1}, Topic: "a", Payload: payload}
	w := journal.MessageToWire(m, now)
	got, err := journal.MessageFromWire(w, now)
	if err != nil || &w.Payload[0] != &payload[0] || &got.Payload[0] != &payload[0] {
		t.Errorf("a payload was copied: %v", err)
	}
}

// whole is a write with one change of each kind, that of Append first.
func whole() *sessionv1.Write {
	m := func() *message.Message {
		return &message.Message{
			ID: message.ID{Origin: "g", Seq: 1}, Topic: "a",
			Props: &message.Properties{User: []message.UserProperty{{Name: "n", Value: "v"}}},
		}
	}
	return journal.WriteToWire(journal.Write{Client: "x", Session: 1, Epoch: 2, Changes: []journal.Change{
		{Kind: journal.Append, Entry: journal.Entry{Position: 1, Message: m(), QoS: 2, IDs: []uint32{1, 2}, PacketID: 3}},
		{Kind: journal.Sent, Position: 1, PacketID: 3},
		{Kind: journal.Released, Position: 1},
		{Kind: journal.Done, Position: 1},
		{Kind: journal.Taken, PacketID: 7, Message: message.ID{Origin: "g", Seq: 9}},
		{Kind: journal.Completed, PacketID: 7},
		{Kind: journal.Subscribed, Filter: "a/#"},
		{Kind: journal.Unsubscribed, Filter: "a/#"},
	}}, 1, now)
}

func TestAWriteThatCannotBeIsRefusedByTheNameOfTheField(t *testing.T) {
	long := strings.Repeat("x", 65_536)
	appended := func(w *sessionv1.Write) *sessionv1.Entry { return w.GetChanges()[0].GetAppend() }
	message := func(w *sessionv1.Write) *messagev1.Message { return appended(w).GetMessage() }
	for want, spoil := range map[string]func(*sessionv1.Write){
		"client_id: is missing":  func(w *sessionv1.Write) { w.ClientId = "" },
		"client_id: is too long": func(w *sessionv1.Write) { w.ClientId = long },
		"session_id: is missing": func(w *sessionv1.Write) { w.SessionId = 0 },
		"epoch: is missing":      func(w *sessionv1.Write) { w.Epoch = 0 },
		"changes: is missing":    func(w *sessionv1.Write) { w.Changes = nil },
		"changes[3]: change: of an unknown kind": func(w *sessionv1.Write) {
			w.Changes[3] = &sessionv1.Change{}
		},
		"changes[0]: append: is missing": func(w *sessionv1.Write) {
			w.Changes[0] = &sessionv1.Change{Change: &sessionv1.Change_Append{}}
		},
		"changes[0]: append: position: is 0":      func(w *sessionv1.Write) { appended(w).Position = 0 },
		"changes[0]: append: qos: is 0":           func(w *sessionv1.Write) { appended(w).Qos = 0 },
		"changes[0]: append: qos: is 1":           func(w *sessionv1.Write) { appended(w).Qos = 1 },
		"changes[0]: append: qos: is 4":           func(w *sessionv1.Write) { appended(w).Qos = 4 },
		"changes[0]: append: packet_id: is 65536": func(w *sessionv1.Write) { appended(w).PacketId = 65_536 },
		"changes[0]: append: packet_id: is missing": func(w *sessionv1.Write) {
			appended(w).Released, appended(w).PacketId = true, 0
		},
		"changes[0]: append: qos: is 2":                         func(w *sessionv1.Write) { appended(w).Released, appended(w).Qos = true, 2 },
		"changes[0]: append: subscription_ids[1]: is 0":         func(w *sessionv1.Write) { appended(w).SubscriptionIds[1] = 0 },
		"changes[0]: append: subscription_ids[0]: is 268435456": func(w *sessionv1.Write) { appended(w).SubscriptionIds[0] = 1 << 28 },
		"changes[0]: append: message: is missing":               func(w *sessionv1.Write) { appended(w).Message = nil },
		"changes[0]: append: message: id: is missing":           func(w *sessionv1.Write) { message(w).Id = nil },
		"changes[0]: append: message: id: origin: is missing":   func(w *sessionv1.Write) { message(w).Id.Origin = "" },
		"changes[0]: append: message: id: sequence: is 0":       func(w *sessionv1.Write) { message(w).Id.Sequence = 0 },
		"changes[0]: append: message: publisher: is too long":   func(w *sessionv1.Write) { message(w).Publisher = long },
		"changes[0]: append: message: topic: topic is empty":    func(w *sessionv1.Write) { message(w).Topic = "" },
		"changes[0]: append: message: topic: topic is too long": func(w *sessionv1.Write) { message(w).Topic = long },
		"changes[0]: append: message: qos: is 0":                func(w *sessionv1.Write) { message(w).Qos = 0 },
		"changes[0]: append: message: qos: is -1":               func(w *sessionv1.Write) { message(w).Qos = -1 },
		"changes[0]: append: message: expires_in_ms: is 4294967295001": func(w *sessionv1.Write) {
			message(w).ExpiresInMs = proto.Uint64(math.MaxUint32*1000 + 1)
		},
		"changes[0]: append: message: payload_format: is 3":                   func(w *sessionv1.Write) { message(w).PayloadFormat = 3 },
		"changes[0]: append: message: content_type: is too long":              func(w *sessionv1.Write) { message(w).ContentType = long },
		"changes[0]: append: message: response_topic: is too long":            func(w *sessionv1.Write) { message(w).ResponseTopic = long },
		"changes[0]: append: message: correlation_data: is too long":          func(w *sessionv1.Write) { message(w).CorrelationData = []byte(long) },
		"changes[0]: append: message: user_properties[0]: name: is too long":  func(w *sessionv1.Write) { message(w).UserProperties[0].Name = long },
		"changes[0]: append: message: user_properties[0]: value: is too long": func(w *sessionv1.Write) { message(w).UserProperties[0].Value = long },
		"changes[1]: sent: position: is 0":                                    func(w *sessionv1.Write) { w.Changes[1].GetSent().Position = 0 },
		"changes[1]: sent: packet_id: is 0":                                   func(w *sessionv1.Write) { w.Changes[1].GetSent().PacketId = 0 },
		"changes[2]: released: is 0":                                          func(w *sessionv1.Write) { w.Changes[2].Change = &sessionv1.Change_Released{} },
		"changes[3]: done: is 0":                                              func(w *sessionv1.Write) { w.Changes[3].Change = &sessionv1.Change_Done{} },
		"changes[4]: taken: is missing":                                       func(w *sessionv1.Write) { w.Changes[4].Change = &sessionv1.Change_Taken{} },
		"changes[4]: taken: packet_id: is 0":                                  func(w *sessionv1.Write) { w.Changes[4].GetTaken().PacketId = 0 },
		"changes[4]: taken: message_id: is missing":                           func(w *sessionv1.Write) { w.Changes[4].GetTaken().MessageId = nil },
		"changes[5]: completed: packet_id: is 0":                              func(w *sessionv1.Write) { w.Changes[5].Change = &sessionv1.Change_Completed{} },
		"changes[6]: subscribed: is missing":                                  func(w *sessionv1.Write) { w.Changes[6].Change = &sessionv1.Change_Subscribed{} },
		"changes[6]: subscribed: filter: topic is empty":                      func(w *sessionv1.Write) { w.Changes[6].GetSubscribed().Filter = "" },
		"changes[6]: subscribed: qos: is 0":                                   func(w *sessionv1.Write) { w.Changes[6].GetSubscribed().Qos = 0 },
		"changes[6]: subscribed: retain_handling: is 3":                       func(w *sessionv1.Write) { w.Changes[6].GetSubscribed().RetainHandling = 3 },
		"changes[6]: subscribed: subscription_id: is 268435456":               func(w *sessionv1.Write) { w.Changes[6].GetSubscribed().SubscriptionId = 1 << 28 },
		"changes[7]: unsubscribed: shared subscription is not $share/<group>/": func(w *sessionv1.Write) {
			w.Changes[7].Change = &sessionv1.Change_Unsubscribed{Unsubscribed: "$share/g"}
		},
	} {
		t.Run(want, func(t *testing.T) {
			w := whole()
			if _, err := journal.WriteFromWire(w, now); err != nil {
				t.Fatalf("before it is spoilt: %v", err)
			}
			spoil(w)
			if _, err := journal.WriteFromWire(w, now); err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("got %v, want %s", err, want)
			}
		})
	}
	if _, err := journal.WriteFromWire(nil, now); err == nil {
		t.Error("no write is taken for one")
	}
}

func TestAChangeOfNoKindIsTakenByNobody(t *testing.T) {
	if c, err := journal.ChangeFromWire(journal.ChangeToWire(journal.Change{}, now), now); err == nil {
		t.Errorf("taken as %v", c)
	}
}

func TestAStateThatCannotBeIsRefusedByTheNameOfTheField(t *testing.T) {
	for want, spoil := range map[string]func(*sessionv1.Session){
		"session_id: is missing":             func(s *sessionv1.Session) { s.SessionId = 0 },
		"first_position: is 0":               func(s *sessionv1.Session) { s.FirstPosition = 0 },
		"next_position: is 4, behind":        func(s *sessionv1.Session) { s.NextPosition = 4 },
		"subscriptions[1]: qos: is 0":        func(s *sessionv1.Session) { s.Subscriptions[1].Qos = 0 },
		"taken[0]: packet_id: is 70000":      func(s *sessionv1.Session) { s.Taken[0].PacketId = 70_000 },
		"taken[1]: packet_id: 1 is there":    func(s *sessionv1.Session) { s.Taken[1].PacketId = 1 },
		"taken[1]: message_id: sequence: is": func(s *sessionv1.Session) { s.Taken[1].MessageId.Sequence = 0 },
	} {
		t.Run(want, func(t *testing.T) {
			s := journal.StateToWire(&journal.State{
				ID: 1, First: 5, Next: 5, Subscriptions: []journal.Subscription{{Filter: "a"}, {Filter: "b"}},
				Taken: map[uint16]message.ID{2: {Origin: "g", Seq: 2}, 1: {Origin: "g", Seq: 1}},
			})
			spoil(s)
			if _, err := journal.StateFromWire(s); err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("got %v, want %s", err, want)
			}
		})
	}
	if _, err := journal.StateFromWire(nil); err == nil {
		t.Error("no state is taken for one")
	}
}

func TestAWillThatCannotBeIsRefusedByTheNameOfTheField(t *testing.T) {
	for want, spoil := range map[string]func(*sessionv1.Will){
		"message: is missing":            func(w *sessionv1.Will) { w.Message = nil },
		"message: topic: topic name con": func(w *sessionv1.Will) { w.Message.Topic = "a/#" },
		"message: id: a will has none":   func(w *sessionv1.Will) { w.Message.Id = &messagev1.MessageId{} },
		"message: expires_in_ms: is":     func(w *sessionv1.Will) { w.Message.ExpiresInMs = proto.Uint64(math.MaxUint64) },
	} {
		t.Run(want, func(t *testing.T) {
			w := journal.WillToWire(&journal.Will{Message: &message.Message{Topic: "a"}})
			spoil(w)
			if _, err := journal.WillFromWire(w); err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("got %v, want %s", err, want)
			}
		})
	}
	if _, err := journal.WillFromWire(nil); err == nil {
		t.Error("no will is taken for one")
	}
}

// FuzzWriteFromWire: what is taken from the wire goes out again as it was.
func FuzzWriteFromWire(f *testing.F) {
	b, err := proto.Marshal(whole())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		w := &sessionv1.Write{}
		if proto.Unmarshal(b, w) != nil {
			return
		}
		first, err := journal.WriteFromWire(w, now)
		if err != nil {
			return
		}
		second, err := journal.WriteFromWire(overTheWire(t, journal.WriteToWire(first, w.GetRequestId(), now)), now)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(first, second, same); d != "" {
			t.Error(d)
		}
	})
}

// FuzzStateFromWire is the same for a session's state.
func FuzzStateFromWire(f *testing.F) {
	b, err := proto.Marshal(journal.StateToWire(&journal.State{
		ID: 1, First: 1, Next: 2, Subscriptions: []journal.Subscription{{Filter: "$share/g/a/+"}},
		Taken: map[uint16]message.ID{1: {Origin: "g", Seq: 1}},
	}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		w := &sessionv1.Session{}
		if proto.Unmarshal(b, w) != nil {
			return
		}
		first, err := journal.StateFromWire(w)
		if err != nil {
			return
		}
		second, err := journal.StateFromWire(overTheWire(t, journal.StateToWire(first)))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(first, second, same); d != "" {
			t.Error(d)
		}
	})
}
