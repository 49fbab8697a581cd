package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAStoreIsBackedUpAndRestored(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	start := func() (up *process, url string) {
		up = begin(t, nil, "up", "--gateways", "1", "--first-port", "0", "--data", dir)
		return up, up.endpointsIn(dir).Gateways[0].MQTT
	}
	up, u := start()
	sub := beginSub(t, "-u", u, "-i", "ann", "--clean=false", "-t", "news", "-q", "1")
	sub.stop()
	sub.done()
	succeeds(t, "pub", "-u", u, "-t", "news", "-q", "1", "-m", "before")
	succeeds(t, "pub", "-u", u, "-t", "state", "-q", "1", "-r", "-m", "before")

	running := strings.TrimSpace(begin(t, nil, "store", "backup", "running", "--data", dir).done())
	if want := filepath.Join(dir, "session-backups", "running"); running != want {
		t.Errorf("in %q, want %q", running, want)
	}
	fails(t, "another beeline up uses", "store", "restore", running, "--data", dir)
	fails(t, "a back-up's name is", "store", "backup", "../x", "--data", dir)

	succeeds(t, "pub", "-u", u, "-t", "news", "-q", "1", "-m", "after")
	succeeds(t, "pub", "-u", u, "-t", "state", "-q", "1", "-r", "-m", "after")
	up.stop()
	up.done()
	stopped := strings.TrimSpace(begin(t, nil, "store", "backup", "--data", dir).done())

	for _, round := range []struct{ from, state, news string }{
		{running, "before", "news before\n"},
		{stopped, "after", "news before\nnews after\n"},
	} {
		out := begin(t, nil, "store", "restore", round.from, "--data", dir).done()
		if former, ok := strings.CutPrefix(out, "the former store is "); !ok {
			t.Errorf("restore printed %q", out)
		} else if _, err := os.Stat(strings.TrimSpace(former)); err != nil {
			t.Error(err)
		}
		up, u = start()
		if out := begin(t, nil, "sub", "-u", u, "-t", "state", "-n", "1", "-o", "payload").done(); out != round.state+"\n" {
			t.Errorf("retained after %s: %q", round.from, out)
		}
		n := strings.Count(round.news, "\n")
		if out := begin(t, nil, "sub", "-u", u, "-i", "ann", "--clean=false", "-q", "1", "-n", string(rune('0'+n))).done(); out != round.news {
			t.Errorf("owed after %s: %q, want %q", round.from, out, round.news)
		}
		fails(t, "not done within", "sub", "-u", u, "-i", "ann", "--clean=false", "--timeout", "200ms")
		up.stop()
		up.done()
	}
}

func TestWhatCannotBeBackedUp(t *testing.T) {
	dir := t.TempDir()
	nothing := filepath.Join(dir, "nothing")
	fails(t, "--data: stat "+nothing, "store", "backup", "--data", nothing)
	fails(t, "no such file", "store", "backup", "--data", dir)
	fails(t, "no such file", "store", "restore", nothing, "--data", dir)
	fails(t, "accepts 1 arg", "store", "restore")
	unlock, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	fails(t, "is not ready: try again", "store", "backup", "--data", dir)
}
