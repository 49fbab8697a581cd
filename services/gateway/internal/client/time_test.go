package client_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/internal/engine"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/pki"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// In these tests time goes by only when everybody waits, and connections are pipes, which hold no bytes: a
// write returns when the other side has read it.

// inTime runs f for both versions with a clock of its own.
func inTime(t *testing.T, f func(t *testing.T, version byte)) {
	t.Helper()
	versions(t, func(t *testing.T, version byte) {
		synctest.Test(t, func(t *testing.T) { f(t, version) })
	})
}

// expectAfter expects ch to give way when exactly d has passed since began.
func expectAfter[T any](t *testing.T, ch <-chan T, began time.Time, d time.Duration, what string) {
	t.Helper()
	<-ch
	if took := time.Since(began); took != d {
		t.Errorf("%s took %v, want %v", what, took, d)
	}
}

func TestAConnectionHasConnectTimeoutForItsConnect(t *testing.T) {
	half := rawmqtt.Bytes(t, rawmqtt.ConnectPacket(v3, "a"))[:9]
	for name, sent := range map[string][]byte{"nothing sent": nil, "half a CONNECT": half} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := quiet(t)
				began := time.Now()
				c := r.pipe(v3)
				c.SendRaw(sent)
				expectAfter(t, r.served, began, r.limits.ConnectTimeout, "the connection")
				if r.metric("beeline_gateway_connects_refused_total", "reason=no_connect") != 1 {
					t.Error("not counted")
				}
			})
		})
	}
}

func TestBytesThatTrickleInDoNotExtendConnectTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := quiet(t)
		began := time.Now()
		near, far := net.Pipe()
		r.serve(near)
		var trickle sync.WaitGroup
		defer trickle.Wait()
		trickle.Go(func() {
			for _, b := range rawmqtt.Bytes(t, rawmqtt.ConnectPacket(v3, "a")) {
				time.Sleep(time.Second)
				if _, err := far.Write([]byte{b}); err != nil {
					return
				}
			}
		})
		expectAfter(t, r.served, began, r.limits.ConnectTimeout, "the connection")
		_ = far.Close()
	})
}

func TestAHalfOpenTLSHandshakeIsBoundedByConnectTimeout(t *testing.T) {
	cfg := serverTLS(t)
	cases := map[string]func(t *testing.T, far net.Conn){
		"silent client": func(*testing.T, net.Conn) {},
		"client that does not read": func(t *testing.T, far net.Conn) {
			hello := clientHello(t)
			if _, err := far.Write(hello); err != nil {
				t.Error(err)
			}
		},
	}
	for name, behave := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := quiet(t)
				near, far := net.Pipe()
				defer far.Close()
				began := time.Now()
				r.serve(rawTLS{tls.Server(near, cfg)})
				behave(t, far)
				expectAfter(t, r.served, began, r.limits.ConnectTimeout, "the connection")
			})
		})
	}
}

// rawTLS closes without a goodbye, as the listener's connections do.
type rawTLS struct{ *tls.Conn }

func (c rawTLS) Close() error { return c.NetConn().Close() }

func serverTLS(t *testing.T) *tls.Config {
	t.Helper()
	dir := t.TempDir()
	ca, err := pki.Open(dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	files, err := ca.Issue(pki.Request{Name: "gateway"})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}}
}

// clientHello returns the first flight of a TLS client.
func clientHello(t *testing.T) []byte {
	t.Helper()
	near, far := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = tls.Client(near, &tls.Config{ServerName: "localhost"}).Handshake()
	}()
	b := make([]byte, 4096)
	n, err := far.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	_ = far.Close()
	<-done
	return b[:n]
}

func TestAClientOf311IsNotReadWhileItsMessagesWaitForTheCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := quiet(t, limit(func(l *client.Limits) { l.ReceiveMaximum = 2 }))
		testPause(t, r, v3, func(i int) string { return fmt.Sprint(i) })
	})
}

func TestNoClientIsReadWhileItsMessagesHaveTooManyBytes(t *testing.T) {
	inTime(t, func(t *testing.T, version byte) {
		r := quiet(t, limit(func(l *client.Limits) { l.UnsettledBytes = 3000 }))
		testPause(t, r, version, func(int) string { return strings.Repeat("x", 2000) })
	})
}

// testPause has a client send two messages, which bring it over its bounds, a third and a PINGREQ.
func testPause(t *testing.T, r *rig, version byte, payload func(int) string) {
	t.Helper()
	c := r.pipe(version)
	c.Hello("a", keepAlive(1))
	attached := r.broker.client("a")
	answers := make(chan byte, 10)
	go func() {
		defer close(answers)
		for {
			p, err := c.Next(10 * time.Hour)
			if err != nil {
				return
			}
			answers <- p.FixedHeader.Type
		}
	}()
	var sent []byte
	for i := range 3 {
		sent = append(sent, rawmqtt.Bytes(t, withVersion(publishPacket("held/t", payload(i), 1, uint16(i+1)), version))...)
	}
	sent = append(sent, 0xC0, 0)
	go func() {
		_ = c.Conn().SetWriteDeadline(time.Time{})
		for len(sent) > 0 { // bit by bit: what is in the gateway's buffer has been read
			n, err := c.Conn().Write(sent[:min(10, len(sent))])
			if err != nil {
				return
			}
			sent = sent[n:]
		}
	}()
	expect := func(held int, want ...byte) {
		t.Helper()
		synctest.Wait()
		if n := len(r.broker.held); n != held {
			t.Errorf("%d messages wait for the cluster, want %d", n, held)
		}
		var got []byte
		for len(answers) > 0 {
			got = append(got, <-answers)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("answers %v, want %v", got, want)
		}
	}
	expect(2)
	attached.Sweep(time.Now().Add(5*time.Second), false) // its keepalive is suspended
	time.Sleep(5 * time.Second)
	(<-r.broker.held).settle(packet.Success)
	expect(2, packets.Puback) // the third message came in, and the PINGREQ not
	(<-r.broker.held).settle(packet.Success)
	expect(1, packets.Puback, packets.Pingresp)
	(<-r.broker.held).settle(packet.Success)
	expect(0, packets.Puback)
	attached.Sweep(time.Now().Add(time.Second), false) // counted anew from the end of the pause
	synctest.Wait()
	select {
	case <-attached.Stopped():
		t.Error("stopped for want of keepalive")
	default:
	}
	c.Close()
}

func TestAPausedClientEndsWhenItIsStopped(t *testing.T) {
	inTime(t, func(t *testing.T, version byte) {
		r := quiet(t, limit(func(l *client.Limits) { l.UnsettledBytes = 1 }))
		c := r.pipe(version)
		c.Hello("a")
		attached := r.broker.client("a")
		c.Send(publishPacket("held/t", "x", 1, 1))
		synctest.Wait()
		go func() { _, _ = io.Copy(io.Discard, c.Conn()) }()
		attached.Stop(client.TakenOver())
		<-attached.Gone()
	})
}

func TestATakeoverOfAClientThatDoesNotReadIsOverWithinPatience(t *testing.T) {
	inTime(t, func(t *testing.T, version byte) {
		r := quiet(t)
		c := r.pipe(version)
		c.Hello("a", will("wills", "gone", 0))
		attached := r.broker.client("a")
		for range 10 {
			deliver(attached, delivery("t", strings.Repeat("x", 10_000), 1))
		}
		synctest.Wait() // a write is under way, and nobody reads
		began := time.Now()
		second := r.pipe(version)
		second.Hello("a")
		if took := time.Since(began); took > r.limits.Patience {
			t.Errorf("the new connection waited %v", took)
		}
		<-attached.Gone()
		if attached.Ending().WithoutWill {
			t.Error("its will is not to be published")
		}
		second.ExpectNothing()
	})
}

func TestAWriteThatIsNotDoneWithinWriteTimeoutEndsTheConnection(t *testing.T) {
	inTime(t, func(t *testing.T, version byte) {
		r := quiet(t)
		c := r.pipe(version)
		c.Hello("a")
		attached := r.broker.client("a")
		began := time.Now()
		k := newTicket()
		d := delivery("t", "x", 1)
		d.Ticket, d.Until = k, engine.UntilAcked
		deliver(attached, d)
		expectAfter(t, attached.Stopped(), began, r.limits.WriteTimeout, "the write")
		if o := <-k; o != engine.Ended {
			t.Errorf("the delivery settled as %v", o)
		}
		<-attached.Gone()
		<-r.served
		if r.metric("beeline_gateway_clients_closed_total", "reason=slow") != 1 {
			t.Error("not counted as slow")
		}
	})
}

func TestQoS0IsDroppedForAFullReceiverAndMakesWayForWhatIsMore(t *testing.T) {
	inTime(t, func(t *testing.T, version byte) {
		r := quiet(t, shallow)
		c := r.pipe(version)
		c.Hello("slow")
		attached := r.broker.client("slow")
		payload := strings.Repeat("x", 100_000)
		for deliver(attached, delivery("t", payload, 0)) != engine.Dropped {
			synctest.Wait()
		}
		if n := r.metric("beeline_gateway_messages_dropped_total", "reason=queue_full"); n != 1 {
			t.Errorf("%v drops counted", n)
		}
		if o := deliver(attached, delivery("t", payload, 1)); o != engine.Queued {
			t.Fatalf("%v; a QoS 0 message makes way", o)
		}
		if n := r.metric("beeline_gateway_messages_dropped_total", "reason=shed"); n != 1 {
			t.Errorf("%v counted as shed", n)
		}
		wantDrops(t, attached, "t 0 shed by ", "t 0 queue_full by ")
	})
}

func TestKeepAliveCountsFromTheEndOfAPause(t *testing.T) {
	inTime(t, func(t *testing.T, version byte) {
		r := quiet(t, limit(func(l *client.Limits) { l.UnsettledBytes = 1 }))
		c := r.pipe(version)
		c.Hello("a", keepAlive(10))
		attached := r.broker.client("a")
		c.Send(publishPacket("held/t", "x", 1, 1))
		time.Sleep(9 * time.Second)
		go func() { (<-r.broker.held).settle(packet.Success) }()
		c.ExpectAck(packets.Puback, 1)
		time.Sleep(14 * time.Second)
		attached.Sweep(time.Now(), false)
		c.ExpectNothing()
	})
}

func TestAMessageThatExpiresInTheQueueIsNotSent(t *testing.T) {
	inTime(t, func(t *testing.T, version byte) {
		r := quiet(t, limit(func(l *client.Limits) { l.SendMaximum = 1 }))
		c := r.pipe(version)
		c.Hello("a")
		attached := r.broker.client("a")
		deliver(attached, delivery("t", "in flight", 1))
		first := c.Expect(packets.Publish)
		expiring := func(payload string, in time.Duration) client.Delivery {
			d := delivery("t", payload, 1)
			d.Message.Expires = time.Now().Add(in)
			return d
		}
		deliver(attached, expiring("two seconds", 2*time.Second))
		deliver(attached, expiring("ten seconds", 10*time.Second))
		time.Sleep(2500 * time.Millisecond)
		c.Ack(packets.Puback, first.PacketID)
		p := c.ReceivePayload("ten seconds")
		if version == v5 && p.Properties.MessageExpiryInterval != 8 {
			t.Errorf("Message Expiry Interval %d, want what is left: 8", p.Properties.MessageExpiryInterval)
		}
		if r.metric("beeline_gateway_messages_dropped_total", "reason=expired") != 1 {
			t.Error("not counted as expired")
		}
		wantDrops(t, attached, "t 1 expired by ")
	})
}

// delivery makes a message for one client.
func delivery(topic, payload string, qos byte) client.Delivery {
	return client.Delivery{Message: &message.Message{Topic: topic, Payload: []byte(payload), QoS: qos}, QoS: qos}
}
