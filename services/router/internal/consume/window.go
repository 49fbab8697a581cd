package consume

import (
	"errors"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/services/router/internal/envelope"
)

// Bounds of what waits for a stream.
const (
	// mostQueued and mostQueuedBytes: beyond one of them QoS 0 messages are dropped. Those of QoS 1 and 2 are bounded in number
	// by the Receive Maximum.
	mostQueued      = 10_000
	mostQueuedBytes = 4 << 20
	// holdBytes: beyond it nothing more is read.
	holdBytes = 16 << 20
	// mostInResponse and mostResponseBytes bound one response, the latter unless a single message is larger.
	mostInResponse    = 1000
	mostResponseBytes = 1 << 20
)

// errNotDelivered: an acknowledgement of what was not delivered.
var errNotDelivered = errors.New("acknowledges a delivery id that there was not")

// window is what waits for a stream, and what it has been given and has not acknowledged. It is pure.
type window struct {
	most      int                  // that may be given without acknowledgement
	asked     *topic.Map[struct{}] // what the stream asks for
	matches   []*struct{}          // room for those of one message
	queue     []waiting
	bytes     int // of queue
	dropped   uint64
	discarded uint64
	given     []given // from delivery id first on
	first     uint64
	open      int // of given, without acknowledgement
}

// waiting is a message that was received.
type waiting struct {
	ack     packet.Ack // what acknowledges it; of type 0 at QoS 0
	size    int
	message *messagingv1.ReceivedMessage // nil: the stream does not ask for it
}

// given is a message that the stream has, or one in its place that it does not ask for.
type given struct {
	ack          packet.Ack
	acknowledged bool
}

// newWindow is the window of a stream that may have most messages without acknowledgement, and asks for what matches asked.
func newWindow(most int, asked *topic.Map[struct{}]) *window {
	return &window{most: most, asked: asked, first: 1}
}

// receive takes a message, and reports whether it has not been dropped. It shares memory with p.
func (w *window) receive(p packet.Publish) bool {
	if w.matches = w.asked.AppendMatches(w.matches[:0], p.Topic); len(w.matches) == 0 {
		w.refuse(p)
		return true
	}
	size := len(p.Topic) + len(p.Payload) + 200
	if p.QoS == 0 && (len(w.queue) >= mostQueued || w.bytes+size > mostQueuedBytes) {
		w.dropped++
		return false
	}
	publisher := packet.TakePublisher(p.Props)
	x := waiting{ack: ackOf(p), size: size, message: &messagingv1.ReceivedMessage{
		Message: envelope.Seal(&p), Publisher: publisherOf(publisher), Duplicate: p.Dup,
	}}
	w.queue = append(w.queue, x)
	w.bytes += size
	return true
}

// refuse takes a message that the stream does not ask for. It is refused when its turn to be acknowledged comes: there is no
// other way to be rid of it.
func (w *window) refuse(p packet.Publish) {
	if p.QoS == 0 {
		w.discarded++
		return
	}
	x := waiting{ack: ackOf(p)}
	x.ack.Code = packet.ImplementationSpecificError // valid, and not wanted here (3.4.2.1)
	w.queue = append(w.queue, x)
}

// ackOf is what acknowledges a message; of type 0 at QoS 0.
func ackOf(p packet.Publish) packet.Ack {
	switch p.QoS {
	case 1:
		return packet.Ack{Type: packet.PUBACK, PacketID: p.PacketID}
	case 2:
		return packet.Ack{Type: packet.PUBREC, PacketID: p.PacketID}
	default:
		return packet.Ack{}
	}
}

// full reports whether nothing more is to be received for now.
func (w *window) full() bool { return w.bytes > holdBytes }

// next takes what the stream may be given, in one response; nil: nothing. What it does not ask for is passed over, and due
// to the gateway with what was acknowledged behind it.
func (w *window) next() (r *messagingv1.SubscribeResponse_Messages, due []packet.Ack) {
	if len(w.queue) == 0 && w.dropped == 0 && w.discarded == 0 {
		return nil, nil
	}
	r = &messagingv1.SubscribeResponse_Messages{}
	n, bytes := 0, 0
	for ; n < len(w.queue); n++ {
		x := w.queue[n]
		if x.message == nil {
			w.given = append(w.given, given{ack: x.ack, acknowledged: true})
			w.discarded++
			continue
		}
		if bytes += x.size; w.open == w.most || len(r.Messages) == mostInResponse || len(r.Messages) > 0 && bytes > mostResponseBytes {
			break
		}
		x.message.DeliveryId = w.first + uint64(len(w.given))
		r.Messages = append(r.Messages, x.message)
		w.given = append(w.given, given{ack: x.ack})
		w.bytes -= x.size
		w.open++
	}
	clear(w.queue[:n])
	w.queue = w.queue[n:]
	if len(r.Messages) == 0 && w.dropped == 0 && w.discarded == 0 {
		return nil, nil
	}
	r.Dropped, r.Discarded = w.dropped, w.discarded
	w.dropped, w.discarded = 0, 0
	return r, w.due()
}

// acknowledge takes acknowledgements of the stream, and returns those that are due to the gateway. What is acknowledged
// already is passed over.
func (w *window) acknowledge(ids []uint64) ([]packet.Ack, error) {
	for _, id := range ids {
		if id == 0 || id >= w.first+uint64(len(w.given)) {
			return nil, errNotDelivered
		}
		if id < w.first || w.given[id-w.first].acknowledged {
			continue
		}
		w.given[id-w.first].acknowledged = true
		w.open--
	}
	return w.due(), nil
}

// due takes the acknowledgements up to the first message that has none.
func (w *window) due() (due []packet.Ack) {
	n := 0
	for ; n < len(w.given) && w.given[n].acknowledged; n++ {
		if w.given[n].ack.Type != 0 {
			due = append(due, w.given[n].ack)
		}
	}
	w.given = w.given[n:]
	w.first += uint64(n)
	return due
}
