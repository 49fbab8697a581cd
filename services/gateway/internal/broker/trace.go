package broker

import (
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/trace"
)

// traceReceived shows that a message was taken from its publisher, and, in time, what that is told; p is nil at QoS 0.
func (b *Broker) traceReceived(m *message.Message, p *publication) {
	b.deps.Trace.Step(trace.Received, m, "", "")
	if p != nil {
		p.Tell(func(code packet.Code) { b.deps.Trace.Step(trace.Answered, m, "", code.String()) })
	}
}

// traceDrop shows that a message goes no further here.
func (b *Broker) traceDrop(m *message.Message, why dropReason) {
	if b.deps.Trace.On() {
		b.deps.Trace.Step(trace.Dropped, m, "", string(why))
	}
}
