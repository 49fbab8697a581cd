package conformance

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/mochi-mqtt/server/v2/packets"
	"go.uber.org/goleak"

	"github.com/beeline-mqtt/beeline/services/gateway"
	"github.com/beeline-mqtt/beeline/test/clustertest"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// gateways is how many there are: one for publishers, one for subscribers, one for whoever else there is.
const gateways = 3

// cluster is what all tests share. TestMain sets it.
var cluster *clustertest.Cluster

// limits are those of every gateway.
var limits = gateway.DefaultConfig().Limits

// stages counts the stages, which gives them their names.
var stages atomic.Int64

func TestMain(m *testing.M) {
	flag.Parse()
	// Tests wait more than they work: for a Keep Alive or an expiry to pass, for instance.
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	mqtt.ERROR, mqtt.CRITICAL = slog.NewLogLogger(slog.DiscardHandler, 0), slog.NewLogLogger(slog.DiscardHandler, 0)
	log := io.Discard
	if testing.Verbose() {
		log = os.Stderr
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "conformance")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if cluster, err = clustertest.Open(ctx, dir, gateways, log); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := cluster.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "stop the cluster:", err)
		return 1
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "after the end of the cluster:", err)
		return 1
	}
	return code
}

// The versions that a statement applies to.
var (
	both = []byte{rawmqtt.V311, rawmqtt.V5}
	v5   = []byte{rawmqtt.V5}
	v311 = []byte{rawmqtt.V311}
)

// placements say on which gateways the clients of a stage are.
var placements = []struct {
	name string
	at   [gateways]int
}{
	{"one gateway", [gateways]int{0, 0, 0}},
	{"different gateways", [gateways]int{0, 1, 2}},
}

// stage is one run of a test: its version of the protocol, its gateways, and names that no other run uses.
type stage struct {
	*testing.T
	version byte
	at      [gateways]int
	name    string
}

// everywhere runs f as a parallel sub-test for each version and placement.
func everywhere(t *testing.T, name string, versions []byte, f func(s *stage)) {
	t.Helper()
	stagesOf(t, name, versions, true, f)
}

// alone is everywhere for tests that see what the clients of other tests do.
func alone(t *testing.T, name string, versions []byte, f func(s *stage)) {
	t.Helper()
	stagesOf(t, name, versions, false, f)
}

func stagesOf(t *testing.T, name string, versions []byte, parallel bool, f func(s *stage)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		if parallel {
			t.Parallel()
		}
		for _, v := range versions {
			for _, p := range placements {
				t.Run(versionName(v)+", "+p.name, func(t *testing.T) {
					if parallel {
						t.Parallel()
					}
					f(&stage{T: t, version: v, at: p.at, name: fmt.Sprintf("s%d", stages.Add(1))})
				})
			}
		}
	})
}

func versionName(v byte) string {
	if v == rawmqtt.V311 {
		return "3.1.1"
	}
	return "5"
}

// is5 reports whether the stage speaks MQTT 5.
func (s *stage) is5() bool { return s.version == rawmqtt.V5 }

// topic returns a topic that no other stage uses.
func (s *stage) topic(rest string) string { return s.name + "/" + rest }

// id returns a client id that no other stage uses.
func (s *stage) id(role string) string { return s.name + "-" + role }

// address is where the clients of the stage's n-th gateway connect.
func (s *stage) address(n int) string { return cluster.MQTT(s.at[n%gateways]) }

// publisher connects a client at the stage's first gateway.
func (s *stage) publisher(opts ...rawmqtt.Option) *rawmqtt.Client {
	s.Helper()
	return s.client(0, "publisher", opts...)
}

// subscriber connects a client at the second gateway.
func (s *stage) subscriber(opts ...rawmqtt.Option) *rawmqtt.Client {
	s.Helper()
	return s.client(1, "subscriber", opts...)
}

// client connects a client at the n-th gateway.
func (s *stage) client(n int, role string, opts ...rawmqtt.Option) *rawmqtt.Client {
	s.Helper()
	return rawmqtt.Connect(s.T, s.address(n), s.version, s.id(role), opts...)
}

// come connects a client that wants its session to go on, at the n-th gateway, and says whether there was one.
func (s *stage) come(n int, role string, opts ...rawmqtt.Option) (c *rawmqtt.Client, present bool) {
	s.Helper()
	return rawmqtt.Come(s.T, s.address(n), s.version, s.id(role), append([]rawmqtt.Option{durable}, opts...)...)
}

// begin connects a client, at the n-th gateway, that has no session and wants one.
func (s *stage) begin(n int, role string, opts ...rawmqtt.Option) *rawmqtt.Client {
	s.Helper()
	c, present := s.come(n, role, opts...)
	if present {
		s.Fatalf("%q has a session already", s.id(role))
	}
	return c
}

// back connects a client, at the n-th gateway, that has a session.
func (s *stage) back(n int, role string, opts ...rawmqtt.Option) *rawmqtt.Client {
	s.Helper()
	c, present := s.come(n, role, opts...)
	if !present {
		s.Fatalf("the session of %q is not present", s.id(role))
	}
	return c
}

// leave disconnects a client; when it returns the server has ended the connection.
func (s *stage) leave(c *rawmqtt.Client) {
	s.Helper()
	c.SendRaw(frame(packets.Disconnect << 4))
	s.closes(c, 0)
}

// dial opens a connection to the n-th gateway and sends nothing.
func (s *stage) dial(n int) *rawmqtt.Client {
	s.Helper()
	return rawmqtt.Dial(s.T, s.address(n), s.version)
}

// code expects the reason that an MQTT 5 client is told; one of 3.1.1 is told nothing.
func (s *stage) code(got, want byte) {
	s.Helper()
	if !s.is5() {
		want = 0
	}
	if got != want {
		s.Fatalf("reason %#x, want %#x", got, want)
	}
}

// closes expects the server to close, in MQTT 5 with a DISCONNECT that gives the reason.
func (s *stage) closes(c *rawmqtt.Client, want byte) {
	s.Helper()
	s.code(c.ExpectClosed(), want)
}

// serves shows that the gateway of a client goes on serving others: it answers this one.
func (s *stage) serves(c *rawmqtt.Client) {
	s.Helper()
	c.ExpectNothing()
}

// confirmed publishes at QoS 1 and expects success, or 0x10 where nobody is to get the message. When it returns the
// message, and every one that the client published before, is in the queues of its receivers.
func (s *stage) confirmed(c *rawmqtt.Client, topic, payload string, want byte) {
	s.Helper()
	got := c.Publish(topic, payload, 1).ReasonCode
	// 0x10 is a courtesy: the last subscriber may be gone without the publisher's gateway knowing.
	if got != want && (want != 0x10 || got != 0) && c.Version == rawmqtt.V5 {
		s.Fatalf("PUBACK %#x, want %#x", got, want)
	}
}

// Options of CONNECT.

func keepAlive(seconds uint16) rawmqtt.Option {
	return func(p *packets.Packet) { p.Connect.Keepalive = seconds }
}

func durable(p *packets.Packet) { rawmqtt.Durable(3600)(p) }

// clean asks for a session without a past.
func clean(p *packets.Packet) { p.Connect.Clean = true }

func receiveMaximum(n uint16) rawmqtt.Option {
	return func(p *packets.Packet) { p.Properties.ReceiveMaximum = n }
}

func maximumPacketSize(n uint32) rawmqtt.Option {
	return func(p *packets.Packet) { p.Properties.MaximumPacketSize = n }
}

func topicAliasMaximum(n uint16) rawmqtt.Option {
	return func(p *packets.Packet) { p.Properties.TopicAliasMaximum = n }
}

func will(topic, payload string, qos byte) rawmqtt.Option {
	return func(p *packets.Packet) {
		p.Connect.WillFlag = true
		p.Connect.WillTopic, p.Connect.WillPayload, p.Connect.WillQos = topic, []byte(payload), qos
	}
}
