package presence

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func newBoard() *Board { return NewBoard(NewHistory("i", 10_000)) }

// told is what has happened, in words.
func told(b *Board) []string {
	events, _, _ := b.After(0, "", all())
	var said []string
	for _, e := range events {
		s := fmt.Sprintf("%s %s@%d", e.Client, e.Gateway, e.Epoch)
		if !e.Connected {
			s += " " + string(e.Reason)
		}
		if e.Durable {
			s += " durable"
		}
		said = append(said, s)
	}
	return said
}

func at(gateway string, epoch uint64) Connection { return Connection{Gateway: gateway, Epoch: epoch} }

func durable(gateway string, epoch uint64) Connection {
	return Connection{Gateway: gateway, Epoch: epoch, Durable: true}
}

func TestWhatIsToldOfConnections(t *testing.T) {
	now := time.Unix(100, 0)
	tests := []struct {
		name string
		do   func(b *Board)
		want []string
		left int // who is connected then
	}{
		{"it comes and goes", func(b *Board) {
			b.Connect(now, "x", at("A", 5))
			b.Leave(now, "x", "A", 5, Client, false)
		}, []string{"x A@5", "x A@5 client"}, 0},
		{"a release that is repeated", func(b *Board) {
			b.Connect(now, "x", at("A", 5))
			b.Leave(now, "x", "A", 5, Client, false)
			b.Leave(now, "x", "A", 5, Client, false)
		}, []string{"x A@5", "x A@5 client"}, 0},
		{"a session goes on", func(b *Board) {
			b.Connect(now, "x", durable("A", 5))
			b.Leave(now, "x", "A", 5, Network, false)
		}, []string{"x A@5 durable", "x A@5 network durable"}, 0},
		{"a session ends with its connection", func(b *Board) {
			b.Connect(now, "x", durable("A", 5))
			b.Leave(now, "x", "A", 5, Client, true)
		}, []string{"x A@5 durable", "x A@5 client"}, 0},
		{"a takeover: the former gateway is done first", func(b *Board) {
			b.Connect(now, "x", at("A", 5))
			b.Evicted(now, "x", "A", 7)
			b.Connect(now, "x", at("B", 7))
			b.Leave(now, "x", "A", 5, Network, false)
		}, []string{"x A@5", "x A@5 replaced", "x B@7"}, 1},
		{"a takeover: the former gateway is silent, then late", func(b *Board) {
			b.Connect(now, "x", at("A", 5))
			b.Connect(now, "x", at("B", 7))
			b.Evicted(now, "x", "A", 7)
			b.Leave(now, "x", "A", 5, Network, false)
		}, []string{"x A@5", "x A@5 replaced", "x B@7"}, 1},
		{"at the same gateway", func(b *Board) {
			b.Connect(now, "x", at("A", 5))
			b.Connect(now, "x", at("A", 6))
			b.Leave(now, "x", "A", 5, Client, false)
			b.Evicted(now, "x", "A", 6)
		}, []string{"x A@5", "x A@5 replaced", "x A@6"}, 1},
		{"a claim whose answer was lost is given up, whichever epoch it had", func(b *Board) {
			b.Connect(now, "x", at("A", 5))
			b.Leave(now, "x", "B", 0, Unknown, false)
			b.Leave(now, "x", "A", 0, Unknown, false)
		}, []string{"x A@5", "x A@5 unknown"}, 0},
		{"who is shown has connected before", func(b *Board) {
			b.Show(now, "x", durable("A", 5))
			b.Show(now, "x", durable("A", 5))
			b.Leave(now, "x", "A", 5, Moved, false)
		}, []string{"x A@5 moved durable"}, 0},
		{"an old holding is shown late", func(b *Board) {
			b.Connect(now, "x", at("B", 7))
			b.Show(now, "x", at("A", 5))
			b.Evicted(now, "x", "A", 7)
		}, []string{"x B@7"}, 1},
		{"an old holding is shown first", func(b *Board) {
			b.Show(now, "x", at("A", 5))
			b.Show(now, "x", at("B", 7))
			b.Evicted(now, "x", "A", 7)
		}, []string{"x A@5 replaced", "x B@7"}, 1},
		{"a gateway dies", func(b *Board) {
			b.Connect(now, "x", durable("A", 5))
			b.Connect(now, "y", at("B", 6))
			b.Show(now, "z", at("A", 3))
			b.View([]string{"B"}, 7)
			b.Bury(now, 10)
			b.View([]string{"B"}, 8)
			b.Bury(now, 10)
		}, []string{"x A@5 durable", "y B@6", "z A@3 gateway_died", "x A@5 gateway_died durable"}, 1},
		{"the view is from before the gateway was born", func(b *Board) {
			b.Connect(now, "x", at("A", 5))
			b.View(nil, 4)
			b.Bury(now, 10)
		}, []string{"x A@5"}, 1},
		{"a client of a dead gateway is back before that was told", func(b *Board) {
			b.Connect(now, "x", at("A", 5))
			b.View([]string{"B"}, 6)
			b.Connect(now, "x", at("B", 7))
			b.Bury(now, 10)
		}, []string{"x A@5", "x A@5 gateway_died", "x B@7"}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBoard()
			tt.do(b)
			if diff := cmp.Diff(tt.want, told(b)); diff != "" {
				t.Error(diff)
			}
			if b.Len() != tt.left {
				t.Errorf("%d connected, want %d", b.Len(), tt.left)
			}
		})
	}
}

func TestTheDeadAreBuriedBitByBit(t *testing.T) {
	b := newBoard()
	for n := range 10 {
		b.Connect(time.Time{}, fmt.Sprint(n), at([]string{"A", "B"}[n%2], uint64(n+1)))
	}
	if b.View([]string{"A", "B"}, 11) {
		t.Error("nobody has died")
	}
	if !b.View(nil, 12) {
		t.Error("both have died")
	}
	for n, want := range []struct {
		left int
		more bool
	}{{7, true}, {4, true}, {1, true}, {0, false}, {0, false}} {
		if more := b.Bury(time.Time{}, 3); more != want.more || b.Len() != want.left {
			t.Errorf("round %d: %d left, more: %v, want %+v", n, b.Len(), more, want)
		}
	}
}

func TestOnlyReasonsThatAreKnownAreShown(t *testing.T) {
	for name, want := range map[string]Reason{
		"client": Client, "network": Network, "keepalive": Keepalive, "replaced": Replaced, "kicked": Kicked, "expired": Expired,
		"moved": Moved, "protocol": Protocol, "slow": Slow, "shutdown": Shutdown, "unknown": Unknown,
		"": Unknown, "whatever": Unknown, "gateway_died": Unknown, // that a gateway cannot say
	} {
		if got := ReasonOf(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

// Whatever happens, in any order and as often as it likes: for each connected there is one disconnected of the same
// connection, before the next connected of the client, and epochs grow. Who is on the board is who has connected and not
// disconnected.
func TestEveryConnectionEndsOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBoard()
		ids, gateways := []string{"x", "y", "z"}, []string{"A", "B", "C"}
		epoch := uint64(1)
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			id := rapid.SampledFrom(ids).Draw(t, "client")
			g := rapid.SampledFrom(gateways).Draw(t, "gateway")
			old := rapid.Uint64Range(0, epoch).Draw(t, "epoch")
			switch rapid.SampledFrom([]string{"connect", "connect", "leave", "evicted", "view", "bury"}).Draw(t, "step") {
			case "connect":
				epoch++
				b.Connect(time.Time{}, id, at(g, epoch))
			case "leave":
				b.Leave(time.Time{}, id, g, old, Client, false)
			case "evicted":
				b.Evicted(time.Time{}, id, g, old)
			case "view":
				b.View([]string{g}, old)
			case "bury":
				b.Bury(time.Time{}, 1)
			}
		}
		check(t, b)
	})
}

func check(t *rapid.T, b *Board) {
	events, _, err := b.After(0, "", all())
	if err != nil {
		t.Fatal(err)
	}
	here, newest := map[string]Connection{}, map[string]uint64{}
	for _, e := range events {
		c, connected := here[e.Client]
		switch {
		case e.Connected && connected:
			t.Fatalf("connected twice: %v", told(b))
		case e.Connected && e.Epoch <= newest[e.Client]:
			t.Fatalf("at an older epoch: %v", told(b))
		case !e.Connected && (!connected || c != e.Connection):
			t.Fatalf("disconnected what was not connected: %v", told(b))
		}
		if e.Connected {
			here[e.Client], newest[e.Client] = e.Connection, e.Epoch
		} else {
			delete(here, e.Client)
		}
	}
	if len(here) != b.Len() {
		t.Fatalf("%d on the board, want %d: %v", b.Len(), len(here), told(b))
	}
	for id, c := range here {
		if on := b.clients[id]; on == nil || on.at.id != c.Gateway || on.epoch != c.Epoch {
			t.Fatalf("%s is not on the board", id)
		}
		if on := b.clients[id]; !slices.Contains(on.at.clients, on) || on.at.clients[on.place] != on {
			t.Fatalf("%s is not where its gateway has it", id)
		}
	}
}

func TestNobodyIsToldOfTheClustersOwnServices(t *testing.T) {
	b := NewBoard(NewHistory("i", 10))
	b.Connect(time.Unix(1, 0), "$service-router-1", Connection{Gateway: "A", Epoch: 1})
	b.Show(time.Unix(1, 0), "$service-stream-1", Connection{Gateway: "A", Epoch: 2})
	b.Leave(time.Unix(2, 0), "$service-router-1", "A", 1, Client, true)
	if b.Last() != 0 || b.Len() != 0 {
		t.Errorf("%d events of %d clients", b.Last(), b.Len())
	}
}
