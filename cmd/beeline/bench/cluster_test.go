package bench

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// clean fails the test when something is not as it is to be with a broker that is in order. expected messages were due at least:
// how many of them a machine with much else to do has sent in time says nothing.
func clean(t testing.TB, r *Result, err error, expected uint64) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Check(1); err != nil {
		t.Error(err)
	}
	if r.LostInWarmup+r.Unacknowledged+r.Refused+r.Unclosed > 0 || r.Sent+r.Unsent < expected || r.Delivered == 0 {
		t.Errorf("want %d: %+v", expected, r)
	}
	if r.Latency.P50 <= 0 || r.Latency.P50 > r.Latency.P99 || r.Latency.P99 > r.Latency.Max {
		t.Errorf("latency %+v", r.Latency)
	}
	if len(r.Processes) != 1 || r.Processes[0].RSSAfter < 1<<20 || r.CPU.Generator <= 0 {
		t.Errorf("CPU %+v, processes %+v", r.CPU, r.Processes)
	}
}

func TestMessagesOfPairsCrossACluster(t *testing.T) {
	both(t, func(t *testing.T, v5 bool) {
		for qos := range byte(3) {
			t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
				r, err := Pairs{Config: config(t, v5, gateways(t)...), Load: load(qos, 1000), Pairs: 5, Shift: 1}.Run(t.Context())
				clean(t, r, err, 150)
				if r.Sent+r.Unsent > 202 || r.SentLate == nil {
					t.Errorf("1000/s for 200 ms: %+v", r)
				}
			})
			t.Run(fmt.Sprint("QoS ", qos, " without a rate"), func(t *testing.T) {
				r, err := Pairs{Config: config(t, v5, gateways(t)...), Load: load(qos, 0), Pairs: 5, Shift: -1}.Run(t.Context())
				clean(t, r, err, 5)
			})
		}
	})
}

func TestMessagesOfPairsWithDurableSessionsCrossACluster(t *testing.T) {
	both(t, func(t *testing.T, v5 bool) {
		l := load(1, 500)
		l.Durable = true
		r, err := Pairs{Config: config(t, v5, gateways(t)...), Load: l, Pairs: 5, Shift: 1}.Run(t.Context())
		clean(t, r, err, 80)
	})
}

func TestPairsAreWhereTheyAreToBe(t *testing.T) {
	g := gateways(t)
	for _, tt := range []struct {
		name     string
		p        Pairs
		from, to int
	}{
		{"on the same broker", Pairs{Shift: 3}, 0, 0},
		{"on the next", Pairs{Shift: 1}, 0, 1},
		{"on the one before", Pairs{Shift: -1}, 0, 2},
		{"elsewhere", Pairs{Shift: 1, To: []Broker{g[1]}}, 0, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			metric := "beeline_gateway_publishes_sent_total"
			before := cluster(t).Metric(t, tt.to, metric)
			tt.p.Config, tt.p.Load, tt.p.Pairs = config(t, false, g...), load(1, 200), 1
			r, err := tt.p.Run(t.Context())
			clean(t, r, err, 30)
			if got := cluster(t).Metric(t, tt.to, metric) - before; got < float64(r.Delivered) {
				t.Errorf("gateway %d has sent %v", tt.to, got)
			}
		})
	}
}

func TestEverySubscriberGetsWhatIsFannedOut(t *testing.T) {
	both(t, func(t *testing.T, v5 bool) {
		for qos := range byte(3) {
			r, err := Fanout{Config: config(t, v5, gateways(t)...), Load: load(qos, 100), Subscribers: 30}.Run(t.Context())
			clean(t, r, err, 15)
			if r.Delivered < 20*(r.Sent-3) {
				t.Errorf("QoS %d: %+v", qos, r)
			}
			r, err = Fanout{Config: config(t, v5, gateways(t)...), Load: load(qos, 0), Subscribers: 3}.Run(t.Context())
			clean(t, r, err, 3)
		}
	})
}

func TestClientsConnectAndStay(t *testing.T) {
	both(t, func(t *testing.T, v5 bool) {
		for _, rate := range []int{0, 500} {
			c := Connect{Config: config(t, v5, gateways(t)...), Clients: 50, Rate: rate, Parallel: 8, Hold: 10 * time.Millisecond}
			r, err := c.Run(t.Context())
			clean(t, r, err, 50)
			if r.Delivered != 50 || r.Subscribed.P50 < r.Latency.P50 || r.MemoryPerConnection == nil || r.MemoryPerConnectionHeld == nil {
				t.Errorf("%+v", r)
			}
			if rate > 0 && r.Seconds < 0.09 {
				t.Errorf("50 clients at %d/s in %v s", rate, r.Seconds)
			}
		}
	})
}

func TestClientsMoveFromOneGatewayToTheNext(t *testing.T) {
	both(t, func(t *testing.T, v5 bool) {
		for _, rate := range []int{0, 200} {
			r, err := Move{Config: config(t, v5, gateways(t)...), Clients: 30, Rate: rate}.Run(t.Context())
			clean(t, r, err, 30)
			if r.Delivered != 30 || r.Closed.P50 <= 0 {
				t.Errorf("%+v", r)
			}
		}
	})
}

// The payload does not fit into one read, and over TLS nobody can write without waiting.
func TestLargeMessagesOverTLS(t *testing.T) {
	pem, err := os.ReadFile(cluster(t).CAFile())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	secure := Broker{Name: "tls", Dial: func(ctx context.Context) (net.Conn, error) {
		d := tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}}
		return d.DialContext(ctx, "tcp", cluster(t).MQTTS(0))
	}}
	for qos := range byte(3) {
		l := load(qos, 100)
		l.Size = 3*largeBuffer + 1
		r, err := Pairs{Config: config(t, true, secure), Load: l, Pairs: 2, To: gateways(t)[1:]}.Run(t.Context())
		clean(t, r, err, 15)
	}
}

func TestARunThatIsInterruptedSaysWhatItHasSeen(t *testing.T) {
	for name, run := range map[string]func(ctx context.Context, c Config) (*Result, error){
		"pairs": func(ctx context.Context, c Config) (*Result, error) {
			return Pairs{Config: c, Load: load(1, 1000), Pairs: 3}.Run(ctx)
		},
		"connect": func(ctx context.Context, c Config) (*Result, error) {
			return Connect{Config: c, Clients: 1000, Rate: 10, Parallel: 1}.Run(ctx)
		},
		"hold": func(ctx context.Context, c Config) (*Result, error) {
			return Connect{Config: c, Clients: 1, Parallel: 1, Hold: time.Hour}.Run(ctx)
		},
		"move": func(ctx context.Context, c Config) (*Result, error) {
			return Move{Config: c, Clients: 100, Rate: 10}.Run(ctx)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := config(t, true, gateways(t)...)
			c.Duration = time.Hour
			ctx, cancel := context.WithCancel(t.Context())
			// The first line of progress is when something has been measured already.
			c.Progress = writer(func(line string) { cancel() })
			if name == "hold" {
				time.AfterFunc(200*time.Millisecond, cancel)
			}
			r, err := run(ctx, c)
			if err != nil || r.Delivered == 0 || r.Lost+r.TwoOwners > 0 {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
}

func TestARunThatIsInterruptedTooEarlyIsAnError(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := config(t, true, gateways(t)...)
	for name, run := range map[string]func(context.Context) (*Result, error){
		"pairs":   Pairs{Config: c, Load: load(1, 1000), Pairs: 3}.Run,
		"connect": Connect{Config: c, Clients: 3, Rate: 10, Parallel: 1}.Run,
		"move":    Move{Config: c, Clients: 3, Rate: 10}.Run,
	} {
		if r, err := run(ctx); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
	c.Warmup = time.Hour
	ctx, cancel = context.WithCancel(t.Context())
	c.Progress = writer(func(string) { cancel() })
	if r, err := (Pairs{Config: c, Load: load(1, 1000), Pairs: 3}).Run(ctx); !errors.Is(err, errInterrupted) {
		t.Errorf("while warming up: %+v, %v", r, err)
	}
}

// writer hands on what is written.
type writer func(line string)

func (w writer) Write(b []byte) (int, error) {
	w(string(b))
	return len(b), nil
}

func TestProgressIsALineASecond(t *testing.T) {
	for name, run := range map[string]func(c Config) (*Result, error){
		"delivered/s": func(c Config) (*Result, error) {
			return Pairs{Config: c, Load: load(1, 1000), Pairs: 3}.Run(t.Context())
		},
		"connected": func(c Config) (*Result, error) {
			return Connect{Config: c, Clients: 24, Rate: 20, Parallel: 1}.Run(t.Context())
		},
		"moved": func(c Config) (*Result, error) { return Move{Config: c, Clients: 24, Rate: 20}.Run(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var out bytes.Buffer
			c := config(t, false, gateways(t)...)
			c.Duration = 1100 * time.Millisecond
			c.Progress = writer(func(line string) {
				mu.Lock()
				defer mu.Unlock()
				out.WriteString(line)
			})
			if _, err := run(c); err != nil {
				t.Fatal(err)
			}
			if text := out.String(); !strings.HasPrefix(text, "   1 s ") || !strings.Contains(text, name) || !strings.Contains(text, "p99") {
				t.Errorf("progress: %q", text)
			}
		})
	}
}

func TestWhatCannotBeIsAnErrorBeforeAnythingIsDone(t *testing.T) {
	c, l := config(t, false, gateways(t)...), load(0, 100)
	change := func(f func(p *Pairs)) Pairs {
		p := Pairs{Config: c, Load: l, Pairs: 1}
		f(&p)
		return p
	}
	nobody, late, short := c, c, c
	nobody.Brokers, late.Warmup, short.Duration = nil, -1, 0
	for _, tt := range []struct {
		want string
		run  func(context.Context) (*Result, error)
	}{
		{"no broker", change(func(p *Pairs) { p.Config = nobody }).Run},
		{"warmup", change(func(p *Pairs) { p.Config = late }).Run},
		{"duration", change(func(p *Pairs) { p.Config = short }).Run},
		{"rate", change(func(p *Pairs) { p.Rate = -1 }).Run},
		{"qos", change(func(p *Pairs) { p.QoS = 3 }).Run},
		{"size: at least 24 bytes", change(func(p *Pairs) { p.Size = 23 }).Run},
		{"window", change(func(p *Pairs) { p.Window = 0 }).Run},
		{"window", change(func(p *Pairs) { p.Window = 65536 }).Run},
		{"tick", change(func(p *Pairs) { p.Tick = 0 }).Run},
		{"pairs", change(func(p *Pairs) { p.Pairs = 0 }).Run},
		{"ulimit", change(func(p *Pairs) { p.Pairs = 1 << 40 }).Run},
		{"process nobody", change(func(p *Pairs) { p.Processes = []Process{{"nobody", 1 << 30}} }).Run},
		{"subscribers", Fanout{Config: c, Load: l}.Run},
		{"size", Fanout{Config: c, Subscribers: 1}.Run},
		{"clients", Connect{Config: c, Parallel: 1}.Run},
		{"rate", Connect{Config: c, Clients: 1, Rate: -1, Parallel: 1}.Run},
		{"parallel", Connect{Config: c, Clients: 1}.Run},
		{"hold", Connect{Config: c, Clients: 1, Parallel: 1, Hold: -1}.Run},
		{"ulimit", Connect{Config: c, Clients: 1 << 40, Parallel: 1}.Run},
		{"no broker", Connect{Config: nobody, Clients: 1, Parallel: 1}.Run},
		{"clients", Move{Config: c}.Run},
		{"rate", Move{Config: c, Clients: 1, Rate: -1}.Run},
		{"ulimit", Move{Config: c, Clients: 1 << 40}.Run},
	} {
		if _, err := tt.run(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("error %v, want %q in it", err, tt.want)
		}
	}
}
