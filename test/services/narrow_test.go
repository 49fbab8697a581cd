package services

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/cmd/beeline/local"
	"github.com/beeline-mqtt/beeline/test/clustertest"
)

// publishes publishes a message that is acknowledged when do is done.
func (d *device) publishes(topic, payload string, do func()) {
	d.t.Helper()
	var publishing sync.WaitGroup
	publishing.Go(func() { d.publish(topic, payload, 1, nil) })
	do()
	publishing.Wait()
}

// leave ends a stream in order, and waits until its session is away.
func (r *rig) leave(c *consumer) {
	r.t.Helper()
	if err := c.CloseSend(); err != nil {
		r.t.Fatal(err)
	}
	c.ends(codes.OK)
}

// subscribed is what the only session whose client id has a prefix is subscribed to.
func (r *rig) subscribed(prefix string) (filters []string) {
	r.t.Helper()
	admin := adminv1.NewAdminServiceClient(r.conn)
	all, err := admin.ListClients(r.context(), &adminv1.ListClientsRequest{ClientIdPrefix: prefix})
	if err != nil || len(all.GetClients()) != 1 {
		r.t.Fatalf("clients %v, %v, want one", all.GetClients(), err)
	}
	c, err := admin.GetClient(r.context(), &adminv1.GetClientRequest{ClientId: all.GetClients()[0].GetClientId()})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, s := range c.GetSubscriptions() {
		filters = append(filters, s.GetFilter())
	}
	return filters
}

func TestADurableSubscriptionGetsWhatItAsksForNow(t *testing.T) {
	exactlyOnce := filters("a/#")
	exactlyOnce[0].Qos = messagev1.Qos_QOS_EXACTLY_ONCE
	for name, test := range map[string]struct {
		before, now []*messagingv1.SubscribeRequest_Filter
		left        []string
	}{
		"everything, narrowed":      {filters("#"), filters("a/#"), []string{"a/#"}},
		"fewer":                     {filters("a/#", "b/#"), filters("a/#"), []string{"a/#"}},
		"filters that overlap":      {filters("a/#", "+/1", "b/+"), filters("a/#", "a/+"), []string{"a/#", "a/+"}},
		"others than before":        {filters("b/#", "a/1", "a/2"), filters("a/#"), []string{"a/#"}},
		"at another QoS":            {filters("#"), exactlyOnce, []string{"a/#"}},
		"a consumer group, not yet": {filters("#"), filters("a/#"), []string{"$share/g/a/#"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, 2)
			d := r.connect("device", 0, nil)
			c := r.open(&messagingv1.SubscribeRequest_Open{DurableName: "billing", Filters: test.before})
			d.publish("b/1", "not acknowledged", 1, nil)
			c.take("not acknowledged")
			r.leave(c)
			for _, topic := range []string{"b/1", "a/1", "b/2", "a/2"} {
				d.publish(topic, topic, 2, nil)
			}

			o := &messagingv1.SubscribeRequest_Open{DurableName: "billing", Filters: test.now}
			if test.left[0] == "$share/g/a/#" {
				o.ConsumerGroup = "g"
			}
			c = r.open(o)
			if !c.resumed {
				t.Error("it is not resumed")
			}
			if got := r.subscribed("$service-durable-billing/"); !slices.Equal(slices.Sorted(slices.Values(got)), test.left) {
				t.Errorf("subscribed to %v, want %v", got, test.left)
			}
			first, second := c.take("a/1"), c.take("a/2")
			d.publish("b/1", "b again", 1, nil)
			c.acknowledge(second.GetDeliveryId(), first.GetDeliveryId())
			d.publishes("a/1", "a again", func() { c.acknowledge(c.take("a again").GetDeliveryId()) })
			if c.discarded != 3 {
				t.Errorf("%d were discarded, want 3: b/1, twice, and b/2", c.discarded)
			}
			r.leave(c)

			// They are gone for good, also for somebody who asks for them again.
			c = r.open(&messagingv1.SubscribeRequest_Open{DurableName: "billing", Filters: test.before})
			d.publish("b/1", "the end", 1, nil)
			c.take("the end")
			if c.discarded != 0 {
				t.Errorf("%d more were discarded", c.discarded)
			}
		})
	}
}

// TestNothingIsMissedWhileSubscriptionsAreNarrowed: what both the former and the present filters match comes, whenever it is
// published.
func TestNothingIsMissedWhileSubscriptionsAreNarrowed(t *testing.T) {
	r := start(t, 2)
	wide, narrow := filters("#"), filters("a/#")
	o := &messagingv1.SubscribeRequest_Open{DurableName: "billing", Filters: wide, MaxUnacknowledged: 1000}
	r.leave(r.open(o))
	d := r.connect("device", 0, nil)
	const rounds = 6
	published, opened := make(chan int, 1), make(chan struct{})
	go func() {
		n := 0
		for ; ; n++ {
			d.publish(fmt.Sprint("a/", n), fmt.Sprint(n), 1, nil)
			d.publish("b", "", 1, nil)
			select {
			case <-opened:
				published <- n + 1
				return
			default:
			}
		}
	}()
	got := make(map[string]bool)
	take := func(c *consumer) {
		m, err := c.next()
		if err != nil {
			t.Fatal(err)
		}
		got[string(m.GetMessage().GetPayload())] = true
		c.acknowledge(m.GetDeliveryId())
	}
	var c *consumer
	for i := range rounds {
		if o.Filters = narrow; i%2 == 1 {
			o.Filters = wide
		}
		c = r.open(o)
		for range 20 {
			take(c)
		}
		r.leave(c)
	}
	o.Filters = narrow
	c = r.open(o)
	close(opened)
	want := <-published
	delete(got, "")
	for len(got) < want {
		take(c)
	}
}

func TestWhoseLimitsAreNarrowedReadsWithinThem(t *testing.T) {
	var tokens string
	r := start(t, 2, func(c *local.Config) { tokens = filepath.Join(c.Dir, "tokens.yaml") })
	allow := func(filter string) {
		t.Helper()
		text := fmt.Sprintf("tokens:\n- {name: meters, role: viewer, sha256: %x, limits: {subscribe: [%q]}}\n", sha256.Sum256([]byte("secret")), filter)
		if err := os.WriteFile(tokens, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// open opens a stream, which is taken or refused.
	open := func(o *messagingv1.SubscribeRequest_Open) (*consumer, codes.Code) {
		c, err := r.tryOpenAs("secret", o)
		return c, status.Code(err)
	}
	everything := &messagingv1.SubscribeRequest_Open{DurableName: "meters", Filters: filters("#")}
	allow("#")
	var c *consumer
	clustertest.Eventually(t, "it may read everything", func() (yes bool) {
		var code codes.Code
		c, code = open(everything)
		return code == codes.OK
	})
	r.leave(c)
	d := r.connect("device", 1, nil)
	for _, topic := range []string{"secret", "meters/1", "secret/2", "meters/2"} {
		d.publish(topic, topic, 1, nil)
	}
	allow("meters/#")
	clustertest.Eventually(t, "it may read less", func() bool {
		c, code := open(&messagingv1.SubscribeRequest_Open{Filters: filters("#")})
		if code == codes.OK {
			r.leave(c)
		}
		return code == codes.PermissionDenied
	})
	if _, code := open(everything); code != codes.PermissionDenied {
		t.Errorf("everything: %v, want PERMISSION_DENIED", code)
	}
	c, code := open(&messagingv1.SubscribeRequest_Open{DurableName: "meters", Filters: filters("meters/+")})
	if code != codes.OK {
		t.Fatal(code)
	}
	c.take("meters/1")
	c.take("meters/2")
	d.publish("secret", "another secret", 1, nil)
	d.publish("meters/3", "meters/3", 1, nil)
	c.take("meters/3")
	if c.discarded != 2 {
		t.Errorf("%d were discarded, want 2", c.discarded)
	}
}

// TestAGroupLosesNothingWhenOneOfItNarrows: what was given to a session by the group's former filter, before that ended, is
// for another member.
func TestAGroupLosesNothingWhenOneOfItNarrows(t *testing.T) {
	r := start(t, 2)
	instance := func(name string, f string) *messagingv1.SubscribeRequest_Open {
		return &messagingv1.SubscribeRequest_Open{ConsumerGroup: "g", DurableName: name, Filters: filters(f), MaxUnacknowledged: 1000}
	}
	r.leave(r.open(instance("one", "#")))
	two := r.open(instance("two", "#"))
	d := r.connect("device", 0, nil)
	const jobs = 400
	var publishing sync.WaitGroup
	for i := range 4 {
		publishing.Go(func() {
			for j := range jobs / 4 {
				d.publish("work", fmt.Sprint(i, "/", j), 1, nil)
			}
		})
	}
	got := make(map[string]int)
	take := func() {
		m, err := two.next()
		if err != nil {
			t.Fatalf("%v, with %d of %d", err, len(got), jobs)
		}
		two.acknowledge(m.GetDeliveryId())
		got[string(m.GetMessage().GetPayload())]++
	}
	for len(got) < 20 {
		take()
	}
	opened := make(chan *consumer, 1)
	go func() {
		c, err := r.tryOpen(instance("one", "a/#"))
		if err != nil {
			t.Error(err)
		}
		opened <- c
	}()
	for len(got) < jobs {
		take()
	}
	publishing.Wait()
	one := <-opened
	if one == nil {
		return
	}
	if got := r.subscribed("$service-durable-one/"); !cmp.Equal(got, []string{"$share/g/a/#"}) {
		t.Errorf("subscribed to %v", got)
	}
	d.publishes("a/1", "for either", func() { // by # and by a/#: to one of each
		one.acknowledge(one.take("for either").GetDeliveryId())
		two.acknowledge(two.take("for either").GetDeliveryId())
	})
	if one.discarded != 0 {
		t.Errorf("%d were discarded", one.discarded)
	}
}
