package conformance

import (
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

func TestKeepAlive(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-3.1.2-22 silence for one and a half times the Keep Alive closes", both, func(s *stage) {
		forever := s.client(0, "forever", keepAlive(0))
		began := time.Now()
		c := s.subscriber(keepAlive(1))
		s.closes(c, 0x8d)
		if took := time.Since(began); took < 1500*time.Millisecond || took > 8*time.Second {
			s.Errorf("closed after %v, want somewhat more than 1.5 s", took)
		}
		// 3.1.2.10: with a Keep Alive of 0 nothing is expected of the client.
		s.serves(forever)
	})
	everywhere(t, "MQTT-3.1.2-22 what the client receives is no sign of life", both, func(s *stage) {
		c, p := s.subscriber(keepAlive(2)), s.publisher()
		c.MustSubscribe(s.topic("a"), 0)
		stop := make(chan struct{})
		defer close(stop)
		go func() {
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			message := frame(packets.Publish<<4, text(s.topic("a")), s.props5())
			_ = p.Conn().SetWriteDeadline(time.Time{})
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
					if _, err := p.Conn().Write(message); err != nil {
						return
					}
				}
			}
		}()
		for {
			pk, err := c.Next(8 * time.Second)
			if err != nil {
				break
			}
			if pk.FixedHeader.Type == packets.Disconnect {
				s.code(pk.ReasonCode, 0x8d)
			}
		}
	})
	everywhere(t, "MQTT-3.12.4-1 MQTT-3.1.2-22 any packet keeps a connection, PINGREQ is answered", both, func(s *stage) {
		c := s.subscriber(keepAlive(2))
		tick := time.NewTicker(800 * time.Millisecond)
		defer tick.Stop()
		for i := range 6 {
			<-tick.C
			if i%2 == 0 {
				c.Send(pingreq())
				c.Expect(packets.Pingresp)
				continue
			}
			c.SendRaw(frame(packets.Publish<<4, text(s.topic("nobody")), s.props5()))
		}
		s.serves(c)
	})
}
