package foreign_test

import (
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-mqtt/beeline/services/router/internal/foreign"
)

func TestTheFirstCheckDecidesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		n.up("10.0.0.1:1883")
		d := onStatic("10.0.0.1:1883", "10.0.0.2:1883")
		d.Static.Nodes[0].Weight = 3
		began := time.Now()
		v := watch(t, d, n.deps())
		pass(0)
		want := foreign.View{Known: true, Since: began, Nodes: []foreign.Node{
			{ID: "10.0.0.1:1883", Address: "10.0.0.1:1883", Weight: 3, Active: true},
			{ID: "10.0.0.2:1883", Address: "10.0.0.2:1883", Weight: 1},
		}}
		if diff := cmp.Diff(want, v.last()); diff != "" || v.count() != 1 {
			t.Errorf("%d views, %s", v.count(), diff)
		}
		pass(time.Hour)
		if v.count() != 1 {
			t.Errorf("%d views although nothing has changed", v.count())
		}
		if got := n.count("10.0.0.2:1883"); got != 721 {
			t.Errorf("%d checks in an hour, want one each 5 s", got)
		}
	})
}

func TestANodeFallsAfterThreeFailedChecksAndRisesAfterTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		n.up("10.0.0.1:1883")
		v := watch(t, onStatic("10.0.0.1:1883"), n.deps())
		pass(time.Second)
		n.down("10.0.0.1:1883")
		pass(13 * time.Second) // checks at 5 and 10
		v.expect("10.0.0.1:1883 10.0.0.1:1883")
		pass(time.Second) // and at 15
		pass(time.Second)
		v.expect("10.0.0.1:1883 10.0.0.1:1883 -")
		n.up("10.0.0.1:1883")
		pass(4 * time.Second) // 20
		v.expect("10.0.0.1:1883 10.0.0.1:1883 -")
		pass(5 * time.Second) // 25
		v.expect("10.0.0.1:1883 10.0.0.1:1883")
		if v.count() != 3 {
			t.Errorf("%d views, want 3", v.count())
		}
	})
}

func TestANodeThatFailsNowAndThenStaysActive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		n.up("10.0.0.1:1883")
		v := watch(t, onStatic("10.0.0.1:1883"), n.deps())
		pass(time.Second)
		for range 10 {
			n.down("10.0.0.1:1883")
			pass(10 * time.Second)
			n.up("10.0.0.1:1883")
			pass(5 * time.Second)
		}
		if v.count() != 1 {
			t.Errorf("%d views, want 1", v.count())
		}
	})
}

func TestADefinitionSaysHowNodesAreChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		n.hang("10.0.0.1:1883")
		d := onStatic("10.0.0.1:1883")
		d.Static.CheckInterval, d.Static.CheckTimeout = foreign.Duration(30*time.Second), foreign.Duration(10*time.Second)
		d.Static.Rise, d.Static.Fall = 1, 1
		v := watch(t, d, n.deps())
		pass(9 * time.Second)
		if v.count() != 0 {
			t.Error("the check has ended before its time-out")
		}
		pass(time.Second)
		v.expect("10.0.0.1:1883 10.0.0.1:1883 -")
		n.up("10.0.0.1:1883")
		pass(29 * time.Second)
		v.expect("10.0.0.1:1883 10.0.0.1:1883 -")
		pass(time.Second)
		v.expect("10.0.0.1:1883 10.0.0.1:1883")
		n.down("10.0.0.1:1883")
		pass(30 * time.Second)
		v.expect("10.0.0.1:1883 10.0.0.1:1883 -")
	})
}

func TestANodeThatSwallowsEverythingDoesNotHideTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		n.hang("10.0.0.1:1883")
		n.up("10.0.0.2:1883")
		v := watch(t, onStatic("10.0.0.1:1883", "10.0.0.2:1883"), n.deps())
		pass(100 * time.Millisecond)
		v.expect("10.0.0.1:1883 10.0.0.1:1883 -", "10.0.0.2:1883 10.0.0.2:1883")
		pass(time.Minute)
		if v.count() != 1 {
			t.Errorf("%d views, want 1", v.count())
		}
	})
}

func TestSixteenChecksAreMadeAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		var addresses []string
		for i := range 40 {
			addresses = append(addresses, fmt.Sprintf("10.0.1.%d:1883", i))
		}
		n.hang(addresses...)
		watch(t, onStatic(addresses...), n.deps())
		pass(time.Second)
		if got := n.atOnce(); got != 16 {
			t.Errorf("%d at once, want 16", got)
		}
		pass(10 * time.Second)
		if got := n.atOnce(); got != 16 {
			t.Errorf("%d at once, want 16", got)
		}
		for _, a := range addresses {
			if n.count(a) == 0 {
				t.Errorf("%s has not been checked", a)
			}
		}
	})
}

func TestANameWithSeveralAddressesGivesSeveralNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		n.up("10.0.0.1:1883", "10.0.0.2:1883", "10.0.0.3:1883")
		n.name("brokers.example", "10.0.0.2", "10.0.0.1", "2001:db8::1", "10.0.0.2")
		d := onStatic("brokers.example:1883", "10.0.0.1:1883")
		d.Static.Nodes[0].Weight = 2
		v := watch(t, d, n.deps())
		pass(time.Second)
		v.expect("10.0.0.1:1883 10.0.0.1:1883", "10.0.0.2:1883 10.0.0.2:1883")
		if got := v.last().Nodes[1].Weight; got != 2 {
			t.Errorf("the weight of a node is %d, want that of its entry", got)
		}

		n.name("brokers.example", "10.0.0.1", "10.0.0.2", "10.0.0.3")
		pass(5 * time.Second)
		v.expect("10.0.0.1:1883 10.0.0.1:1883", "10.0.0.2:1883 10.0.0.2:1883", "10.0.0.3:1883 10.0.0.3:1883")

		n.name("brokers.example", "10.0.0.3")
		pass(5 * time.Second)
		v.expect("brokers.example:1883 10.0.0.3:1883", "10.0.0.1:1883 10.0.0.1:1883")
		if v.count() != 3 {
			t.Errorf("%d views, want 3", v.count())
		}
	})
}

func TestANodeKeepsItsIDWhenItsNamePointsElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		n.up("10.0.0.1:1883", "10.0.0.2:1883", "[2001:db8::1]:1883")
		n.name("broker-0", "10.0.0.1")
		v := watch(t, onStatic("broker-0:1883"), n.deps())
		pass(time.Second)
		v.expect("broker-0:1883 10.0.0.1:1883")
		n.name("broker-0", "10.0.0.2")
		pass(5 * time.Second)
		v.expect("broker-0:1883 10.0.0.2:1883")
		n.name("broker-0", "2001:db8::1")
		pass(5 * time.Second)
		v.expect("broker-0:1883 [2001:db8::1]:1883")
	})
}

func TestWhileANameCannotBeResolvedItsLastAddressesStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		n.up("10.0.0.1:1883", "10.0.0.2:1883")
		n.name("a", "10.0.0.1")
		v := watch(t, onStatic("a:1883", "b:1883", "c:1883"), n.deps())
		began := time.Now()
		pass(time.Second)
		v.expect("a:1883 10.0.0.1:1883", "b:1883 b:1883 -", "c:1883 c:1883 -")
		v.expectErr("resolve b: no such host, and 1 more names")

		n.name("b", "10.0.0.2")
		n.name("c", "10.0.0.2")
		pass(5 * time.Second)
		v.expect("a:1883 10.0.0.1:1883", "b:1883 10.0.0.2:1883", "c:1883 10.0.0.2:1883")
		v.expectErr("")
		if got := v.last().Since.Sub(began); got != 5*time.Second {
			t.Errorf("without error since %v, want 5s", got)
		}

		n.name("a")
		n.down("10.0.0.2:1883")
		pass(20 * time.Second)
		v.expect("a:1883 10.0.0.1:1883", "b:1883 10.0.0.2:1883 -", "c:1883 10.0.0.2:1883 -")
		v.expectErr("resolve a: no such host")
		if got := v.last().Since.Sub(began); got != 10*time.Second {
			t.Errorf("with an error since %v, want 10s", got)
		}
	})
}

// Real listeners, the real dialer, and intervals of a second.
func TestListenersComeAndGo(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	d := onStatic(address)
	d.Static.CheckInterval, d.Static.Rise, d.Static.Fall = foreign.Duration(time.Second), 1, 1
	v := watch(t, d, foreign.Deps{})
	v.await("it is active", func(v foreign.View) bool { return v.Nodes[0].Active })
	_ = l.Close()
	v.await("it is not active", func(v foreign.View) bool { return !v.Nodes[0].Active })
	if l, err = net.Listen("tcp", address); err != nil {
		t.Skipf("somebody else has the port now: %v", err)
	}
	defer l.Close()
	v.await("it is active again", func(v foreign.View) bool { return v.Nodes[0].Active })
}
