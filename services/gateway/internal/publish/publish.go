// Package publish takes what services publish: the streams on which routers bring it. It checks what a client's PUBLISH is
// checked for, gives it to the broker in the order in which it came, and answers each message when its fate is known.
//
// One goroutine reads a stream, and another writes the results that wait, together. What is under way is bounded: beyond,
// the stream is not read, and reported messages, which may wait for minutes, are refused while others still find room.
package publish

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/internal/turn"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/broker"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
)

// Broker is what a stream needs of the broker.
type Broker interface {
	// PublishFrom sends a message to everybody it is for. done may be called before it returns, and must not block.
	PublishFrom(m *message.Message, done func(packet.Code), t *turn.Turn)
	// PublishReported is PublishFrom, and tells what became of the message at each receiver.
	PublishReported(m *message.Message, terms broker.Terms, tell func(broker.Report), t *turn.Turn)
	// Retain stores a retained message. done is called later. client.ErrQuota is the only error.
	Retain(m *message.Message, done func(error))
}

// Deps are what the streams of one incarnation share.
type Deps struct {
	Broker Broker
	Limits *client.Limits
	// Incarnation and NextSequence name messages.
	Incarnation  string
	NextSequence func() uint64
	// Serving reports whether the incarnation is in force; looked at after every read.
	Serving func() bool
	Metrics *Metrics
}

// Metrics count what comes on streams.
type Metrics struct {
	streams         prometheus.Gauge
	plain, reported prometheus.Counter
	refused         prometheus.Counter
}

// NewMetrics registers the metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	messages := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "beeline_gateway_service_messages_total", Help: "Messages of services, by whether their receivers are reported on.",
	}, []string{"reported"})
	m := &Metrics{
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "beeline_gateway_service_streams", Help: "Streams on which routers publish now.",
		}),
		plain: messages.WithLabelValues("no"), reported: messages.WithLabelValues("yes"),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "beeline_gateway_service_messages_refused_total", Help: "Messages of services that were not published.",
		}),
	}
	r.MustRegister(m.streams, messages, m.refused)
	return m
}

// message makes the message of a publication, or returns the reason code with which it is refused.
func (d *Deps) message(p *gatewayv1.Publication, now time.Time) (*message.Message, packet.Code) {
	w := p.GetMessage()
	if d.Limits.ValidName(w.GetTopic()) != nil || topic.IsUser(w.GetTopic()) != (len(p.GetClientIds()) > 0) {
		return nil, packet.TopicNameInvalid
	}
	m, err := journal.NewMessageFromWire(w, now)
	if err != nil || !wellFormed(m.Props) {
		return nil, packet.MalformedPacket
	}
	if packet.PublishSize(packet.V5, m, packet.PublishOptions{QoS: m.QoS, Retain: m.Retain}) > int(d.Limits.PacketBytes) {
		return nil, packet.PacketTooLarge
	}
	m.ID = message.ID{Origin: d.Incarnation, Seq: d.NextSequence()}
	return m, packet.Success
}

// termsOf are what a report asks for. ok is false when no router makes it.
func termsOf(r *gatewayv1.Report) (terms broker.Terms, ok bool) {
	terms.Within = time.Duration(r.GetWithinMs()) * time.Millisecond
	switch r.GetWait() {
	case gatewayv1.Report_WAIT_UNSPECIFIED, gatewayv1.Report_WAIT_DELIVERED:
		terms.Wait = broker.UntilDelivered
	case gatewayv1.Report_WAIT_ACCEPTED:
		terms.Wait = broker.UntilAccepted
	case gatewayv1.Report_WAIT_ACKNOWLEDGED:
		terms.Wait = broker.UntilAcknowledged
	default:
		return terms, false
	}
	return terms, terms.Within > 0
}

// wellFormed reports whether the texts among properties are ones that MQTT allows (MQTT-1.5.4-2, MQTT-3.3.2-14). That they
// are UTF-8 gRPC has seen to.
func wellFormed(p *message.Properties) bool {
	if p == nil {
		return true
	}
	ok := !strings.Contains(p.ContentType, "\x00") && !strings.ContainsAny(p.ResponseTopic, "\x00+#")
	for i := range p.User {
		u := &p.User[i]
		ok = ok && !strings.Contains(u.Name, "\x00") && !strings.Contains(u.Value, "\x00")
	}
	return ok
}
