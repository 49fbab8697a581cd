package client

import (
	"errors"
	"fmt"
	"io"

	"github.com/beeline-mqtt/beeline/internal/packet"
)

// errUnasked: the server answers what it was not asked.
var errUnasked = errors.New("the server answers what it was not asked")

// read handles what the server sends until the connection ends.
func (n *Conn) read() {
	r := packet.NewReader(struct{ io.Reader }{n.rw})
	welcomed := false
	for {
		first, body, owned, err := r.Next(mostPacket)
		if err != nil {
			n.fail(fmt.Errorf("read: %w", err))
			return
		}
		if !welcomed {
			a, err := packet.DecodeConnack(first, body)
			if err != nil {
				n.fail(fmt.Errorf("CONNACK: %w", err))
				return
			}
			welcomed = true
			n.connacked <- a
			continue
		}
		if err := n.handle(first, body, owned); err != nil {
			n.fail(err)
			return
		}
	}
}

// handle does what one packet asks. An error ends the connection.
func (n *Conn) handle(first byte, body []byte, owned bool) error {
	n.mu.Lock()
	n.pinged = false
	n.mu.Unlock()
	switch t := packet.Type(first >> 4); t {
	case packet.PUBLISH:
		p, err := packet.DecodePublish(packet.V5, first, body, owned)
		if err != nil {
			return fmt.Errorf("PUBLISH: %w", err)
		}
		n.onPublish(n, p)
		return nil
	case packet.PUBACK, packet.PUBREC, packet.PUBCOMP, packet.PUBREL:
		a, err := packet.DecodeAck(packet.V5, first, body)
		if err != nil {
			return fmt.Errorf("%s: %w", t, err)
		}
		return n.acknowledged(a)
	case packet.SUBACK, packet.UNSUBACK:
		a, err := packet.DecodeCodes(first, body)
		if err != nil {
			return fmt.Errorf("%s: %w", t, err)
		}
		want := packet.SUBSCRIBE
		if t == packet.UNSUBACK {
			want = packet.UNSUBSCRIBE
		}
		return n.answer(a.PacketID, want, a.Codes)
	case packet.PINGRESP:
		return nil
	case packet.DISCONNECT:
		d, err := packet.DecodeServerDisconnect(first, body)
		if err != nil {
			return fmt.Errorf("DISCONNECT: %w", err)
		}
		return &DisconnectedError{Code: d.Code, Reason: d.Reason}
	default:
		return fmt.Errorf("%s: %w", t, errUnasked)
	}
}

// acknowledged takes an acknowledgement, of a message of ours or, PUBREL, of the server's.
func (n *Conn) acknowledged(a packet.Ack) error {
	switch {
	case a.Type == packet.PUBREL:
		n.Acknowledge(packet.Ack{Type: packet.PUBCOMP, PacketID: a.PacketID})
		return nil
	case a.Type == packet.PUBREC && !a.Code.Failure():
		n.mu.Lock()
		r := n.asked[a.PacketID]
		if r != nil {
			r.code = a.Code
		}
		n.mu.Unlock()
		n.Acknowledge(packet.Ack{Type: packet.PUBREL, PacketID: a.PacketID})
		return nil
	case a.Type == packet.PUBCOMP:
		n.mu.Lock()
		r := n.asked[a.PacketID]
		if r != nil {
			a.Code = r.code
		}
		n.mu.Unlock()
	}
	if err := n.answer(a.PacketID, packet.PUBLISH, []packet.Code{a.Code}); err != nil {
		return err
	}
	<-n.window
	return nil
}

// answer gives a request its answer.
func (n *Conn) answer(id uint16, kind packet.Type, codes []packet.Code) error {
	n.mu.Lock()
	r := n.asked[id]
	if r != nil && r.kind == kind {
		delete(n.asked, id)
	}
	n.mu.Unlock()
	if r == nil || r.kind != kind || len(codes) == 0 {
		return errUnasked
	}
	r.answer <- codes
	return nil
}
