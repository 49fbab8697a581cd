package consume

import (
	"errors"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/internal/packet"
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
	most    int // that may be given without acknowledgement
	queue   []waiting
	bytes   int // of queue
	dropped uint64
	given   []given // from delivery id first on
	first   uint64
	open    int // of given, without acknowledgement
}

// waiting is a message that was received.
type waiting struct {
	ack     packet.Ack // what acknowledges it; of type 0 at QoS 0
	size    int
	message *messagingv1.ReceivedMessage
}

// given is a message that the stream has.
type given struct {
	ack          packet.Ack
	acknowledged bool
}

func newWindow(most int) *window { return &window{most: most, first: 1} }

// receive takes a message, and reports whether it has not been dropped. It shares memory with p.
func (w *window) receive(p packet.Publish) bool {
	size := len(p.Topic) + len(p.Payload) + 200
	if p.QoS == 0 && (len(w.queue) >= mostQueued || w.bytes+size > mostQueuedBytes) {
		w.dropped++
		return false
	}
	publisher := packet.TakePublisher(p.Props)
	x := waiting{size: size, message: &messagingv1.ReceivedMessage{
		Message: envelope.Seal(&p), Publisher: publisherOf(publisher), Duplicate: p.Dup,
	}}
	switch p.QoS {
	case 1:
		x.ack = packet.Ack{Type: packet.PUBACK, PacketID: p.PacketID}
	case 2:
		x.ack = packet.Ack{Type: packet.PUBREC, PacketID: p.PacketID}
	default:
	}
	w.queue = append(w.queue, x)
	w.bytes += size
	return true
}

// full reports whether nothing more is to be received for now.
func (w *window) full() bool { return w.bytes > holdBytes }

// next takes what the stream may be given, in one response; nil: nothing.
func (w *window) next() *messagingv1.SubscribeResponse_Messages {
	n, bytes := 0, 0
	for n < len(w.queue) && n < mostInResponse && w.open+n < w.most {
		if bytes += w.queue[n].size; bytes > mostResponseBytes && n > 0 {
			break
		}
		n++
	}
	if n == 0 && w.dropped == 0 {
		return nil
	}
	r := &messagingv1.SubscribeResponse_Messages{Messages: make([]*messagingv1.ReceivedMessage, n), Dropped: w.dropped}
	for i, x := range w.queue[:n] {
		x.message.DeliveryId = w.first + uint64(len(w.given))
		r.Messages[i] = x.message
		w.given = append(w.given, given{ack: x.ack})
		w.bytes -= x.size
	}
	clear(w.queue[:n])
	w.queue = w.queue[n:]
	w.open += n
	w.dropped = 0
	return r
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
	var due []packet.Ack
	n := 0
	for ; n < len(w.given) && w.given[n].acknowledged; n++ {
		if w.given[n].ack.Type != 0 {
			due = append(due, w.given[n].ack)
		}
	}
	w.given = w.given[n:]
	w.first += uint64(n)
	return due, nil
}
