//go:build linux

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	programs "github.com/beeline-mqtt/beeline/test/process"
)

// separate is beeline up as a process of its own.
type separate struct {
	*programs.Process
	dir string
}

func newSeparate(t *testing.T) separate {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "data")
	p := &programs.Process{
		Name: "beeline up", Path: self, Args: []string{"up", "--first-port", "0", "--data", dir},
		Env: []string{asCommand + "=1"}, LogFile: filepath.Join(t.TempDir(), "log"),
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("it said:\n%s", p.Log())
		}
	})
	return separate{p, dir}
}

// boot starts it on the data that it has, and returns where everything is.
func (p separate) boot(t *testing.T) endpoints {
	t.Helper()
	if err := remove(filepath.Join(p.dir, "endpoints.json")); err != nil { // of one that was killed
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	return endpointsIn(t, p.dir, p.Done())
}

func TestWhatIsOwedOutlivesTheWholeCluster(t *testing.T) {
	t.Parallel()
	up := newSeparate(t)
	e := up.boot(t)
	for _, round := range []struct {
		name string
		end  func(t *testing.T)
	}{
		{"killed", func(*testing.T) { up.Kill() }},
		{"told to stop", func(t *testing.T) {
			if code, err := up.Stop(patience); code != 0 || err != nil {
				t.Errorf("exit code %d, %v", code, err)
			}
		}},
	} {
		away := map[string][]string{} // how each client subscribes
		for _, version := range []string{"3.1.1", "5"} {
			id := strings.ReplaceAll(round.name, " ", "-") + version
			away[id] = []string{"-V", version, "-i", id, "--clean=false", "-q", "2", "-o", "payload"}
			sub := beginSub(t, append(away[id], "-u", e.Gateways[0].MQTT, "-t", "news/#")...)
			sub.stop()
			sub.done()
		}
		// One of which nobody hears that it goes.
		here := []string{"-i", "here", "--clean=false", "-q", "2", "-n", "1", "-u"}
		beginSub(t, append(here, e.Gateways[0].MQTT, "-t", "here")...)

		publish := func(first int, qos string) {
			begin(t, strings.NewReader(lines(first, 50)), "pub", "-u", e.Gateways[1].MQTT, "-t", "news/x", "-q", qos, "--stdin").done()
		}
		publish(0, "1")
		publish(50, "2")
		succeeds(t, "pub", "-u", e.Gateways[1].MQTT, "-t", "state", "-q", "1", "-r", "-m", round.name)

		round.end(t)
		e = up.boot(t)
		publish(100, "1")
		succeeds(t, "pub", "-u", e.Gateways[1].MQTT, "-t", "here", "-q", "2", "-m", "late")

		for id, flags := range away {
			again := append([]string{"sub", "-u", e.Gateways[2].MQTT}, flags...)
			if diff := cmp.Diff(lines(0, 150), begin(t, nil, append(again, "-n", "150")...).done()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", id, diff)
			}
			fails(t, "not done within", append(again, "--timeout", "300ms")...)
			// Its session is over: it is not to get what the next round publishes.
			succeeds(t, "pub", "-u", e.Gateways[2].MQTT, "-V", flags[1], "-i", id, "-t", "bye")
		}
		if out := begin(t, nil, append([]string{"sub"}, append(here, e.Gateways[2].MQTT)...)...).done(); out != "here late\n" {
			t.Errorf("a client that was connected printed %q", out)
		}
		if out := begin(t, nil, "sub", "-u", e.Gateways[2].MQTT, "-t", "state", "-n", "1", "-o", "payload").done(); out != round.name+"\n" {
			t.Errorf("retained: %q", out)
		}
	}
}
