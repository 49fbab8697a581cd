package broker

import (
	"fmt"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/internal/packet"
)

// A flood to names that nobody has must not keep others from finding their receivers: the line for look-ups is
// bounded, QoS 0 leaves half of it free, and no read is so long that it runs out of time as a whole.
func TestAFloodToUnknownClientsLeavesRoomForOthers(t *testing.T) {
	g := start(t, 2, options{config: func(c *Config) { c.UnresolvedBytes = 1 << 30 }})
	g[1].connect(v5, "x")
	flood, pub := g[0].connect(v5, "flood"), g[0].connect(v5, "pub")

	looking, look := make(chan struct{}, 1), make(chan struct{})
	longest := 0
	g[0].lookUps(func(ids []string) error {
		select {
		case looking <- struct{}{}:
		default:
		}
		<-look
		longest = max(longest, len(ids)) // one read at a time, and the last is over when we look
		return nil
	})
	const most = mostUnresolved/2 + 100
	for i := range most {
		send(flood, fmt.Sprintf("p2p/nobody%d/n", i), "", 0)
	}
	handled(flood)
	receive(t, looking, "a look-up")
	if n := g[0].metric("beeline_gateway_forwards_dropped_total", "reason=unresolved"); n != 100 {
		t.Errorf("%v messages were shed, want 100", n)
	}
	send(pub, "p2p/x/n", "m", 1)
	handled(pub)
	close(look)
	if ack := pub.Expect(packets.Puback); ack.ReasonCode != byte(packet.Success) {
		t.Errorf("PUBACK with %#x, want 0", ack.ReasonCode)
	}
	if longest > lookUpsTogether {
		t.Errorf("%d were looked up together, at most %d should be", longest, lookUpsTogether)
	}
	eventually(t, "nothing waits", func() bool { return g[0].metric("beeline_gateway_unresolved_bytes") == 0 })
}

func TestALineOfUnknownClientsThatIsFullIsToldToPublishers(t *testing.T) {
	g := start(t, 1, options{config: func(c *Config) { c.UnresolvedBytes = 1 << 30 }})
	pub := g[0].connect(v5, "pub")
	look := make(chan struct{})
	g[0].lookUps(func([]string) error {
		<-look
		return nil
	})
	g[0].direct.mu.Lock()
	for i := range mostUnresolved {
		g[0].direct.entry(fmt.Sprint(i))
	}
	g[0].direct.mu.Unlock()
	if ack := pub.Publish("p2p/x/n", "m", 1); ack.ReasonCode != byte(packet.QuotaExceeded) {
		t.Errorf("PUBACK with %#x, want 0x97", ack.ReasonCode)
	}
	send(pub, "p2p/7/n", "m", 1) // is in the line already
	handled(pub)
	close(look)
}
