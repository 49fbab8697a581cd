package packet

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.golang/packets"
	paho311 "github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/google/go-cmp/cmp"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/test/wire"
)

var deliverNow = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func deliverMessages() map[string]*message.Message {
	all := &message.Properties{
		PayloadFormat: 1, HasPayloadFormat: true, ContentType: "text/plain", ResponseTopic: "reply/to",
		CorrelationData: []byte{0, 1, 2}, User: someUser,
	}
	long := &message.Properties{User: []message.UserProperty{{Name: strings.Repeat("n", 300), Value: strings.Repeat("v", 20_000)}}}
	expires := deliverNow.Add(90 * time.Second)
	return map[string]*message.Message{
		"plain":                    {Topic: "a/b", Payload: []byte("payload")},
		"no payload":               {Topic: "a"},
		"an expiry":                {Topic: "a/b", Payload: []byte("payload"), Expires: expires},
		"all properties":           {Topic: "a/b", Payload: []byte("payload"), Props: all},
		"properties and an expiry": {Topic: "a/b", Payload: []byte("payload"), Props: all, Expires: expires},
		"long lengths":             {Topic: strings.Repeat("long/", 100), Payload: make([]byte, 20_000), Props: long, Expires: expires},
		"a length of three bytes":  {Topic: "a", Payload: make([]byte, 20_000), Expires: expires},
		"empty properties":         {Topic: "a", Props: &message.Properties{}},
	}
}

// deliverOptions is every combination.
func deliverOptions(yield func(PublishOptions) bool) {
	both := []bool{false, true}
	for qos := range byte(3) {
		for _, dup := range both {
			for _, retain := range both {
				for _, ids := range [][]uint32{nil, {1}, {268_435_455, 128}} {
					for _, alias := range []uint16{0, 300} {
						for _, omit := range both {
							if !yield(PublishOptions{
								PacketID: 0x1234, Dup: dup, QoS: qos, Retain: retain, IDs: ids, Alias: alias, OmitTopic: omit,
							}) {
								return
							}
						}
					}
				}
			}
		}
	}
}

// expected is the PUBLISH that the independent codec must read. It keeps only the last Subscription Identifier.
func expected(m *message.Message, o PublishOptions, left uint32) *paho.Publish {
	p := &paho.Publish{Topic: m.Topic, Payload: slices.Clone(m.Payload), QoS: o.QoS, Retain: o.Retain, Properties: &paho.Properties{}}
	if p.Payload == nil {
		p.Payload = []byte{}
	}
	if o.QoS > 0 {
		p.PacketID, p.Duplicate = o.PacketID, o.Dup
	}
	if !m.Expires.IsZero() {
		p.Properties.MessageExpiry = &left
	}
	if o.Alias > 0 {
		p.Properties.TopicAlias = &o.Alias
		if o.OmitTopic {
			p.Topic = ""
		}
	}
	if n := len(o.IDs); n > 0 {
		p.Properties.SubscriptionIdentifier = ptr(int(o.IDs[n-1]))
	}
	if m.Props != nil {
		if m.Props.HasPayloadFormat {
			p.Properties.PayloadFormat = &m.Props.PayloadFormat
		}
		p.Properties.ContentType = m.Props.ContentType
		p.Properties.ResponseTopic = m.Props.ResponseTopic
		p.Properties.CorrelationData = m.Props.CorrelationData
		for _, u := range m.Props.User {
			p.Properties.User = append(p.Properties.User, paho.User{Key: u.Name, Value: u.Value})
		}
	}
	return p
}

func TestPublishOf5IsWhatTheOtherCodecReads(t *testing.T) {
	for name, m := range deliverMessages() {
		t.Run(name, func(t *testing.T) {
			with := *m
			with.Forms = &message.Forms{}
			for o := range deliverOptions {
				want := expected(m, o, 90)
				raw := AppendPublish([]byte("before"), V5, m, o, deliverNow)
				if !bytes.HasPrefix(raw, []byte("before")) {
					t.Fatalf("%+v: what was there before has changed", o)
				}
				raw = raw[len("before"):]
				pk := must[*paho.ControlPacket](t)(paho.ReadPacket(bytes.NewReader(raw)))
				if diff := cmp.Diff(want, pk.Content, cmp.Comparer(bytes.Equal)); diff != "" {
					t.Fatalf("%+v: %s", o, diff)
				}
				for _, id := range o.IDs { // paho keeps only one
					if !bytes.Contains(raw, append([]byte{11}, wire.Varint(int(id))...)) {
						t.Errorf("%+v: identifier %d is missing", o, id)
					}
				}
				if got := PublishSize(V5, m, o); got != len(raw) {
					t.Errorf("%+v: size is %d, want %d", o, got, len(raw))
				}
				for range 2 { // the second comes from the forms
					if again := AppendPublish([]byte("before"), V5, &with, o, deliverNow); !bytes.Equal(again[len("before"):], raw) {
						t.Fatalf("%+v: with forms it is another packet", o)
					}
				}
			}
		})
	}
}

func TestPublishOf311IsWhatTheOtherCodecWrites(t *testing.T) {
	for name, m := range deliverMessages() {
		t.Run(name, func(t *testing.T) {
			with := *m
			with.Forms = &message.Forms{}
			for o := range deliverOptions {
				pk := paho311.NewControlPacket(paho311.Publish).(*paho311.PublishPacket)
				pk.Qos, pk.Retain, pk.TopicName, pk.Payload = o.QoS, o.Retain, m.Topic, m.Payload
				if o.QoS > 0 {
					pk.Dup, pk.MessageID = o.Dup, o.PacketID
				}
				var want bytes.Buffer
				if err := pk.Write(&want); err != nil {
					t.Fatal(err)
				}
				for _, m := range []*message.Message{m, &with, &with} {
					raw := AppendPublish([]byte("before"), V311, m, o, deliverNow)
					if !bytes.Equal(raw[len("before"):], want.Bytes()) {
						t.Fatalf("%+v, forms %v: it is not what the other codec writes", o, m.Forms != nil)
					}
				}
				if got := PublishSize(V311, m, o); got != want.Len() {
					t.Errorf("%+v: size is %d, want %d", o, got, want.Len())
				}
			}
		})
	}
}

func TestALargePublishIsWhatTheOtherCodecReads(t *testing.T) {
	m := &message.Message{Topic: "a", Payload: bytes.Repeat([]byte("0123456789abcdef"), 1<<17), Forms: &message.Forms{}}
	for _, forms := range []*message.Forms{nil, {}} {
		m.Forms = forms
		o := PublishOptions{QoS: 1, PacketID: 0x1234}
		raw := AppendPublish(nil, V5, m, o, deliverNow)
		pk := must[*paho.ControlPacket](t)(paho.ReadPacket(bytes.NewReader(raw)))
		if diff := cmp.Diff(expected(m, o, 0), pk.Content, cmp.Comparer(bytes.Equal)); diff != "" || len(raw) != PublishSize(V5, m, o) {
			t.Errorf("%d bytes, size is %d: %s", len(raw), PublishSize(V5, m, o), diff)
		}
	}
}

func TestTheExpiryIsWhatIsLeftWhenThePacketIsWritten(t *testing.T) { // MQTT-3.3.2-6
	for _, forms := range []*message.Forms{nil, {}} {
		m := &message.Message{Topic: "a", Payload: []byte("p"), Forms: forms, Expires: deliverNow.Add(10 * time.Second)}
		for _, c := range []struct {
			after time.Duration
			want  uint32
		}{
			{0, 10}, {time.Second, 9}, {9500 * time.Millisecond, 1}, {11 * time.Second, 0}, {-time.Hour, 3610}, {0, 10},
		} {
			for _, o := range []PublishOptions{{}, {QoS: 1, PacketID: 7}, {QoS: 2, PacketID: 8, IDs: []uint32{5}}} {
				raw := AppendPublish(nil, V5, m, o, deliverNow.Add(c.after))
				pk := must[*paho.ControlPacket](t)(paho.ReadPacket(bytes.NewReader(raw))).Content.(*paho.Publish)
				if got := *pk.Properties.MessageExpiry; got != c.want || pk.PacketID != o.PacketID {
					t.Errorf("%v later: expiry %d, want %d; id %d", c.after, got, c.want, pk.PacketID)
				}
			}
		}
	}
}

func TestFormsHoldTheHeadAndNotThePayload(t *testing.T) {
	m := &message.Message{Topic: "topic", Payload: make([]byte, 1<<20), Forms: &message.Forms{}}
	for _, v := range []Version{V311, V5} {
		for qos := range byte(3) {
			AppendPublish(nil, v, m, PublishOptions{QoS: qos, PacketID: 0xffff, Retain: true, Dup: true}, deliverNow)
		}
		AppendPublish(nil, v, m, PublishOptions{IDs: []uint32{1}}, deliverNow)
	}
	for i := range m.Forms {
		head := m.Forms[i].Load()
		if head == nil {
			t.Errorf("form %d is not there", i)
			continue
		}
		if cap(*head) > 32 {
			t.Errorf("form %d has %d bytes", i, cap(*head))
		}
		if bytes.Contains(*head, []byte{0xff, 0xff}) || (*head)[0] != 0x30 {
			t.Errorf("form %d has been patched: %x", i, *head)
		}
	}
}

func TestManyConnectionsMayShareForms(t *testing.T) {
	m := &message.Message{Topic: "topic", Payload: []byte("payload"), Expires: deliverNow.Add(time.Hour), Forms: &message.Forms{}}
	bare := *m
	bare.Forms = nil
	var wg sync.WaitGroup
	for id := range uint16(64) {
		wg.Go(func() {
			for i := range 20 {
				v := []Version{V311, V5}[i%2]
				o := PublishOptions{PacketID: id + 1, QoS: byte(i % 3), Retain: i%5 == 0}
				if !bytes.Equal(AppendPublish(nil, v, m, o, deliverNow), AppendPublish(nil, v, &bare, o, deliverNow)) {
					t.Errorf("%+v: with shared forms it is another packet", o)
				}
			}
		})
	}
	wg.Wait()
}

func TestAppendPublishDoesNotAllocate(t *testing.T) {
	buf := make([]byte, 0, 1<<16)
	for name, m := range deliverMessages() {
		if len(m.Payload) > 1<<15 {
			continue
		}
		with := *m
		with.Forms = &message.Forms{}
		for _, m := range []*message.Message{m, &with} {
			for _, v := range []Version{V311, V5} {
				o := PublishOptions{PacketID: 7, QoS: 1, IDs: []uint32{5}[:int(v)%2]}
				if n := testing.AllocsPerRun(20, func() { buf = AppendPublish(buf[:0], v, m, o, deliverNow) }); n > 0 {
					t.Errorf("v%d %s, forms %v: %v allocations", v, name, m.Forms != nil, n)
				}
				if n := testing.AllocsPerRun(20, func() { PublishSize(v, m, o) }); n > 0 {
					t.Errorf("v%d %s: the size takes %v allocations", v, name, n)
				}
			}
		}
	}
}

func TestTextFromOutsideCannotBreakTheFraming(t *testing.T) {
	long := strings.Repeat("x", 70_000)
	m := &message.Message{Topic: long, Payload: []byte("payload"), Props: &message.Properties{
		ContentType: long, CorrelationData: []byte(long), User: []message.UserProperty{{Name: long, Value: "v"}},
	}}
	raw := AppendPublish(nil, V5, m, PublishOptions{}, deliverNow)
	if got := PublishSize(V5, m, PublishOptions{}); got != len(raw) {
		t.Errorf("size is %d, want %d", got, len(raw))
	}
	r := NewReader(bytes.NewReader(raw))
	first, body, _, err := r.Next(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	p := must[Publish](t)(DecodePublish(V5, first, body, true))
	if p.Topic != long[:65535] || p.Props.ContentType != long[:65535] || p.Props.User[0].Value != "v" || string(p.Payload) != "payload" {
		t.Error("the parts are not the cut ones")
	}
}

func TestVarintsAreThoseOfTheStandard(t *testing.T) {
	for _, n := range []int{0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 268_435_455} {
		got := appendVarint(nil, n)
		if !bytes.Equal(got, wire.Varint(n)) || varintSize(n) != len(got) {
			t.Errorf("%d is %x, size %d", n, got, varintSize(n))
		}
		c := cursor{rest: got}
		if back := c.varint("n"); back != n || c.err != nil || len(c.rest) > 0 {
			t.Errorf("%d comes back as %d, %v", n, back, c.err)
		}
	}
}

func ExampleAppendPublish() {
	m := &message.Message{Topic: "a/b", Payload: []byte("hi")}
	fmt.Printf("% x\n", AppendPublish(nil, V311, m, PublishOptions{QoS: 1, PacketID: 10}, time.Now()))
	// Output: 32 09 00 03 61 2f 62 00 0a 68 69
}
