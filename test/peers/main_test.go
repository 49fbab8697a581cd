//go:build linux

package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-mqtt/beeline/test/peers/report"
)

// loadsOf are those that reports are made of.
func loadsOf(list []load) []report.Load {
	var all []report.Load
	for _, l := range list {
		all = append(all, l.Load)
	}
	return all
}

func TestEveryTargetHasItsRowsAmongTheLoads(t *testing.T) {
	var samples []report.Sample
	for _, l := range loads() {
		for _, system := range l.Systems {
			samples = append(samples, report.Sample{Load: l.Name, System: system, Mesh: &report.Mesh{}})
		}
	}
	figures := report.Medians(samples)
	all := report.Judge(loadsOf(loads()), figures)
	for _, v := range all {
		if v.Met == "not measured" {
			t.Errorf("%s %s: %+v", v.ID, v.What, v)
		}
	}
	for _, id := range []string{"P1", "P2", "P4", "P5", "P6", "P7", "P8", "P9", "P11"} {
		if !slices.ContainsFunc(all, func(v report.Verdict) bool { return v.ID == id }) {
			t.Errorf("nothing is measured for %s", id)
		}
	}
}

func TestLoadsHaveNamesOfTheirOwnAndASystemToCompareWith(t *testing.T) {
	names := map[string]bool{}
	for _, l := range loads() {
		if names[l.Name] {
			t.Errorf("two loads are called %s", l.Name)
		}
		names[l.Name] = true
		ours := []string{report.Ours, report.OursAlone, report.RouterAlone, report.RouterMany}
		if !slices.Contains(ours, l.One) || !slices.Contains(l.Systems, l.One) {
			t.Errorf("%s is compared with %q, of %q", l.Name, l.One, l.Systems)
		}
		if len(l.Systems) != len(l.systems) {
			t.Errorf("%s names %d of %d systems", l.Name, len(l.Systems), len(l.systems))
		}
	}
}

func TestLoadsOfOneGroupFollowEachOther(t *testing.T) {
	var groups []string
	for _, l := range loads() {
		if len(groups) == 0 || groups[len(groups)-1] != l.Group {
			if slices.Contains(groups, l.Group) {
				t.Errorf("%q is in two places", l.Group)
			}
			groups = append(groups, l.Group)
		}
	}
}

func TestClientsAreSentToTheNodesOfTheirLoad(t *testing.T) {
	urls := []string{"mqtt://a", "mqtt://b", "mqtt://c"}
	tests := []struct{ load, want string }{
		{report.PairsName(report.Cross, 1, 3000), "--broker mqtt://a,mqtt://b,mqtt://c --pairs 60 --size 64 --window 64 --qos 1 --rate 3000 --shift 1"},
		{report.PairsName(report.Same, 0, 0), "--broker mqtt://a,mqtt://b,mqtt://c --pairs 60 --size 64 --window 64 --qos 0 --rate 0 --shift 0"},
		{report.PairsName(report.Directed, 0, 15000), "--broker mqtt://a --to mqtt://b --pairs 60 --size 64 --window 64 --qos 0 --rate 15000"},
		{report.PairsName(report.Proxied, 0, 15000), "--broker mqtt://a,mqtt://b,mqtt://c --pairs 60 --size 64 --window 64 --qos 0 --rate 15000 --shift 0"},
		{report.ConnectProxied, "--broker mqtt://a,mqtt://b,mqtt://c --clients 6000 --rate 1000 --hold 5s"},
		{report.FanOut, "--broker mqtt://a,mqtt://b,mqtt://c --subscribers 1000 --rate 10 --qos 0 --size 64"},
		{report.ConnectFast, "--broker mqtt://a,mqtt://b,mqtt://c --clients 6000 --rate 4000 --hold 5s"},
		{report.Move, "--broker mqtt://a,mqtt://b,mqtt://c --clients 1000 --rate 500"},
	}
	for _, tt := range tests {
		t.Run(tt.load, func(t *testing.T) {
			i := slices.IndexFunc(loads(), func(l load) bool { return l.Name == tt.load })
			if i < 0 {
				t.Fatal("there is no such load")
			}
			l := loads()[i]
			if diff := cmp.Diff(tt.want, strings.Join(append(l.brokers(urls), l.args...), " ")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLoadsAreChosenByName(t *testing.T) {
	chosen, err := choose(loads(), "^cross-qos[01]-15000$")
	if err != nil || len(chosen) != 2 {
		t.Errorf("%d loads, %v", len(chosen), err)
	}
	for _, bad := range []string{"absent", "("} {
		if _, err := choose(loads(), bad); err == nil {
			t.Errorf("loads were chosen by %q", bad)
		}
	}
}

func TestWhatCannotBeRunIsSaidAndTheRestGoesOn(t *testing.T) {
	dir := t.TempDir() // without any program
	raw, document := filepath.Join(dir, "raw.json"), filepath.Join(dir, "doc.md")
	if err := os.WriteFile(document, []byte("# Doc\n<!-- make bench-peers writes from here -->\n<!-- to here -->\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, log strings.Builder
	err := run(t.Context(), []string{"-bin", dir, "-rounds", "2", "-only", "move", "-json", raw, "-markdown", document}, &out, &log)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(log.String(), "no such file"); n != 4 {
		t.Errorf("%d of 4 failures are said:\n%s", n, log.String())
	}
	for _, want := range []string{"is not measured", "Moving 1,000", "not measured"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, out.String())
		}
	}
	text, err := os.ReadFile(document)
	if err != nil || !strings.Contains(string(text), "### Moving 1,000") || !strings.Contains(string(text), "### Targets") {
		t.Errorf("the document is %v\n%s", err, text)
	}
	var results struct {
		Machine string
		Samples []report.Sample
	}
	b, err := os.ReadFile(raw)
	if err == nil {
		err = json.Unmarshal(b, &results)
	}
	if err != nil || len(results.Samples) != 4 || results.Samples[3].Round != 2 || results.Samples[3].Failure == "" || results.Machine == "" {
		t.Errorf("%v, raw results %+v", err, results)
	}
}

func TestAnInterruptedRunPrintsWhatThereIsAndLeavesTheDocumentAlone(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	document := filepath.Join(t.TempDir(), "absent.md")
	var out, log strings.Builder
	if err := run(ctx, []string{"-bin", t.TempDir(), "-only", "move", "-markdown", document}, &out, &log); err == nil {
		t.Error("it is taken for complete")
	}
	if !strings.Contains(out.String(), "Moving 1,000") || log.Len() != 0 {
		t.Errorf("it printed %q and logged %q", out.String(), log.String())
	}
}

func TestArgumentsThatMakeNoSenseAreRefused(t *testing.T) {
	for _, args := range [][]string{{"-rounds", "0"}, {"-only", "absent"}, {"-duration", "8"}, {"-bad"}} {
		var out, log strings.Builder
		if err := run(t.Context(), args, &out, &log); err == nil {
			t.Errorf("%q was run", args)
		}
	}
}

func TestTheNamesOfLoadsAreListed(t *testing.T) {
	var out, log strings.Builder
	if err := run(t.Context(), []string{"-list"}, &out, &log); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "\n"); n != len(loads()) || !strings.Contains(out.String(), "cross-qos0-15000") {
		t.Errorf("%d lines for %d loads:\n%s", n, len(loads()), out.String())
	}
}

func TestTheDocumentHasAPlaceForTheFigures(t *testing.T) {
	document, err := os.ReadFile("../../docs/benchmarks.md")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := report.Insert(document, "text\n"); err != nil {
		t.Error(err)
	}
}

func TestTheMachineIsDescribed(t *testing.T) {
	got := machine(t.Context())
	for _, want := range []string{" cores (", " GiB of memory", "Linux ", "go1", time.Now().UTC().Format("2006-"), "commit "} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in %q", want, got)
		}
	}
	if strings.Contains(got, " 0 GiB") || strings.Contains(got, "Linux ,") {
		t.Errorf("something is not known in %q", got)
	}
}
