package client_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/rules"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// subscribedFor subscribes a client on its behalf; the code comes out of the channel.
func subscribedFor(t *testing.T, c *client.Client, filter string, o subscriptions.Options) <-chan packet.Code {
	t.Helper()
	done := make(chan packet.Code, 1)
	if err := c.SubscribeFor(filter, o, func(code packet.Code) { done <- code }); err != nil {
		t.Fatalf("SubscribeFor(%q): %v", filter, err)
	}
	return done
}

func TestAClientIsSubscribedOnItsBehalfAndNotTold(t *testing.T) {
	r := newRig(t)
	c, a := r.attached(v5, "a", lasting)
	r.shelf.hold()
	o := subscriptions.Options{QoS: 1, ID: 7}
	done := subscribedFor(t, a, "x/+", o)
	if got := r.broker.matching("x/1")[a]; got != o {
		t.Errorf("the broker has %+v, want %+v", got, o)
	}
	select {
	case <-done:
		t.Error("it is answered before it is stored")
	default:
	}
	r.shelf.letGo()
	if code := receive(t, done, "the answer"); code != packet.GrantedQoS1 {
		t.Errorf("code %v, want granted QoS 1", code)
	}
	if kinds := r.shelf.kinds("a"); len(kinds) != 1 || kinds[0] != journal.Subscribed {
		t.Errorf("stored %v, want one subscription", kinds)
	}
	c.ExpectNothing()
	unsubscribed := make(chan packet.Code, 1)
	for _, want := range []packet.Code{packet.Success, packet.NoSubscriptionExisted} {
		if err := a.UnsubscribeFor("x/+", func(code packet.Code) { unsubscribed <- code }); err != nil {
			t.Fatal(err)
		}
		if code := receive(t, unsubscribed, "the answer"); code != want {
			t.Errorf("UnsubscribeFor: %v, want %v", code, want)
		}
	}
	if len(r.broker.matching("x/1")) > 0 || len(a.Filters()) > 0 {
		t.Error("the subscription is still there")
	}
	c.ExpectNothing()
}

func TestWhatAClientMayNotSubscribeToIsRefusedOnItsBehalf(t *testing.T) {
	r := newRig(t, deny(rules.Subscribe, "secret"), func(r *rig) {
		r.limits.Subscriptions = 1
		r.broker.onSubscribe = func(filter string, done func(error) bool) bool {
			if filter == "unroutable" {
				done(errTest)
				return true
			}
			return false
		}
	})
	c, a := r.attached(v5, "a")
	for filter, want := range map[string]packet.Code{
		"a/#/b": packet.TopicFilterInvalid, "secret": packet.NotAuthorized, "unroutable": packet.UnspecifiedError,
	} {
		if code := receive(t, subscribedFor(t, a, filter, subscriptions.Options{}), "the answer"); code != want {
			t.Errorf("%q: %v, want %v", filter, code, want)
		}
	}
	receive(t, subscribedFor(t, a, "first", subscriptions.Options{}), "the answer")
	if code := receive(t, subscribedFor(t, a, "second", subscriptions.Options{}), "the answer"); code != packet.QuotaExceeded {
		t.Errorf("one subscription too many: %v, want quota exceeded", code)
	}
	var refused *packet.Error
	if err := a.SubscribeFor("$share/g/x", subscriptions.Options{NoLocal: true}, nil); !errors.As(err, &refused) {
		t.Errorf("No Local on a shared subscription: %v, want a protocol error", err)
	}
	c.ExpectNothing()
}

func TestNobodyIsSubscribedWhoseConnectionHasEnded(t *testing.T) {
	r := newRig(t)
	c, a := r.attached(v5, "a")
	c.Disconnect()
	receive(t, a.Gone(), "its being gone")
	if err := a.SubscribeFor("x", subscriptions.Options{}, nil); !errors.Is(err, client.ErrNotOpen) {
		t.Errorf("SubscribeFor: %v, want ErrNotOpen", err)
	}
	if err := a.UnsubscribeFor("x", nil); !errors.Is(err, client.ErrNotOpen) {
		t.Errorf("UnsubscribeFor: %v, want ErrNotOpen", err)
	}
	if _, open := a.Inspect(time.Now()); open {
		t.Error("it is shown as if it were open")
	}
}

// TestASubscriptionThatMeetsTheEndOfTheConnectionIsNotLeftBehind: Detach drops what there is, so nothing may come after it.
func TestASubscriptionThatMeetsTheEndOfTheConnectionIsNotLeftBehind(t *testing.T) {
	r := newRig(t)
	for i := range 100 {
		c, a := r.attached(v5, fmt.Sprintf("a%d", i))
		begun, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			for n := range 1000 {
				if err := a.SubscribeFor(fmt.Sprintf("x/%d", n%100), subscriptions.Options{}, func(packet.Code) {}); err != nil {
					return
				}
				if n == 0 {
					close(begun)
				}
			}
		}()
		receive(t, begun, "the first subscription")
		c.Close()
		receive(t, a.Gone(), "its being gone")
		receive(t, ended, "the end of subscribing")
		for n := range 100 {
			if _, left := r.broker.matching(fmt.Sprintf("x/%d", n))[a]; left {
				t.Fatalf("round %d: it still subscribes to x/%d", i, n)
			}
		}
	}
}

func TestAnOperatorEndsAConnectionOrTheSessionWithIt(t *testing.T) {
	for name, withSession := range map[string]bool{"the connection": false, "the session": true} {
		t.Run(name, func(t *testing.T) {
			versions(t, func(t *testing.T, version byte) {
				r := newRig(t)
				c, a := r.attached(version, "a", lasting)
				if !a.Stop(client.ByOperator(withSession)) {
					t.Error("somebody was first")
				}
				if got := c.ExpectClosed(); version == v5 && got != 0x98 {
					t.Errorf("DISCONNECT %#x, want 0x98", got)
				}
				c.Close()
				receive(t, a.Gone(), "its being gone")
				r.awaitServed(1)
				e := a.Ending()
				if e.Reason != "kicked" || e.WithoutWill || (e.NewExpiry != nil) != withSession || withSession != (e.Expiry == 0) || a.Continues() == withSession {
					t.Errorf("ending %+v, session goes on: %v", e, a.Continues())
				}
				if n := r.metric("beeline_gateway_clients_closed_total", "reason=operator"); n != 1 {
					t.Errorf("%v counted", n)
				}
			})
		})
	}
}

func TestAClientIsShownAsItIs(t *testing.T) {
	r := newRig(t)
	before := time.Now()
	c, a := r.attached(v5, "a", lasting, receiveMaximum(1))
	c.MustSubscribe("x", 1)
	c.Publish("t", "x", 1)
	deliver(a, numbered("g", 1, 1))
	deliver(a, numbered("g", 2, 1))
	i, open := a.Inspect(time.Now())
	if !open {
		t.Fatal("it is not open")
	}
	if i.Listener != "tcp" || i.Remote != c.Conn().LocalAddr().String() || i.Since.Before(before) || i.Idle < 0 || i.Idle > rawmqtt.Patience || i.KeepAlive != time.Minute {
		t.Errorf("connection: %+v", i)
	}
	if !i.Durable || i.Subscriptions != 1 || i.ReceiveMaximum != 1 || i.InFlight != 1 || i.Queued < 1 || i.Counters.Received != 1 {
		t.Errorf("session: %+v", i)
	}
}
