package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// put writes a file of the test and returns its path.
func put(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestUpLetsInThoseWhoAreInTheFile(t *testing.T) {
	dir := t.TempDir()
	users := filepath.Join(dir, "users")
	ann := put(t, dir, "ann", begin(t, nil, "password", "ann", "--file", users).done())
	if out := begin(t, strings.NewReader("of my own\n"), "password", "bob", "--stdin", "--file", users).done(); out != "" {
		t.Errorf("it says %q", out)
	}
	bob := put(t, dir, "bob", "of my own")
	rules := put(t, dir, "rules.yaml", `
rules:
  - {permission: allow, action: all, topic: "home/${username}/#"}
  - {permission: allow, action: subscribe, topic: "news/#"}
`)
	up := begin(t, nil, "up", "--gateways", "2", "--first-port", "0", "--data", filepath.Join(dir, "data"), "--users", users, "--rules", rules)
	e := up.endpointsIn(filepath.Join(dir, "data"))
	for _, url := range []string{e.Gateways[0].MQTT, e.Gateways[1].MQTTS, e.Router.MQTT, e.Router.MQTTS, e.Router.WebSocket} {
		as := func(user, password string) []string {
			return []string{"-u", url, "--ca-file", e.CAFile, "--username", user, "--password-file", password, "-q", "1"}
		}
		sub := beginSub(t, append([]string{"-t", "home/ann/#", "-n", "1"}, as("ann", ann)...)...)
		succeeds(t, append([]string{"pub", "-t", "home/ann/x", "-m", "hello"}, as("ann", ann)...)...)
		if got := sub.done(); !strings.Contains(got, "hello") {
			t.Errorf("%s: it got %q", url, got)
		}
		fails(t, "reason 0x87", append([]string{"pub", "-t", "home/ann/x", "-m", "x"}, as("bob", bob)...)...)
		fails(t, "bad user name or password", append([]string{"pub", "-t", "home/ann/x", "-m", "x"}, as("ann", bob)...)...)
		fails(t, "not authorized", "pub", "-u", url, "--ca-file", e.CAFile, "-t", "home/ann/x", "-m", "x")
		fails(t, "reason 0x87", append([]string{"sub", "-t", "#"}, as("bob", bob)...)...)
	}
	// What services publish is not a matter of these rules, nor is what they get.
	succeeds(t, "publish", "-t", "news/today", "-m", "x", "--data", filepath.Join(dir, "data"))
	up.stop()
	up.done()
}

func TestAPasswordIsPrintedOnceWithItsLine(t *testing.T) {
	out := begin(t, nil, "password", "ann").done()
	password, rest, _ := strings.Cut(out, "\n")
	if len(password) < 20 || strings.Contains(rest, password) || !strings.Contains(rest, "\nann:$2a$") {
		t.Errorf("it says:\n%s", out)
	}
	if out := begin(t, strings.NewReader("mine"), "password", "ann", "--stdin").done(); !strings.HasPrefix(out, "ann:$2a$") || strings.Contains(out, "mine") {
		t.Errorf("it says:\n%s", out)
	}
	fails(t, "1 to 72", "password", "ann", "--stdin")
	fails(t, "user name", "password", "")
	other := put(t, t.TempDir(), "other", "listeners: []\n")
	fails(t, "--file", "password", "ann", "--file", other)
	fails(t, "--rules: is of no use without --users", "up", "--rules", other)
}
