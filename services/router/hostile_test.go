package router

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
	"github.com/beeline-mqtt/beeline/internal/listener/listenertest"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// greeting is a CONNECT with all that it can have, connect bytes long, and a PINGREQ right behind it.
func greeting(t *testing.T, version byte, id string) (all []byte, connect int) {
	t.Helper()
	pk := rawmqtt.ConnectPacket(version, id, rawmqtt.Durable(60), func(pk *packets.Packet) {
		c := &pk.Connect
		c.UsernameFlag, c.PasswordFlag, c.WillFlag, c.WillQos = true, true, true, 1
		c.Username, c.Password, c.WillTopic, c.WillPayload = []byte("user"), []byte("password"), "will", bytes.Repeat([]byte("w"), 300)
	})
	if version == v31 {
		pk.Connect.ProtocolName = []byte("MQIsdp")
	}
	b := rawmqtt.Bytes(t, pk)
	return append(b, 0xC0, 0), len(b)
}

func TestAConnectComesInAsManySegmentsAsItLikes(t *testing.T) {
	certs := listenertest.Issue(t)
	r := start(t, clustertest.StartEtcd(t).Client(), func(c *Config) {
		c.Listeners = append(c.Listeners, Listener{Name: "tls", Address: "127.0.0.1:0", CertFile: certs.Server.Cert, KeyFile: certs.Server.Key})
	})
	n := r.nodes(1)[0]
	for _, size := range []int{1, 2, 7, 100} {
		for _, version := range []byte{v31, v311, v5} {
			for _, name := range []string{"mqtt", "tls"} {
				nc := dial(t, r.Addr(name).String())
				if name == "tls" {
					nc = tls.Client(nc, certs.Trusting(t, certs.Client))
				}
				all, connect := greeting(t, version, "split")
				for rest := all; len(rest) > 0; rest = rest[min(size, len(rest)):] {
					if _, err := nc.Write(rest[:min(size, len(rest))]); err != nil { // Nagle is off: one segment
						t.Fatal(err)
					}
				}
				// The stand-in for a node has what it read with the CONNECT, and sends the rest back behind its CONNACK.
				got := (<-n.arrived).Raw
				ack := map[byte]int{v31: 4, v311: 4, v5: 5}[version]
				answer := make([]byte, ack+len(all)-min(len(got), len(all)))
				_ = nc.SetReadDeadline(time.Now().Add(patience))
				if _, err := io.ReadFull(nc, answer); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(all, append(got, answer[ack:]...)); diff != "" || len(got) < connect {
					t.Errorf("MQTT %d over %s, %d bytes a segment: the node gets something else: %s", version, name, size, diff)
				}
				_ = nc.Close()
			}
		}
	}
}

// patience bounds the waits of clients.
const patience = 20 * time.Second

// Two thousand sockets send one byte and wait. They go when their time is over; who sends a CONNECT meanwhile is served.
func TestThousandsThatSendNothingGoInTimeAndKeepNobodyOut(t *testing.T) {
	const n, limit = 2000, 3 * time.Second
	r := start(t, clustertest.StartEtcd(t).Client(), func(c *Config) { c.ConnectTimeout = limit })
	nodes := r.nodes(1)
	var ends sync.WaitGroup
	took := make([]time.Duration, n)
	for i := range n {
		nc := dial(t, r.address())
		began := time.Now()
		if _, err := nc.Write([]byte{0x10}); err != nil {
			t.Fatal(err)
		}
		ends.Go(func() {
			_ = nc.SetReadDeadline(time.Now().Add(patience))
			if _, err := nc.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("socket %d is answered, or not closed: %v", i, err)
			}
			took[i] = time.Since(began)
			_ = nc.Close()
		})
		if i%100 == 0 {
			c := rawmqtt.Connect(t, r.address(), v5, "served")
			at(t, nodes, "served")
			echoes(t, c)
			c.Close()
		}
	}
	ends.Wait()
	for i, d := range took {
		if d < limit-time.Second || d > limit+5*time.Second {
			t.Errorf("socket %d is closed after %v, want %v", i, d, limit)
		}
	}
	clustertest.Wait(t, "nothing is open", func() bool { return r.metric("beeline_router_connections") == 0 })
	if refused := r.metric("beeline_router_refused_total", "reason=timeout"); refused != n {
		t.Errorf("%v are counted, want %d", refused, n)
	}
}

func TestGarbageIsNeverPassedOn(t *testing.T) {
	r := start(t, clustertest.StartEtcd(t).Client(), func(c *Config) { c.ConnectTimeout = time.Second })
	n := r.nodes(1)[0]
	begin := [][]byte{nil, {0x10}, {0x10, 0x7f}, []byte("\x10\x7f\x00\x04MQTT"), []byte("\x10\x7f\x00\x04MQTT\x05\xff"), []byte("\x10\x7f\x00\x06MQIsdp\x03")}
	random := rand.NewChaCha8([32]byte{})
	var sending sync.WaitGroup
	for i := range 600 {
		garbage := make([]byte, 200)
		_, _ = random.Read(garbage) // it has no errors
		nc := dial(t, r.address())
		sending.Go(func() {
			defer nc.Close()
			_, _ = nc.Write(append(bytes.Clone(begin[i%len(begin)]), garbage...)) // which may fail: it is closed early
			_ = nc.SetReadDeadline(time.Now().Add(patience))
			for err := error(nil); !errors.Is(err, io.EOF); _, err = nc.Read(garbage) {
				var op *net.OpError
				if errors.As(err, &op) {
					if op.Timeout() {
						t.Errorf("%x does not end the connection", garbage)
					}
					return // it was reset
				}
			}
		})
	}
	sending.Wait()
	if got := len(n.arrived); got > 0 {
		t.Errorf("the node got %d", got)
	}
}
