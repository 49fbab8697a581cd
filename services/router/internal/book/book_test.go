package book

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
)

// hostile are client ids and other names that keys, paths, URLs and patterns give a meaning to.
var hostile = []string{
	"plain", "a/b", "/", "//", "..", "../../router/clusters/x", " ", "a b ", "+", "#", "a/+/#", "*", "%", "%2F", "%2f",
	"?x=1&y=2", "größe", "\x00", "\xff\xfe", "a\nb", `"{}\`, "<&>", ".", "default/", strings.Repeat("/", mostValue),
}

func assignment(rule, value, to string) Assignment {
	return Assignment{Rule: rule, Value: value, Cluster: to}
}

func mustPut(t *testing.T, b *running, a Assignment) int64 {
	t.Helper()
	revision, err := b.PutAssignment(bg(t), a, 0)
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

func (r *running) sees(t *testing.T, revision int64) {
	t.Helper()
	clustertest.Wait(t, "the snapshot has the change", func() bool { return r.Assignments().Revision >= revision })
}

func TestHostileValuesComeBackAsTheyAre(t *testing.T) {
	e := clustertest.StartEtcd(t)
	b, other := open(t, e, patient()), open(t, e, patient())
	var want []Assignment
	for _, rule := range []string{ClientID, Prefix, Username, Exact} {
		for i, value := range hostile {
			a := assignment(rule, value, "west")
			a.Weight = uint32(i)
			a.Revision = mustPut(t, b, a)
			want = append(want, a)
		}
	}
	last := want[len(want)-1].Revision
	other.sees(t, last)
	byRuleAndValue := cmpopts.SortSlices(func(a, b Assignment) bool { return a.Rule+"\x00"+a.Value < b.Rule+"\x00"+b.Value })
	if diff := cmp.Diff(want, other.Assignments().Entries, byRuleAndValue); diff != "" {
		t.Error(diff)
	}
	for _, a := range want {
		if got, ok := other.Assignment(a.Rule, a.Value); !ok || got != a {
			t.Errorf("found %+v, %v; want %+v", got, ok, a)
		}
		if err := other.DeleteAssignment(bg(t), a.Rule, a.Value, a.Revision); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	clustertest.Wait(t, "nothing is left", func() bool { return len(b.Assignments().Entries) == 0 })
}

func TestClustersComeBackAsTheyAre(t *testing.T) {
	e := clustertest.StartEtcd(t)
	b, other := open(t, e, patient()), open(t, e, patient())
	for _, name := range hostile {
		c := Cluster{Name: name, Definition: []byte(`{"kind":"static","nodes":["<a>:1883",{"more":null}]}`)}
		if len(name) > mostName || name == "\xff\xfe" {
			if _, err := b.PutCluster(bg(t), c, 0); !errors.Is(err, ErrInvalid) {
				t.Errorf("name of %d bytes: %v", len(name), err)
			}
			continue
		}
		revision, err := b.PutCluster(bg(t), c, 0)
		if err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		c.Revision = revision
		clustertest.Wait(t, "the other one has it", func() bool { return other.Clusters().Revision >= revision })
		got, _ := other.Cluster(name)
		if diff := cmp.Diff(c, got); diff != "" {
			t.Error(diff)
		}
		if err := other.DeleteCluster(bg(t), name, revision); err != nil {
			t.Error(err)
		}
	}
	clustertest.Wait(t, "nothing is left", func() bool { return len(b.Clusters().Entries) == 0 })
}

// A definition that is as long as it may be is stored, whatever JSON would like to escape in it.
func TestTheLongestDefinitionIsStored(t *testing.T) {
	e := clustertest.StartEtcd(t)
	b := open(t, e, patient())
	c := Cluster{Name: "x", Definition: []byte(`"` + strings.Repeat("<", mostDefinition-2) + `"`)}
	if _, err := b.PutCluster(bg(t), c, 0); err != nil {
		t.Fatal(err)
	}
	clustertest.Wait(t, "it can be read", func() bool {
		got, _ := b.Cluster("x")
		return slices.Equal(got.Definition, c.Definition)
	})
}

func TestWhatCannotBeStoredIsRefused(t *testing.T) {
	b := Open(DefaultConfig(), testDeps(nil)) // it does not come to asking etcd
	for name, a := range map[string]Assignment{
		"no rule":              assignment("", "x", "west"),
		"a rule of nobody":     assignment("regexp", "x", "west"),
		"a rule with a slash":  assignment("exact/", "x", "west"),
		"no value":             assignment(ClientID, "", "west"),
		"a value too long":     assignment(ClientID, strings.Repeat("x", mostValue+1), "west"),
		"no cluster":           assignment(ClientID, "x", ""),
		"a name too long":      assignment(ClientID, "x", strings.Repeat("x", mostName+1)),
		"a name not of UTF-8":  assignment(ClientID, "x", "\xff"),
		"a default with value": assignment(Default, "east", "west"),
	} {
		if _, err := b.PutAssignment(bg(t), a, 0); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]Cluster{
		"no name":               {Definition: []byte("{}")},
		"no definition":         {Name: "x"},
		"a definition not JSON": {Name: "x", Definition: []byte("{")},
		"one too long":          {Name: "x", Definition: []byte(`"` + strings.Repeat("x", mostDefinition) + `"`)},
	} {
		if _, err := b.PutCluster(bg(t), c, 0); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAChangeNamesTheRevisionThatIsMeant(t *testing.T) {
	e := clustertest.StartEtcd(t)
	b := open(t, e, patient())
	for name, c := range map[string]struct {
		there      bool
		ifRevision func(now int64) int64
		put, del   error
	}{
		"new, but it is there":       {true, func(int64) int64 { return 0 }, ErrConflict, ErrConflict},
		"an older revision":          {true, func(now int64) int64 { return now - 1 }, ErrConflict, ErrConflict},
		"the revision":               {true, func(now int64) int64 { return now }, nil, nil},
		"any, and it is there":       {true, func(int64) int64 { return AnyRevision }, nil, nil},
		"new, and it is gone":        {false, func(int64) int64 { return 0 }, nil, ErrNotFound},
		"a revision, but it is gone": {false, func(int64) int64 { return 1 }, ErrNotFound, ErrNotFound},
		"any, and it is gone":        {false, func(int64) int64 { return AnyRevision }, nil, ErrNotFound},
	} {
		for verb, want := range map[string]error{"put": c.put, "delete": c.del} {
			value := verb + name
			key, now := b.assignments.prefix+assignmentID(ClientID, value), int64(0)
			if c.there {
				now = mustPut(t, b, assignment(ClientID, value, "west"))
			}
			before := all(t, b.deps.Client, key)
			var err error
			if verb == "put" {
				var revision int64
				revision, err = b.PutAssignment(bg(t), assignment(ClientID, value, "east"), c.ifRevision(now))
				if (err == nil) != (revision > now) {
					t.Errorf("%s, %s: revision %d after %d, %v", verb, name, revision, now, err)
				}
			} else {
				err = b.DeleteAssignment(bg(t), ClientID, value, c.ifRevision(now))
			}
			if !errors.Is(err, want) {
				t.Errorf("%s, %s: %v; want %v", verb, name, err, want)
			}
			if changed := all(t, b.deps.Client, key).Header.Revision > before.Header.Revision; changed != (want == nil) {
				t.Errorf("%s, %s: changed something: %v", verb, name, changed)
			}
		}
	}
}

func TestNoneOfTwoWritersOverwritesTheOther(t *testing.T) {
	e := clustertest.StartEtcd(t)
	first := open(t, e, patient())
	mustPut(t, first, assignment(Default, "", "west"))
	var wg sync.WaitGroup
	var done atomic.Int64
	for range 2 {
		b := open(t, e, patient())
		wg.Go(func() {
			for range 50 {
				a, _ := b.Assignment(Default, "west")
				a.Weight++
				switch _, err := b.PutAssignment(bg(t), a, a.Revision); {
				case err == nil:
					done.Add(1)
				case !errors.Is(err, ErrConflict):
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	clustertest.Wait(t, "the weight is the number of changes", func() bool {
		a, _ := first.Assignment(Default, "west")
		return int64(a.Weight) == done.Load()
	})
	a, _ := first.Assignment(Default, "west")
	_, err := first.PutAssignment(bg(t), a, a.Revision)
	_, late := first.PutAssignment(bg(t), a, a.Revision)
	if err != nil || !errors.Is(late, ErrConflict) {
		t.Errorf("two of the same revision: %v, %v", err, late)
	}
}

func TestSnapshotsGrowInGenerationsAndDoNotChange(t *testing.T) {
	e := clustertest.StartEtcd(t)
	b := Open(patient(), testDeps(e.Client()))
	if a, c := b.Assignments(), b.Clusters(); a.Generation != 0 || c.Generation != 0 || len(a.Entries)+len(c.Entries) > 0 {
		t.Errorf("before the first read: %+v, %+v", a, c)
	}
	var calls atomic.Int64
	b.OnChange(func() { calls.Add(1) })
	r := start(t, b)
	r.wantReady(t)
	empty := r.Assignments()
	if empty.Generation == 0 || r.Clusters().Generation == 0 || calls.Load() == 0 {
		t.Errorf("ready with generation %d, after %d calls", empty.Generation, calls.Load())
	}
	before := calls.Load()
	r.sees(t, mustPut(t, r, assignment(Username, "x", "west")))
	clustertest.Wait(t, "the change is told", func() bool { return calls.Load() > before })
	if len(empty.Entries) != 0 || r.Assignments().Generation <= empty.Generation {
		t.Errorf("before: %+v, now: %+v", empty, r.Assignments())
	}
}

func TestTheBookWorksOnWhileEtcdIsAway(t *testing.T) {
	e := clustertest.StartEtcd(t)
	b := open(t, e, DefaultConfig())
	a := assignment(Prefix, "x/", "west")
	a.Revision = mustPut(t, b, a)
	b.sees(t, a.Revision)
	e.Stop()
	short, cancel := context.WithTimeout(bg(t), 50*time.Millisecond)
	defer cancel()
	if _, err := b.PutAssignment(short, assignment(Prefix, "y/", "west"), 0); !errors.Is(err, ErrUnavailable) {
		t.Errorf("put while etcd is away: %v", err)
	}
	if err := b.DeleteCluster(short, "y", AnyRevision); !errors.Is(err, ErrUnavailable) {
		t.Errorf("delete while etcd is away: %v", err)
	}
	if got, ok := b.Assignment(Prefix, "x/"); !ok || got != a {
		t.Errorf("while etcd is away: %+v, %v", got, ok)
	}
	e.Start()
	late, err := int64(0), error(nil)
	clustertest.Wait(t, "etcd takes changes again", func() bool {
		late, err = b.PutAssignment(bg(t), assignment(Prefix, "z/", "west"), AnyRevision)
		return err == nil
	})
	b.sees(t, late)
	if _, ok := b.Assignment(Prefix, "z/"); !ok {
		t.Error("what was put afterwards is missing")
	}
}

// What was put and deleted while the watch was cut is seen, although the history of it is gone.
func TestAWatchGoesOnBehindACompaction(t *testing.T) {
	e := clustertest.StartEtcd(t)
	wire := clustertest.NewWire(t, e.Address())
	far := start(t, Open(patient(), testDeps(clustertest.Client(t, wire.Address()))))
	near := open(t, e, patient())
	far.wantReady(t)
	far.sees(t, mustPut(t, near, assignment(ClientID, "old", "west")))
	wire.Cut()
	if err := near.DeleteAssignment(bg(t), ClientID, "old", AnyRevision); err != nil {
		t.Fatal(err)
	}
	last := int64(0)
	for i := range 10 {
		last = mustPut(t, near, assignment(ClientID, fmt.Sprint("new-", i), "west"))
	}
	if _, err := near.deps.Client.Compact(bg(t), last); err != nil {
		t.Fatal(err)
	}
	if got := len(far.Assignments().Entries); got != 1 {
		t.Errorf("%d entries behind the cut", got)
	}
	wire.Mend()
	far.sees(t, last)
	if _, old := far.Assignment(ClientID, "old"); old || len(far.Assignments().Entries) != 10 {
		t.Errorf("has %+v", far.Assignments().Entries)
	}
	far.sees(t, mustPut(t, near, assignment(ClientID, "live", "west")))
}

func TestEntriesThatNobodyHereCanReadAreIgnoredAndCounted(t *testing.T) {
	e := clustertest.StartEtcd(t)
	client := e.Client()
	prefix := prefixOf("test", assignments)
	for key, value := range map[string]string{
		"client_id/good":      `{"v":1,"cluster":"west","more":[1,2]}`,
		"client_id/no-json":   `?`,
		"client_id/future":    `{"v":2,"cluster":"west"}`,
		"client_id/unversed":  `{"cluster":"west"}`,
		"client_id/nowhere":   `{"v":1}`,
		"client_id/a/b":       `{"v":1,"cluster":"west"}`,
		"client_id/%zz":       `{"v":1,"cluster":"west"}`,
		"client_id":           `{"v":1,"cluster":"west"}`,
		"topic/x":             `{"v":1,"cluster":"west"}`,
		"default/":            `{"v":1,"cluster":"west"}`,
		"username/%2f":        `{"v":1,"cluster":"west"}`,
		"username/%2F":        `{"v":1,"cluster":"west"}`,
		"username/good%20one": `{"v":1,"cluster":"west"}`,
	} {
		put(t, client, prefix+key, value)
	}
	put(t, client, prefixOf("test", clusters)+"future", `{"v":2,"definition":{}}`)
	put(t, client, prefixOf("test", clusters)+"garbage", `{"v":1`)
	put(t, client, prefixOf("test", clusters)+"a%2fb", `{"v":1,"definition":{}}`)
	b := open(t, e, patient())
	var got []string
	for _, a := range b.Assignments().Entries {
		got = append(got, a.Rule+" "+a.Value)
	}
	if diff := cmp.Diff([]string{"client_id good", "username /", "username good one"}, got); diff != "" {
		t.Error(diff)
	}
	if n := len(b.Clusters().Entries); n != 0 {
		t.Errorf("%d clusters", n)
	}
	ignored := b.metrics.unreadable
	if a, c := valueOf(ignored.WithLabelValues(kindAssignment)), valueOf(ignored.WithLabelValues(kindCluster)); a != 10 || c != 3 {
		t.Errorf("%v assignments and %v clusters are counted as unreadable", a, c)
	}
	// One that is mended is there again.
	put(t, client, prefix+"client_id/no-json", `{"v":1,"cluster":"west"}`)
	clustertest.Wait(t, "it can be read", func() bool { _, ok := b.Assignment(ClientID, "no-json"); return ok })
}

func TestSettingsThatCannotWorkAreNamed(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Fatal(err)
	}
	for key, spoil := range map[string]func(*Config){
		"node_days":    func(c *Config) { c.NodeDays = 2 },
		"cached_nodes": func(c *Config) { c.CachedNodes = 0 },
		"cache_for":    func(c *Config) { c.CacheFor = 0 },
		"read_timeout": func(c *Config) { c.ReadTimeout = 0 },
		"read_queue":   func(c *Config) { c.ReadQueue = 0 },
		"write_queue":  func(c *Config) { c.WriteQueue = 0 },
		"sweep_rate":   func(c *Config) { c.SweepRate = 0 },
	} {
		c := DefaultConfig()
		spoil(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestOnlyARefusalIsFinal(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"no leader":   {rpctypes.ErrNoLeader, false},
		"timeout":     {rpctypes.ErrTimeout, false},
		"no space":    {rpctypes.ErrNoSpace, false},
		"too large":   {rpctypes.ErrRequestTooLarge, true},
		"not allowed": {fmt.Errorf("put: %w", rpctypes.ErrPermissionDenied), true},
		"another one": {errors.New("connection reset"), false},
	} {
		if got := refused(c.err); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	// One of a real etcd, which takes a key only once in a transaction.
	e := clustertest.StartEtcd(t)
	_, err := e.Client().Txn(bg(t)).Then(clientv3.OpPut("x", "1"), clientv3.OpPut("x", "2")).Commit()
	if !refused(err) {
		t.Errorf("%v is taken for something that passes", err)
	}
}

func TestMetricsAreRegistered(t *testing.T) {
	registry := prometheus.NewRegistry()
	d := testDeps(nil)
	d.Metrics = registry
	Open(DefaultConfig(), d)
	families, err := registry.Gather()
	if err != nil || len(families) == 0 {
		t.Errorf("%d metrics, %v", len(families), err)
	}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "beeline_router_") || f.GetHelp() == "" {
			t.Errorf("metric %s: %q", f.GetName(), f.GetHelp())
		}
	}
}
