package foreign_test

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/beeline-mqtt/beeline/services/router/internal/foreign"
)

const (
	node1, node2 = "emqx@172.17.0.2", "emqx@172.17.0.3"
	at1, at2     = "172.17.0.2:1883", "172.17.0.3:1883"
	show1, show2 = node1 + " " + at1, node2 + " " + at2
)

// plant is an EMQX cluster of two nodes that run, its API at 10.0.0.1:18083.
func plant(t *testing.T) (*network, *emqx) {
	t.Helper()
	n, e := newNetwork(), &emqx{api: 5}
	n.serve(t, "10.0.0.1:18083", e)
	n.up(at1, at2)
	e.set(apiNode{node2, "running", 12}, apiNode{node1, "running", 40})
	return n, e
}

func TestNodesAreThoseThatEMQXLists(t *testing.T) {
	for api, status := range map[int][2]string{4: {"Running", "Stopped"}, 5: {"running", "stopped"}} {
		t.Run(fmt.Sprintf("version %d", api), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, e := newNetwork(), &emqx{api: api}
				n.serve(t, "10.0.0.1:18083", e)
				e.set(apiNode{node2, status[1], 0}, apiNode{node1, status[0], 40})
				d := onEMQX("http://10.0.0.1:18083/")
				d.EMQX.API = api
				began := time.Now()
				v := watch(t, d, n.deps())
				pass(0)
				want := foreign.View{Known: true, Since: began, Nodes: []foreign.Node{
					{ID: node1, Address: at1, Weight: 1, Active: true, Load: 40},
					{ID: node2, Address: at2, Weight: 1},
				}}
				if diff := cmp.Diff(want, v.last()); diff != "" {
					t.Error(diff)
				}
				pass(time.Minute)
				if v.count() != 1 || e.polls() != 13 {
					t.Errorf("%d views of %d answers, want one of 13", v.count(), e.polls())
				}
				if got := n.count(at1) + n.count(at2); got != 0 {
					t.Errorf("%d connections to nodes although EMQX tells how they are", got)
				}
			})
		})
	}
}

func TestNodesOfEMQXComeStopAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, e := plant(t)
		v := watch(t, onEMQX("http://10.0.0.1:18083"), n.deps())
		pass(time.Second)
		v.expect(show1, show2)

		e.set(apiNode{node1, "running", 40}, apiNode{node2, "stopped", 0})
		pass(5 * time.Second)
		v.expect(show1, show2+" -")

		e.set(apiNode{node1, "running", 40}, apiNode{node2, "running", 0}, apiNode{"emqx@172.17.0.4", "running", 0})
		pass(5 * time.Second)
		v.expect(show1, show2, "emqx@172.17.0.4 172.17.0.4:1883")

		e.set(apiNode{node2, "running", 0})
		pass(5 * time.Second)
		v.expect(show2)

		e.set(apiNode{node2, "running", 5})
		pass(5 * time.Second)
		if got := v.last().Nodes[0].Load; got != 5 {
			t.Errorf("load %d, want 5", got)
		}
		if v.count() != 5 {
			t.Errorf("%d views, want 5", v.count())
		}
	})
}

func TestNamesOfNodesAreMappedAndResolved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, e := plant(t)
		e.set(apiNode{"a@inside", "running", 0}, apiNode{"b@inside", "running", 0},
			apiNode{"c@c.example", "running", 0}, apiNode{"d@d.example", "running", 0}, apiNode{"e@::1", "running", 0})
		d := onEMQX("http://10.0.0.1:18083")
		d.EMQX.MQTTPort = 11883
		d.EMQX.Addresses = map[string]string{"a@inside": "192.0.2.1:2883", "inside": "outside.example"}
		n.name("outside.example", "192.0.2.2", "192.0.2.3")
		n.name("c.example", "192.0.2.4")
		v := watch(t, d, n.deps())
		pass(time.Second)
		v.expect("a@inside 192.0.2.1:2883", "b@inside 192.0.2.2:11883", "c@c.example 192.0.2.4:11883",
			"d@d.example d.example:11883 -", "e@::1 [::1]:11883")
		v.expectErr("resolve d.example: no such host")

		n.name("c.example")
		n.name("d.example", "192.0.2.5")
		pass(5 * time.Second)
		v.expect("a@inside 192.0.2.1:2883", "b@inside 192.0.2.2:11883", "c@c.example 192.0.2.4:11883",
			"d@d.example 192.0.2.5:11883", "e@::1 [::1]:11883")
		v.expectErr("resolve c.example: no such host")
	})
}

func TestAManagementOutageTakesNoNodeDown(t *testing.T) {
	body := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s) }
	}
	refuse := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A server that repeats what it was told.
		w.Header().Set("X-You-Said", r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, r.Header.Get("Authorization")+secret)
	})
	for name, tc := range map[string]struct {
		fault http.HandlerFunc
		want  string
	}{
		"wrong secret":              {refuse, "it refuses the key or its secret (401)"},
		"no permission":             {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, "(403)"},
		"not ready":                 {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, "503 Service Unavailable"},
		"garbage":                   {body("<html>" + secret), "the answer is not JSON from byte 1 on"},
		"half an answer":            {body(`[{"node":"emqx@172.17.0.2"`), "not JSON"},
		"another answer":            {body(`{"data":[]}`), "not that of version 5"},
		"no node":                   {body(`[]`), "lists no node"},
		"null":                      {body(`null`), "lists no node"},
		"no name":                   {body(`[{"node":"` + secret + `"}]`), "node 1 of the answer has no name"},
		"a name that none can have": {body(`[{"node":"emqx@172.17.0.2/?"}]`), "has no name"},
		"huge":                      {body(strings.Repeat(" ", 1<<20) + "[]"), "longer than 1048576 bytes"},
		"slow":                      {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "no answer within 5s"},
		"slow in the middle": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "[")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, "no answer within 5s"},
		"cut off":         {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF"},
		"to another host": {redirect("http://10.0.0.9:18083/" + secret), "redirects to another host"},
		"in circles":      {redirect("http://10.0.0.1:18083/api/v5/nodes"), "too many redirects"},
		"to nowhere":      {redirect("http://%" + secret), "********"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, e := plant(t)
				d := onEMQX("http://10.0.0.1:18083")
				d.EMQX.PollInterval = foreign.Duration(7 * time.Second)
				began := time.Now()
				v := watch(t, d, n.deps())
				pass(time.Second)
				e.fail(tc.fault)
				pass(20 * time.Second)
				v.expect(show1, show2)
				v.expectErr(tc.want)
				if err := v.last().Err.Error(); strings.Contains(err, secret) {
					t.Errorf("the secret is told: %s", err)
				}
				if got := v.last(); !got.Known || got.Since.Sub(began) < 7*time.Second || got.Since.Sub(began) > 12*time.Second {
					t.Errorf("known: %v, since %v", got.Known, got.Since.Sub(began))
				}
				if v.count() != 2 {
					t.Errorf("%d views, want 2", v.count())
				}
				e.set(apiNode{node1, "running", 40}, apiNode{node2, "running", 12})
				pass(20 * time.Second)
				v.expectErr("")
			})
		})
	}
}

func redirect(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusTemporaryRedirect)
	}
}

func TestDuringAManagementOutageNodesAreChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, e := plant(t)
		e.set(apiNode{node1, "running", 40}, apiNode{node2, "stopped", 12})
		v := watch(t, onEMQX("http://10.0.0.1:18083"), n.deps())
		pass(time.Second)
		v.expect(show1, show2+" -")

		n.down("10.0.0.1:18083", at1)
		pass(5 * time.Second) // 5: node1 fails once, node2 answers once
		v.expect(show1, show2+" -")
		v.expectErr("connection refused")
		pass(5 * time.Second) // 10: node2 answers for the second time
		v.expect(show1, show2)
		pass(5 * time.Second) // 15: node1 has failed three times
		v.expect(show1+" -", show2)
		if v.count() != 4 {
			t.Errorf("%d views, want 4", v.count())
		}

		// Then it is EMQX again who tells.
		n.serve(t, "10.0.0.1:18083", e)
		pass(5 * time.Second)
		v.expect(show1, show2+" -")
		v.expectErr("")
		pass(time.Minute)
		if v.count() != 5 {
			t.Errorf("%d views, want 5", v.count())
		}
	})
}

// Whoever swallows every request holds up the polls, not the checks.
func TestNodesAreCheckedWhileThePollTakesLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := plant(t)
		d := onEMQX("http://10.0.0.1:18083", "http://10.0.0.2:18083", "http://10.0.0.3:18083", "http://10.0.0.4:18083")
		d.EMQX.PollInterval = foreign.Duration(time.Second)
		v := watch(t, d, n.deps())
		pass(100 * time.Millisecond)
		n.hang("10.0.0.1:18083", "10.0.0.2:18083", "10.0.0.3:18083", "10.0.0.4:18083")
		n.down(at1)
		pass(21 * time.Second)
		v.expect(show1, show2)
		pass(4 * time.Second)
		v.expect(show1+" -", show2)
		v.expectErr("http://10.0.0.4:18083: no answer within 5s")
	})
}

func TestAClusterThatNeverAnsweredIsNotKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		v := watch(t, onEMQX("http://10.0.0.1:18083"), n.deps())
		pass(time.Minute)
		if got := v.last(); got.Known || len(got.Nodes) != 0 || v.count() != 1 {
			t.Errorf("%d views, the last %+v", v.count(), got)
		}
		v.expectErr("http://10.0.0.1:18083: connection refused")
	})
}

func TestURLsAreTriedInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, e := plant(t)
		v := watch(t, onEMQX("http://10.0.0.9:18083", "http://10.0.0.1:18083", "http://10.0.0.8:18083"), n.deps())
		pass(time.Minute)
		v.expect(show1, show2)
		v.expectErr("")
		if tried := n.count("10.0.0.9:18083"); tried != 1 {
			t.Errorf("the one that is down was tried %d times, want once: another answers", tried)
		}
		n.down("10.0.0.1:18083")
		n.serve(t, "10.0.0.8:18083", e)
		before := e.polls()
		pass(5 * time.Second)
		v.expectErr("")
		if e.polls() == before {
			t.Error("the last URL was not tried")
		}
		n.down("10.0.0.8:18083")
		pass(5 * time.Second)
		v.expect(show1, show2)
		v.expectErr("http://10.0.0.8:18083: connection refused; http://10.0.0.9:18083: connection refused; http://10.0.0.1:18083:")
	})
}

func TestARedirectWithinTheHostIsFollowedWithCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, e := plant(t)
		n.serve(t, "10.0.0.1:80", redirect("http://10.0.0.1:18083/api/v5/nodes"))
		v := watch(t, onEMQX("http://10.0.0.1:80"), n.deps())
		pass(time.Second)
		v.expect(show1, show2)
		v.expectErr("")
		if e.polls() != 1 {
			t.Errorf("%d polls", e.polls())
		}
	})
}

func TestASecretFileIsReadAtEveryPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := plant(t)
		type file struct {
			content string
			err     error
		}
		var now atomic.Value
		now.Store(file{})
		deps := n.deps()
		deps.ReadFile = func(name string) ([]byte, error) {
			if name != "/run/secrets/emqx" {
				t.Errorf("%s is read", name)
			}
			f := now.Load().(file)
			return []byte(f.content), f.err
		}
		d := onEMQX("http://10.0.0.1:18083")
		d.EMQX.Secret, d.EMQX.SecretFile = "", "/run/secrets/emqx"
		v := watch(t, d, deps)
		pass(time.Second)
		v.expectErr("read secret_file: /run/secrets/emqx is empty")
		now.Store(file{content: "old secret\n"})
		pass(5 * time.Second)
		v.expectErr("(401)")
		now.Store(file{content: secret + "\n"})
		pass(5 * time.Second)
		v.expectErr("")
		v.expect(show1, show2)
		now.Store(file{err: errors.New("no permission")})
		pass(5 * time.Second)
		v.expectErr("read secret_file: no permission")
		v.expect(show1, show2)
	})
}

func TestWhatIsAskedIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := plant(t)
		deps := n.deps()
		r := prometheus.NewRegistry()
		deps.Metrics = foreign.NewMetrics(r)
		watch(t, onEMQX("http://10.0.0.1:18083"), deps)
		d := onStatic("gone:1883", at1, "10.9.9.9:1883")
		d.Name = "static"
		watch(t, d, deps)
		pass(time.Second)
		n.down("10.0.0.1:18083")
		pass(5 * time.Second)
		families, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				id := strings.TrimPrefix(f.GetName(), "beeline_router_foreign_")
				for _, l := range m.GetLabel() {
					id += " " + l.GetValue()
				}
				got[id] = m.GetCounter().GetValue()
			}
		}
		want := map[string]float64{
			"polls_total plant ok": 1, "polls_total plant failed": 1, "checks_total plant ok": 2,
			"checks_total static ok": 2, "checks_total static failed": 2, "lookups_total static failed": 2,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

// Real servers, in plain text and with TLS, with the real dialer.
func TestEMQXIsAskedOverTLS(t *testing.T) {
	e := &emqx{api: 5}
	e.set(apiNode{node1, "running", 40})
	s := httptest.NewUnstartedServer(e)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	defer s.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		url  string
		tls  *foreign.TLS
		want string
	}{
		"verified with a CA":             {s.URL, &foreign.TLS{CAFile: ca}, ""},
		"under another name it has":      {s.URL, &foreign.TLS{CAFile: ca, ServerName: "example.com"}, ""},
		"under a name that it has not":   {s.URL, &foreign.TLS{CAFile: ca, ServerName: "other.test"}, "not other.test"},
		"not verified":                   {s.URL, &foreign.TLS{InsecureSkipVerify: true}, ""},
		"verified with the system's":     {s.URL, nil, "certificate signed by unknown authority"},
		"no certificate in the file":     {s.URL, &foreign.TLS{CAFile: empty}, "read tls.ca_file: no certificate in"},
		"no file":                        {s.URL, &foreign.TLS{CAFile: empty + "2"}, "no such file"},
		"plain text where TLS is spoken": {"http" + strings.TrimPrefix(s.URL, "https"), nil, "400 Bad Request"},
	} {
		t.Run(name, func(t *testing.T) {
			d := onEMQX(tc.url)
			d.EMQX.TLS = tc.tls
			v := watch(t, d, foreign.Deps{})
			v.await("EMQX was asked", func(foreign.View) bool { return true })
			v.expectErr(tc.want)
			if tc.want == "" {
				v.expect(show1)
			}
		})
	}
}

func TestEMQXIsAskedInPlainText(t *testing.T) {
	e := &emqx{api: 4}
	e.set(apiNode{"emqx@127.0.0.1", "Running", 0})
	s := httptest.NewServer(e)
	defer s.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d := onEMQX(s.URL)
	d.EMQX.API, d.EMQX.PollInterval = 4, foreign.Duration(time.Second)
	d.EMQX.Addresses = map[string]string{"127.0.0.1": l.Addr().String()}
	v := watch(t, d, foreign.Deps{})
	v.await("the node is active", func(v foreign.View) bool { return len(v.Nodes) == 1 && v.Nodes[0].Active })
	s.Close()
	v.await("the API is away", func(v foreign.View) bool { return v.Err != nil })
	v.expect("emqx@127.0.0.1 " + l.Addr().String())
}

// The bubble does not end before every goroutine has: a connection that was made and never answers is given up.
func TestAServerThatTakesConnectionsAndSaysNothingHoldsNothing(t *testing.T) {
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork()
				n.open["10.0.0.1:18083"] = &inMemory{conns: make(chan net.Conn, 100)}
				v := watch(t, onEMQX(scheme+"://10.0.0.1:18083"), n.deps())
				pass(time.Minute)
				v.expectErr("no answer within 5s")
				if got := n.count("10.0.0.1:18083"); got != 7 {
					t.Errorf("%d connections in a minute, want one each 10 s", got)
				}
				pass(2 * time.Second) // it ends in the middle of a poll
			})
		})
	}
}
