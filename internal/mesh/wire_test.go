package mesh

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	meshv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/mesh/v1"
	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	"github.com/beeline-mqtt/beeline/internal/message"
)

const (
	self  = "incarnation-a"
	other = "incarnation-b"
)

var then = time.Unix(1_700_000_000, 0)

// generated is d as the generated code has it, on a stream of self, at then.
func generated(d Delivery) *meshv1.Delivery {
	m := d.Message
	g := &meshv1.Delivery{Message: &messagev1.Message{
		Id:        &messagev1.MessageId{Sequence: m.Seq},
		Publisher: m.Publisher, Topic: m.Topic, Payload: m.Payload, Qos: messagev1.Qos(m.QoS + 1), Retain: m.Retain,
	}}
	if m.Origin != self {
		g.Message.Id.Origin = m.Origin
	}
	if !m.Expires.IsZero() {
		g.Message.ExpiresInMs = proto.Uint64(uint64(max(0, m.Expires.Sub(then).Milliseconds())))
	}
	if m.Order != nil {
		g.Message.Order = proto.Uint64(m.Order.Seq)
	}
	if p := m.Props; p != nil {
		if p.HasPayloadFormat {
			g.Message.PayloadFormat = messagev1.PayloadFormat(p.PayloadFormat + 1)
		}
		g.Message.ContentType = p.ContentType
		g.Message.ResponseTopic = p.ResponseTopic
		g.Message.CorrelationData = p.CorrelationData
		for _, u := range p.User {
			g.Message.UserProperties = append(g.Message.UserProperties, &messagev1.UserProperty{Name: u.Name, Value: u.Value})
		}
	}
	switch t := d.Target; t.Kind {
	case TargetMatch:
		g.Target = &meshv1.Delivery_Match{Match: &meshv1.Match{}}
	case TargetShare:
		g.Target = &meshv1.Delivery_Share{Share: &meshv1.Share{Group: t.Group, Filter: t.Filter}}
	case TargetClient:
		g.Target = &meshv1.Delivery_Client{Client: &meshv1.Client{ClientId: t.ClientID, Epoch: t.Epoch}}
	case TargetOrphans:
		g.Target = &meshv1.Delivery_Orphans{Orphans: &meshv1.Orphans{Incarnation: t.Incarnation}}
	}
	g.ReportWithinMs, g.UntilAcknowledged = d.ReportWithinMs, d.UntilAcked
	return g
}

func encodeBatch(ds []Delivery, first, receipts uint64) []byte {
	w := batchWriter{self: self}
	w.begin(nil)
	w.clock.at = then
	for i := range ds {
		if !w.add(&ds[i]) {
			panic("batch is full")
		}
	}
	return w.buf[w.finish(first, receipts):]
}

// decodeBatch reads a whole frame as inbound does.
func decodeBatch(frame []byte, origin string) (first, receipts uint64, ds []Delivery, err error) {
	num, body, err := only(frame)
	if err != nil {
		return 0, 0, nil, err
	}
	if num != requestBatch {
		return 0, 0, nil, errors.New("not a batch")
	}
	r, err := readBatch(body)
	if err != nil {
		return 0, 0, nil, err
	}
	clk := clock{at: then}
	for {
		raw, err := r.delivery()
		if err != nil {
			return 0, 0, nil, err
		}
		if raw == nil {
			return r.first, r.receiptsThrough, ds, nil
		}
		d, err := decodeDelivery(raw, origin, &clk)
		if err != nil {
			return 0, 0, nil, err
		}
		ds = append(ds, d)
	}
}

// optional draws v or the zero value, so that absent fields are common.
func optional[T any](t *rapid.T, name string, g *rapid.Generator[T]) T {
	if rapid.Bool().Draw(t, "has "+name) {
		return g.Draw(t, name)
	}
	var zero T
	return zero
}

func drawDelivery(t *rapid.T) Delivery {
	str, raw := rapid.StringN(0, 40, 200), rapid.SliceOfN(rapid.Byte(), 0, 300)
	m := &message.Message{
		ID:        message.ID{Origin: rapid.SampledFrom([]string{self, other, "x"}).Draw(t, "origin"), Seq: rapid.Uint64().Draw(t, "seq")},
		Publisher: str.Draw(t, "publisher"),
		Topic:     str.Draw(t, "topic"),
		Payload:   raw.Draw(t, "payload"),
		QoS:       rapid.ByteRange(0, 2).Draw(t, "qos"),
		Retain:    rapid.Bool().Draw(t, "retain"),
	}
	if rapid.Bool().Draw(t, "sent again") {
		m.Order = &message.ID{Origin: self, Seq: rapid.Uint64().Draw(t, "order")}
	}
	if rapid.Bool().Draw(t, "expires") {
		m.Expires = then.Add(time.Duration(rapid.Int64Range(0, message.MaxExpiryMs).Draw(t, "left")) * time.Millisecond)
	}
	if rapid.Bool().Draw(t, "properties") {
		// One of them at least, or the decoder sees none.
		p := &message.Properties{HasPayloadFormat: true, PayloadFormat: rapid.ByteRange(0, 1).Draw(t, "format")}
		p.ContentType = optional(t, "content type", str)
		p.ResponseTopic = optional(t, "response topic", str)
		p.CorrelationData = optional(t, "correlation", raw)
		for range rapid.IntRange(0, 3).Draw(t, "users") {
			p.User = append(p.User, message.UserProperty{Name: str.Draw(t, "name"), Value: str.Draw(t, "value")})
		}
		m.Props = p
	}
	d := Delivery{Message: m}
	switch d.Target.Kind = TargetKind(rapid.IntRange(0, 3).Draw(t, "kind")); d.Target.Kind {
	case TargetShare:
		d.Target.Group, d.Target.Filter = str.Draw(t, "group"), str.Draw(t, "filter")
	case TargetClient:
		d.Target.ClientID, d.Target.Epoch = str.Draw(t, "client"), rapid.Uint64().Draw(t, "epoch")
	case TargetOrphans:
		d.Target.Incarnation = rapid.StringN(1, 40, 200).Draw(t, "incarnation")
	}
	if d.ReportWithinMs = optional(t, "report within", rapid.Uint32Min(1)); d.Reported() {
		d.UntilAcked = rapid.Bool().Draw(t, "until acknowledged")
	}
	return d
}

func checkBatchBothWays(t *rapid.T) {
	var ds []Delivery
	want := &meshv1.Batch{
		FirstSequence:   rapid.Uint64Min(1).Draw(t, "first"),
		ReceiptsThrough: rapid.Uint64().Draw(t, "receipts"),
	}
	for range rapid.IntRange(1, 4).Draw(t, "deliveries") {
		d := drawDelivery(t)
		ds = append(ds, d)
		want.Deliveries = append(want.Deliveries, generated(d))
	}
	frame := encodeBatch(ds, want.GetFirstSequence(), want.GetReceiptsThrough())

	wanted := &meshv1.ConnectRequest{Frame: &meshv1.ConnectRequest_Batch{Batch: want}}
	reference, err := proto.Marshal(wanted)
	if err != nil {
		t.Fatal(err)
	}
	if len(frame) != len(reference) {
		t.Fatalf("%d bytes by hand, %d by the generated code", len(frame), len(reference))
	}
	read, err := decodeRequest(frame)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wanted, read, protocmp.Transform()); diff != "" {
		t.Fatalf("read by the generated code (-want +got):\n%s", diff)
	}
	first, receipts, got, err := decodeBatch(reference, self)
	if err != nil {
		t.Fatal(err)
	}
	if first != want.GetFirstSequence() || receipts != want.GetReceiptsThrough() {
		t.Fatalf("first %d, receipts %d", first, receipts)
	}
	if diff := cmp.Diff(ds, got, sameExpiry); diff != "" {
		t.Fatalf("decoded (-want +got):\n%s", diff)
	}
}

// sameExpiry compares times as instants and an empty payload with an absent one as equal.
var sameExpiry = cmp.Options{
	cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) }),
	cmp.FilterPath(func(p cmp.Path) bool { return p.String() == "Message.Payload" }, cmp.Comparer(bytes.Equal)),
	cmp.AllowUnexported(message.Message{}),
	cmp.FilterPath(func(p cmp.Path) bool { return p.String() == "Message.Forms" }, cmp.Ignore()),
}

func TestABatchAndTheGeneratedCodeReadEachOther(t *testing.T) {
	rapid.Check(t, checkBatchBothWays)
}

func FuzzBatchBothWays(f *testing.F) { f.Fuzz(rapid.MakeFuzz(checkBatchBothWays)) }

// FuzzDecodeBatch: what the decoder takes, the generated code takes too and sees the same in it.
func FuzzDecodeBatch(f *testing.F) {
	d := publish("a/b", 1)
	shared := Delivery{Target: Target{Kind: TargetShare, Group: "g", Filter: "a/#"}, Message: d.Message}
	direct := Delivery{Target: Target{Kind: TargetClient, ClientID: "c", Epoch: 7}, Message: d.Message}
	orphan := Delivery{Target: Target{Kind: TargetOrphans, Incarnation: "dead"}, Message: d.Message}
	reported := Delivery{Message: d.Message, ReportWithinMs: 5000, UntilAcked: true}
	f.Add(encodeBatch([]Delivery{d, shared, direct, orphan, reported}, 5, 1))
	f.Add([]byte{})
	f.Add([]byte{0x12, 0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		first, receipts, ds, err := decodeBatch(bytes.Clone(b), self)
		if err != nil {
			return
		}
		got, err := decodeRequest(b)
		if err != nil {
			t.Fatalf("the generated code refuses what was decoded: %v", err)
		}
		batch := got.GetBatch()
		if batch.GetFirstSequence() != first || batch.GetReceiptsThrough() != receipts || len(batch.GetDeliveries()) != len(ds) {
			t.Fatalf("first %d, receipts %d, %d deliveries; generated: %v", first, receipts, len(ds), batch)
		}
		for i, g := range batch.GetDeliveries() {
			want := generated(ds[i])
			normalise(g, ds[i])
			if diff := cmp.Diff(want, g, protocmp.Transform(), protocmp.IgnoreUnknown()); diff != "" {
				t.Fatalf("delivery %d (-decoded +generated):\n%s", i, diff)
			}
		}
	})
}

// normalise writes what decoding makes of a delivery into the generated form of it.
func normalise(g *meshv1.Delivery, d Delivery) {
	if g.Message.Id == nil {
		g.Message.Id = &messagev1.MessageId{}
	}
	if g.Message.GetId().GetOrigin() == self {
		g.Message.Id.Origin = ""
	}
	if g.Message.ExpiresInMs != nil {
		g.Message.ExpiresInMs = proto.Uint64(min(g.Message.GetExpiresInMs(), message.MaxExpiryMs))
	}
}

func TestDecodingRefuses(t *testing.T) {
	good := func() *meshv1.ConnectRequest {
		return &meshv1.ConnectRequest{Frame: &meshv1.ConnectRequest_Batch{Batch: &meshv1.Batch{
			FirstSequence: 1, Deliveries: []*meshv1.Delivery{generated(publish("t", 1))},
		}}}
	}
	delivery := func(m *meshv1.ConnectRequest) *meshv1.Delivery { return m.GetBatch().GetDeliveries()[0] }
	cases := []struct {
		name  string
		spoil func(*meshv1.ConnectRequest)
		want  error
	}{
		{"a batch without deliveries", func(m *meshv1.ConnectRequest) { m.GetBatch().Deliveries = nil }, errMalformed},
		{"a batch without a sequence", func(m *meshv1.ConnectRequest) { m.GetBatch().FirstSequence = 0 }, errMalformed},
		{"a delivery without a target", func(m *meshv1.ConnectRequest) { delivery(m).Target = nil }, errMalformed},
		{"a delivery without a message", func(m *meshv1.ConnectRequest) { delivery(m).Message = nil }, errMalformed},
		{"a message without a QoS", func(m *meshv1.ConnectRequest) { delivery(m).GetMessage().Qos = 0 }, errMalformed},
		{"a QoS beyond 2", func(m *meshv1.ConnectRequest) { delivery(m).GetMessage().Qos = 4 }, errMalformed},
		{"an unknown payload format", func(m *meshv1.ConnectRequest) { delivery(m).GetMessage().PayloadFormat = 3 }, errMalformed},
		{"orphans of nobody", func(m *meshv1.ConnectRequest) {
			delivery(m).Target = &meshv1.Delivery_Orphans{Orphans: &meshv1.Orphans{}}
		}, errMalformed},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m := good()
			c.spoil(m)
			b, err := proto.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, _, err := decodeBatch(b, self); !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
		})
	}
	t.Run("text that is not UTF-8", func(t *testing.T) {
		b := encodeBatch([]Delivery{publish("topic", 1)}, 1, 0)
		b[bytes.Index(b, []byte("topic"))] = 0xff
		if _, _, _, err := decodeBatch(b, self); !errors.Is(err, errMalformed) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("every truncation", func(t *testing.T) {
		b := encodeBatch([]Delivery{publish("topic", 1)}, 1, 0)
		for n := range len(b) {
			if _, _, _, err := decodeBatch(b[:n], self); err == nil {
				t.Errorf("the first %d of %d bytes are taken", n, len(b))
			}
		}
	})
	t.Run("two frames in one", func(t *testing.T) {
		b := encodeBatch([]Delivery{publish("topic", 1)}, 1, 0)
		if _, _, err := only(append(b, b...)); !errors.Is(err, errMalformed) {
			t.Errorf("error %v", err)
		}
	})
}

func TestADecodedDeliveryDoesNotAliasTheFrame(t *testing.T) {
	d := publish("topic", 1)
	b := encodeBatch([]Delivery{d}, 1, 0)
	_, _, got, err := decodeBatch(b, self)
	if err != nil {
		t.Fatal(err)
	}
	clear(b)
	if m := got[0].Message; m.Topic != "topic" || string(m.Payload) != "payload" || m.Publisher != "publisher" {
		t.Errorf("after the frame is gone: %q %q %q", m.Topic, m.Payload, m.Publisher)
	}
}

func TestDecodingADeliveryAllocatesTheMessageAndItsBytes(t *testing.T) {
	d := publish("topic", 1)
	d.Target = Target{Kind: TargetShare, Group: "group", Filter: "topic/#"}
	_, body, _ := only(encodeBatch([]Delivery{d}, 1, 0))
	r, err := readBatch(body)
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := r.delivery()
	var clk clock
	n := testing.AllocsPerRun(100, func() {
		if _, err := decodeDelivery(raw, self, &clk); err != nil {
			t.Fatal(err)
		}
	})
	if n != 2 {
		t.Errorf("%v allocations, want 2", n)
	}
}

func TestABatchEndsAt64KiBUnlessOneMessageIsLarger(t *testing.T) {
	d := publish("topic", 1)
	d.Message.Payload = bytes.Repeat([]byte("x"), 1000)
	w := batchWriter{self: self}
	w.begin(nil)
	n := 0
	for w.add(&d) {
		n++
	}
	if size := len(w.buf) - w.finish(1, 1); size > batchBytes+batchHeader || size < batchBytes-1100 || n < 60 {
		t.Errorf("%d deliveries in %d bytes", n, size)
	}
	d.Message.Payload = bytes.Repeat([]byte("x"), 2*batchBytes)
	w.begin(nil)
	if !w.add(&d) || w.add(&d) {
		t.Error("a large message does not go alone")
	}
}

func TestAnExpiredMessageIsStillExpiredAtTheOtherEnd(t *testing.T) {
	d := publish("topic", 1)
	d.Message.Expires = then.Add(-time.Hour)
	_, _, got, err := decodeBatch(encodeBatch([]Delivery{d}, 1, 0), self)
	if err != nil {
		t.Fatal(err)
	}
	if !got[0].Message.Expired(then) {
		t.Errorf("expires at %v", got[0].Message.Expires)
	}
}

func checkReceiptsBothWays(t *rapid.T) {
	f := &receiptsFrame{through: rapid.Uint64().Draw(t, "through"), number: rapid.Uint64().Draw(t, "number")}
	want := &meshv1.Receipts{ReceivedThrough: f.through, Number: f.number}
	for range rapid.IntRange(0, 5).Draw(t, "receipts") {
		r := numberedReceipt{seq: rapid.Uint64().Draw(t, "seq"), receipt: Receipt{
			Outcome:  Outcome(rapid.IntRange(int(Queued), int(Refused)).Draw(t, "outcome")),
			ClientID: optional(t, "client", rapid.StringN(0, 30, 100)),
			Epoch:    optional(t, "epoch", rapid.Uint64()),
		}}
		for range rapid.IntRange(0, 3).Draw(t, "moved") {
			r.receipt.Moved = append(r.receipt.Moved, MovedClient{
				ClientID: optional(t, "moved client", rapid.StringN(0, 30, 100)), Epoch: optional(t, "moved epoch", rapid.Uint64()),
			})
		}
		for range rapid.IntRange(0, 3).Draw(t, "clients") {
			r.receipt.Clients = append(r.receipt.Clients, ClientReceipt{
				ClientID: optional(t, "its id", rapid.StringN(0, 30, 100)), Epoch: optional(t, "its epoch", rapid.Uint64()),
				Outcome: ClientOutcome(rapid.IntRange(1, clientOutcomes-1).Draw(t, "its outcome")),
			})
		}
		f.receipts = append(f.receipts, r)
		want.Receipts = append(want.Receipts, generatedReceipt(r))
	}
	b := appendReceipts(nil, f)
	wanted := &meshv1.ConnectResponse{Frame: &meshv1.ConnectResponse_Receipts{Receipts: want}}
	reference, err := proto.Marshal(wanted)
	if err != nil {
		t.Fatal(err)
	}
	read, err := decodeResponse(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wanted, read, protocmp.Transform()); diff != "" || len(b) != len(reference) {
		t.Fatalf("%d bytes, %d by the generated code, which reads (-want +got):\n%s", len(b), len(reference), diff)
	}
	_, body, err := only(reference)
	if err != nil {
		t.Fatal(err)
	}
	got := receiptsFrame{receipts: make([]numberedReceipt, 3)}
	if err := decodeReceipts(body, &got); err != nil {
		t.Fatal(err)
	}
	if got.through != f.through || got.number != f.number || len(got.receipts) != len(f.receipts) {
		t.Fatalf("decoded %+v, want %+v", got, f)
	}
	for i := range got.receipts {
		if diff := cmp.Diff(f.receipts[i], got.receipts[i], cmp.AllowUnexported(numberedReceipt{})); diff != "" {
			t.Fatalf("decoded (-want +got):\n%s", diff)
		}
	}
}

// generatedReceipt is r as the generated code has it.
func generatedReceipt(r numberedReceipt) *meshv1.Receipt {
	g := &meshv1.Receipt{
		Sequence: r.seq, Outcome: meshv1.Outcome(r.receipt.Outcome), ClientId: r.receipt.ClientID, Epoch: r.receipt.Epoch,
	}
	for _, m := range r.receipt.Moved {
		g.Moved = append(g.Moved, &meshv1.Moved{ClientId: m.ClientID, Epoch: m.Epoch})
	}
	for _, c := range r.receipt.Clients {
		g.Clients = append(g.Clients, &meshv1.ClientReceipt{
			ClientId: c.ClientID, Outcome: meshv1.ClientOutcome(c.Outcome), Epoch: c.Epoch,
		})
	}
	return g
}

func TestReceiptsAndTheGeneratedCodeReadEachOther(t *testing.T) {
	rapid.Check(t, checkReceiptsBothWays)
}

func FuzzReceiptsBothWays(f *testing.F) { f.Fuzz(rapid.MakeFuzz(checkReceiptsBothWays)) }

// FuzzDecodeReceipts: what the decoder takes, the generated code takes too and sees the same in it.
func FuzzDecodeReceipts(f *testing.F) {
	f.Add(appendReceipts(nil, &receiptsFrame{through: 3, number: 1, receipts: []numberedReceipt{
		{seq: 2, receipt: Receipt{Outcome: NotHolder, ClientID: "c", Epoch: 9}},
		{seq: 3, receipt: Receipt{Outcome: Accepted}},
		{seq: 3, receipt: Receipt{Outcome: Moved, Moved: []MovedClient{{ClientID: "d", Epoch: 1 << 40}, {}}}},
		{seq: 3, receipt: Receipt{Outcome: Queued, Clients: []ClientReceipt{{ClientID: "e", Outcome: ClientAcked, Epoch: 3}}}},
	}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		num, body, err := only(b)
		if err != nil || num != responseReceipts {
			return
		}
		var got receiptsFrame
		if decodeReceipts(body, &got) != nil {
			return
		}
		m, err := decodeResponse(b)
		if err != nil {
			t.Fatalf("the generated code refuses what was decoded: %v", err)
		}
		r := m.GetReceipts()
		if r.GetReceivedThrough() != got.through || r.GetNumber() != got.number || len(r.GetReceipts()) != len(got.receipts) {
			t.Fatalf("decoded %+v, generated %v", got, r)
		}
		for i, g := range r.GetReceipts() {
			if diff := cmp.Diff(generatedReceipt(got.receipts[i]), g, protocmp.Transform(), protocmp.IgnoreUnknown()); diff != "" {
				t.Fatalf("receipt %d (-decoded +generated):\n%s", i, diff)
			}
		}
	})
}

func TestAReceiptOfNoKnownOutcomeIsMalformed(t *testing.T) {
	for _, o := range []meshv1.Outcome{meshv1.Outcome_OUTCOME_UNSPECIFIED, meshv1.Outcome(Gone), 300, -1} {
		b, err := proto.Marshal(&meshv1.Receipts{ReceivedThrough: 1, Receipts: []*meshv1.Receipt{{Sequence: 1, Outcome: o}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := decodeReceipts(b, &receiptsFrame{}); !errors.Is(err, errMalformed) {
			t.Errorf("outcome %d: %v", o, err)
		}
	}
}

func TestAClientOfNoKnownOutcomeIsMalformed(t *testing.T) {
	for _, o := range []meshv1.ClientOutcome{0, clientOutcomes, 300, -1} {
		b, err := proto.Marshal(&meshv1.Receipts{ReceivedThrough: 1, Receipts: []*meshv1.Receipt{{
			Sequence: 1, Outcome: meshv1.Outcome_OUTCOME_QUEUED, Clients: []*meshv1.ClientReceipt{{ClientId: "c", Outcome: o}},
		}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := decodeReceipts(b, &receiptsFrame{}); !errors.Is(err, errMalformed) {
			t.Errorf("outcome %d: %v", o, err)
		}
	}
	if last := meshv1.ClientOutcome(clientOutcomes - 1); last != meshv1.ClientOutcome_CLIENT_OUTCOME_DECLINED ||
		len(meshv1.ClientOutcome_name) != clientOutcomes {
		t.Error("the protocol has other outcomes")
	}
}

func TestOutcomesAreThoseOfTheProtocol(t *testing.T) {
	for o := Queued; o < Gone; o++ {
		want := "OUTCOME_" + strings.ToUpper(o.String())
		if got := meshv1.Outcome(o).String(); got != want {
			t.Errorf("%d is %s in the protocol and %s here", o, got, want)
		}
	}
	if Gone.String() != "gone" || Outcome(77).String() != "outcome_77" {
		t.Error("names of outcomes")
	}
}
