package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func (p *process) endpointsIn(dir string) endpoints {
	p.t.Helper()
	return endpointsIn(p.t, dir, p.ended)
}

// endpointsIn waits for endpoints.json, as a script would, and reads it. It fails when up has ended.
func endpointsIn(t testing.TB, dir string, ended <-chan struct{}) endpoints {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(3 * patience) // what was killed is waited for when it is started again
	for {
		text, err := os.ReadFile(filepath.Join(dir, "endpoints.json"))
		if err == nil {
			var e endpoints
			d := json.NewDecoder(strings.NewReader(string(text)))
			d.DisallowUnknownFields()
			if err := d.Decode(&e); err != nil {
				t.Fatalf("endpoints.json: %v in\n%s", err, text)
			}
			return e
		}
		select {
		case <-tick.C:
		case <-ended:
			t.Fatal("it has ended, and there is no endpoints.json")
		case <-late:
			t.Fatal("no endpoints.json")
		}
	}
}

func httpStatus(t *testing.T, url string) string {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	r, err := c.Get(url)
	if err != nil {
		return err.Error()
	}
	defer r.Body.Close()
	body, _ := io.ReadAll(r.Body)
	return fmt.Sprintf("%d %s", r.StatusCode, strings.TrimSpace(string(body)))
}

// suggested returns the arguments of the commands that up suggests to try.
func suggested(out string) [][]string {
	var all [][]string
	for line := range strings.Lines(out) {
		command, found := strings.CutPrefix(strings.TrimSpace(line), "bin/beeline ")
		if !found {
			continue
		}
		var args []string
		for i, part := range strings.Split(command, "'") {
			if i%2 == 1 {
				args = append(args, part)
			} else {
				args = append(args, strings.Fields(part)...)
			}
		}
		all = append(all, args)
	}
	return all
}

func TestUpRunsAClusterAndSaysWhereItIs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	flags := []string{"up", "--gateways", "2", "--first-port", "0", "--data", dir}
	for _, round := range []string{"in a new directory", "in one that has been used"} {
		up := begin(t, nil, flags...)
		e := up.endpointsIn(dir)
		if len(e.Gateways) != 2 || len(e.Sessions) != 1 || e.Etcd == "" {
			t.Fatalf("%s: %+v", round, e)
		}
		// Whoever sees the file finds everything ready.
		for _, s := range []serviceEndpoint{e.Sessions[0], e.Gateways[0].serviceEndpoint, e.Gateways[1].serviceEndpoint} {
			if got := httpStatus(t, s.Admin+"/readyz"); got != "200 ready" {
				t.Errorf("%s: /readyz of %s: %s", round, s.Admin, got)
			}
		}
		for _, address := range []string{e.Etcd, e.Sessions[0].GRPC, e.Gateways[0].GRPC} {
			nc, err := net.Dial("tcp", address)
			if err != nil {
				t.Errorf("%s: %v", round, err)
				continue
			}
			nc.Close()
		}
		for _, g := range e.Gateways {
			for _, u := range []string{g.MQTT, g.MQTTS, g.WebSocket} {
				succeeds(t, "pub", "-u", u, "--ca-file", e.CAFile, "-t", "a", "-q", "1")
			}
		}

		up.await("for Ann alone", &up.stdout)
		out := up.stdout.String()
		for _, want := range []string{"Beeline is up: 2 gateways, one broker.", e.Gateways[0].MQTT, e.Gateways[1].WebSocket, e.CAFile} {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %q in\n%s", round, want, out)
			}
		}
		try := suggested(out)
		if len(try) != 3 {
			t.Fatalf("%s: commands to try: %q", round, try)
		}
		sub := beginSub(t, append(try[0][1:], "-n", "2")...)
		succeeds(t, try[1]...)
		succeeds(t, try[2]...)
		if got, want := sub.done(), "news/today hello\np2p/ann/note for Ann alone\n"; got != want {
			t.Errorf("%s: printed %q, want %q", round, got, want)
		}

		if round == "in a new directory" {
			fails(t, "--data: another beeline up uses "+dir, flags...)
			up.endpointsIn(dir) // the first is not disturbed
		}
		if got := up.stderr.String(); got != "" {
			t.Errorf("%s: warnings:\n%s", round, got)
		}
		up.stop()
		if out := up.done(); !strings.HasSuffix(out, "stopping\n") {
			t.Errorf("%s: the last that it said was %q", round, out)
		}
		if _, err := os.Stat(filepath.Join(dir, "endpoints.json")); !os.IsNotExist(err) {
			t.Errorf("%s: endpoints.json is left: %v", round, err)
		}
	}
}

func TestEndpointsAreWhatTheDocumentationSays(t *testing.T) {
	e := endpointsOf(shared.Cluster)
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	g, s := shared.Gateways(), shared.Sessions()
	gateway := func(i int) map[string]any {
		return map[string]any{
			"grpc": g[i].Node.Address(), "admin": "http://" + g[i].Node.AdminAddress(),
			"mqtt": at("mqtt", i, "mqtt"), "mqtts": at("mqtts", i, "mqtts"), "ws": at("ws", i, "ws") + "/mqtt",
		}
	}
	r := shared.Router()
	want := map[string]any{
		"router": map[string]any{
			"grpc": r.Node.Address(), "admin": "http://" + r.Node.AdminAddress(), "mqtt": "mqtt://" + r.Service.Addr("mqtt").String(),
			"mqtts": "mqtts://" + r.Service.Addr("mqtts").String(), "ws": "ws://" + r.Service.Addr("ws").String() + "/mqtt", "rest": "http://" + r.Service.REST().String(),
		},
		"operator": map[string]any{"cert_file": r.Operator.Cert, "key_file": r.Operator.Key, "token_file": r.OperatorToken},
		"ca_file":  shared.CAFile(), "etcd": shared.Etcd(),
		"sessions": []any{map[string]any{"grpc": s[0].Node.Address(), "admin": "http://" + s[0].Node.AdminAddress()}},
		"gateways": []any{gateway(0), gateway(1)},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestEndpointsAreWrittenAtOnce(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "endpoints.json")
	for _, e := range []endpoints{{Etcd: "a:1"}, {Etcd: "b:2"}} {
		if err := e.write(path); err != nil {
			t.Fatal(err)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("left beside it: %v, %v", files, err)
	}
	if err := (endpoints{}).write(filepath.Join(dir, "missing", "endpoints.json")); err == nil {
		t.Error("no error where nothing can be written")
	}
}

func TestUpThatIsInterruptedWhileItStarts(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "endpoints.json")
	if err := os.WriteFile(stale, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	up := begin(t, nil, "up", "--first-port", "0", "--data", dir)
	up.stop()
	up.done()
	if _, err := os.Stat(stale); !os.IsNotExist(err) {
		t.Error("endpoints.json of an earlier run is left: a script would take it for this one's")
	}
}

func TestWhatUpCannotDo(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "used", "endpoints.json", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := fmt.Sprint(taken.Addr().(*net.TCPAddr).Port)
	tests := []struct{ name, want, arguments string }{
		{"no gateways", "--gateways: at least one", "--gateways 0"},
		{"a negative number", "--gateways: at least one", "--gateways -1"},
		{"no number", "--gateways", "--gateways many"},
		{"a port that is none", "--first-port -1: ", "--first-port -1"},
		{"no port for the last", "--first-port 65535: ", "--first-port 65535 --gateways 2"},
		{"the log's format", "--log-format: must be text or json", "--log-format xml"},
		{"the log's level", "--log-level", "--log-level loud"},
		{"arguments", `unknown command "now"`, "now"},
		{"an unknown flag", "unknown flag: --port", "--port 1"},
		{"data in a file", "--data: ", "--data " + file},
		{"endpoints.json is no file", "--data: ", "--data " + filepath.Join(dir, "used")},
		{"a port that is taken", `gateway 1: listener "mqtt": listen tcp 127.0.0.1:` + port, "--gateways 1 --first-port " + port + " --data " + filepath.Join(dir, "taken")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fails(t, tt.want, append([]string{"up"}, strings.Fields(tt.arguments)...)...)
		})
	}
	if _, err := os.Stat(filepath.Join(dir, "taken", "endpoints.json")); !os.IsNotExist(err) {
		t.Error("there is an endpoints.json of a cluster that is not there")
	}
	if _, err := os.Stat("beeline-data"); !os.IsNotExist(err) {
		t.Errorf("a command that was refused has made its data directory: %v", err)
	}
}
