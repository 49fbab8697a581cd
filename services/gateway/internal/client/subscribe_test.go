package client_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/rules"
)

func TestSubackHasACodeForEachFilter(t *testing.T) {
	cases := []struct {
		name   string
		filter string
		qos    byte
		v5     byte // 3.1.1 has 0x80 for all failures
	}{
		{"QoS 0", "a/b", 0, 0},
		{"QoS 1", "a/+/#", 1, 1},
		{"QoS 2", "#", 2, 2},
		{"shared", "$share/g/a/+", 1, 1},
		{"# not alone in its level", "a#", 1, 0x8F},
		{"# not last", "#/a", 1, 0x8F},
		{"+ not alone in its level", "a/+b", 1, 0x8F},
		{"empty", "", 1, 0x8F},
		{"too long", strings.Repeat("abc/", 300), 1, 0x8F},
		{"too deep", strings.Repeat("/", 32), 1, 0x8F},
		{"direct topics", "p2p/a/#", 1, 0x8F},
		{"direct topics, shared", "$share/g/p2p/a/#", 1, 0x8F},
		{"shared without a filter", "$share/g", 1, 0x8F},
		{"shared without a group", "$share//a", 1, 0x8F},
		{"shared with a wildcard in the group", "$share/g+/a", 1, 0x8F},
		{"denied", "secret", 1, 0x87},
		{"denied, shared", "$share/g/secret", 1, 0x87},
		{"refused by the cluster", "unroutable", 1, 0x80},
	}
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t, deny(rules.Subscribe, "secret"), func(r *rig) {
			r.broker.onSubscribe = func(filter string, done func(error) bool) bool {
				if filter == "unroutable" {
					done(errTest)
					return true
				}
				return false
			}
		})
		c := r.connect(version, "a")
		var all packets.Subscriptions
		var want []byte
		for _, tc := range cases {
			code := tc.v5
			if version == v3 && code >= 0x80 {
				code = 0x80
			}
			t.Run(tc.name, func(t *testing.T) {
				got := c.Subscribe(packets.Subscription{Filter: tc.filter, Qos: tc.qos}).ReasonCodes
				if diff := cmp.Diff([]byte{code}, got); diff != "" {
					t.Fatal(diff)
				}
			})
			all = append(all, packets.Subscription{Filter: tc.filter, Qos: tc.qos})
			want = append(want, code)
		}
		if diff := cmp.Diff(want, c.Subscribe(all...).ReasonCodes); diff != "" {
			t.Error("in one packet: " + diff)
		}
		filters := r.broker.client("a").Filters()
		slices.Sort(filters)
		if diff := cmp.Diff([]string{"#", "$share/g/a/+", "a/+/#", "a/b"}, filters); diff != "" {
			t.Error("subscribed to: " + diff)
		}
	})
}

func TestTheOptionsOfASubscriptionReachTheBroker(t *testing.T) {
	r := newRig(t)
	c, attached := r.attached(v5, "a")
	c.Send(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: 1,
		Properties: packets.Properties{SubscriptionIdentifier: []int{300}},
		Filters:    packets.Subscriptions{{Filter: "t", Qos: 2, NoLocal: true, RetainAsPublished: true, RetainHandling: 1}},
	})
	c.ExpectAck(packets.Suback, 1)
	r.broker.mu.Lock()
	defer r.broker.mu.Unlock()
	want := map[string]subscriptions.Options{"t": {QoS: 2, NoLocal: true, RetainAsPublished: true, RetainHandling: 1, ID: 300}}
	if diff := cmp.Diff(want, r.broker.subs[attached]); diff != "" {
		t.Error(diff)
	}
}

func TestNoLocalOnASharedSubscriptionIsAProtocolError(t *testing.T) {
	r := newRig(t)
	c := r.connect(v5, "a")
	c.Send(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: 1,
		Filters: packets.Subscriptions{{Filter: "$share/g/t", NoLocal: true}},
	})
	if got := c.ExpectClosed(); got != 0x82 {
		t.Fatalf("DISCONNECT %#x", got)
	}
}

func TestSubackComesWhenTheWholeClusterRoutesAllItsFilters(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		dones := make(chan func(error) bool, 10)
		r := newRig(t, func(r *rig) {
			r.broker.onSubscribe = func(filter string, done func(error) bool) bool {
				if strings.HasPrefix(filter, "slow") {
					dones <- done
					return true
				}
				return false
			}
		})
		c := r.connect(version, "a")
		c.Send(packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: 9,
			Filters: packets.Subscriptions{{Filter: "slow/1", Qos: 1}, {Filter: "fast", Qos: 1}, {Filter: "slow/2", Qos: 2}, {Filter: "slow/3", Qos: 2}},
		})
		c.ExpectNothing()
		c.MustSubscribe("another", 1) // does not wait for the first
		first, second, third := receive(t, dones, "a subscription"), receive(t, dones, "a subscription"), receive(t, dones, "a subscription")
		third(nil)
		second(errTest)
		c.ExpectNothing()
		first(nil)
		ack := c.ExpectAck(packets.Suback, 9)
		if diff := cmp.Diff([]byte{1, 1, 0x80, 2}, ack.ReasonCodes); diff != "" {
			t.Error(diff)
		}
	})
}

func TestASubscriptionThatIsAskedForAgainIsNotWithdrawnWithTheFirstRequest(t *testing.T) {
	dones := make(chan func(error) bool, 2)
	r := newRig(t, func(r *rig) {
		r.broker.onSubscribe = func(_ string, done func(error) bool) bool {
			dones <- done
			return true
		}
	})
	c := r.connect(v5, "a")
	subscribe := func(id uint16) func(error) bool {
		c.Send(packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: id, Filters: packets.Subscriptions{{Filter: "t", Qos: 1}},
		})
		return receive(t, dones, "a subscription")
	}
	first, second := subscribe(1), subscribe(2)
	if first(errTest) {
		t.Error("the subscription is withdrawn although it has been asked for again")
	}
	if ack := c.ExpectAck(packets.Suback, 1); ack.ReasonCodes[0] != 0x80 {
		t.Errorf("first SUBACK %#x", ack.ReasonCodes)
	}
	if second(nil) {
		t.Error("the subscription is withdrawn although it is in force")
	}
	if ack := c.ExpectAck(packets.Suback, 2); ack.ReasonCodes[0] != 1 {
		t.Errorf("second SUBACK %#x", ack.ReasonCodes)
	}
	if !subscribe(3)(errTest) {
		t.Error("the newest request fails, and the subscription stays")
	}
}

func TestAClientWithManyUnansweredSubscribesIsNotReadUntilOneIsAnswered(t *testing.T) {
	dones := make(chan func(error) bool, 100)
	r := newRig(t, func(r *rig) {
		r.broker.onSubscribe = func(_ string, done func(error) bool) bool {
			dones <- done
			return true
		}
	})
	c := r.connect(v5, "a")
	const sent, taken = 30, 17
	for i := range sent {
		c.Send(packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: uint16(i + 1),
			Filters: packets.Subscriptions{{Filter: "t/" + strconv.Itoa(i)}},
		})
	}
	var waiting []func(error) bool
	for range taken {
		waiting = append(waiting, receive(t, dones, "a subscription"))
	}
	for i := taken; i < sent; i++ {
		select {
		case <-dones:
			t.Fatalf("SUBSCRIBE %d is taken with %d unanswered", i+1, len(waiting))
		default:
		}
		waiting[0](nil)
		c.ExpectAck(packets.Suback, uint16(i-taken+1))
		waiting = append(waiting[1:], receive(t, dones, "a subscription"))
	}
}

func TestFiltersWithManyWildcardsAreRefused(t *testing.T) {
	r := newRig(t, func(r *rig) { r.limits.FilterWildcards = 2 })
	c := r.connect(v5, "a")
	ack := c.Subscribe(packets.Subscription{Filter: "+/+/#"}, packets.Subscription{Filter: "+/a/+/+"}, packets.Subscription{Filter: "$share/g/+/+/+"})
	if diff := cmp.Diff([]byte{0, 0x97, 0x97}, ack.ReasonCodes); diff != "" {
		t.Error(diff)
	}
}

func TestASubscriptionThatIsInForceAfterItsClientHasGoneIsNobodysBusiness(t *testing.T) {
	for name, err := range map[string]error{"in force": nil, "refused": errTest} {
		t.Run(name, func(t *testing.T) {
			dones := make(chan func(error) bool, 1)
			r := newRig(t, func(r *rig) {
				r.broker.onSubscribe = func(_ string, done func(error) bool) bool {
					dones <- done
					return true
				}
			})
			c := r.connect(v5, "a")
			c.Send(packets.Packet{
				FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: 9, Filters: packets.Subscriptions{{Filter: "t"}},
			})
			done := receive(t, dones, "a subscription")
			c.Close()
			r.awaitServed(1)
			done(err)
		})
	}
}

func TestAClientHasSoManySubscriptionsAndNoMore(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		refused := byte(0x97)
		if version == v3 {
			refused = 0x80
		}
		r := newRig(t, limit(func(l *client.Limits) { l.Subscriptions = 2 }), func(r *rig) {
			r.broker.onSubscribe = func(filter string, done func(error) bool) bool {
				if filter == "unroutable" {
					done(errTest)
				}
				return filter == "unroutable"
			}
		})
		c := r.connect(version, "a")
		for _, step := range []struct {
			filter string
			want   byte
		}{{"1", 0}, {"unroutable", 0x80}, {"2", 0}, {"3", refused}, {"2", 0}} {
			if got := c.Subscribe(packets.Subscription{Filter: step.filter}).ReasonCodes; got[0] != step.want {
				t.Fatalf("SUBACK %#x for %q, want %#x", got[0], step.filter, step.want)
			}
		}
		c.Unsubscribe("1")
		c.MustSubscribe("3", 0)
	})
}

func TestTooManyFiltersInOnePacketEndTheConnection(t *testing.T) {
	var filters []string
	var subs packets.Subscriptions
	for i := range 5 {
		filters = append(filters, fmt.Sprint(i))
		subs = append(subs, packets.Subscription{Filter: fmt.Sprint(i)})
	}
	kinds := map[string]packets.Packet{
		"SUBSCRIBE":   {FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: 99, Filters: subs},
		"UNSUBSCRIBE": {FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe}, PacketID: 99, Filters: subs},
	}
	for name, p := range kinds {
		t.Run(name, func(t *testing.T) {
			versions(t, func(t *testing.T, version byte) {
				r := newRig(t, limit(func(l *client.Limits) { l.FiltersPerPacket = 4 }))
				c := r.connect(version, "a")
				c.Subscribe(subs[:4]...)
				c.Unsubscribe(filters[:4]...)
				c.Send(p)
				if got := c.ExpectClosed(); version == v5 && got != 0x97 {
					t.Fatalf("DISCONNECT %#x", got)
				}
				c.Close()
				r.awaitServed(1)
				if r.metric("beeline_gateway_clients_closed_total", "reason=quota") != 1 {
					t.Error("not counted as quota")
				}
			})
		})
	}
}

func TestUnsubackSaysWhichSubscriptionsThereWere(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t)
		c := r.connect(version, "a")
		c.MustSubscribe("t/1", 0)
		c.MustSubscribe("t/2", 0)
		got := c.Unsubscribe("t/1", "t/3", "a#").ReasonCodes
		var want []byte
		if version == v5 {
			want = []byte{0, 0x11, 0x11}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		c.Publish("t/1", "x", 0)
		c.Publish("t/2", "y", 0)
		c.ReceivePayload("y")
		if diff := cmp.Diff([]string{"t/2"}, r.broker.client("a").Filters()); diff != "" {
			t.Error(diff)
		}
	})
}
