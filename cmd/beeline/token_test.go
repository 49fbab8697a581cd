package main

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// get asks the REST API for a path, with a token if one is given.
func get(t *testing.T, url, token string) (code int, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

func TestATokenIsMadeForTheRouterOfUp(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	up := begin(t, nil, "up", "--gateways", "1", "--first-port", "0", "--data", dir)
	e := up.endpointsIn(dir)
	operator, err := os.ReadFile(e.Operator.TokenFile)
	if err != nil {
		t.Fatal(err)
	}
	if code, body := get(t, e.Router.REST+"/v1/clusters", strings.TrimSpace(string(operator))); code != http.StatusOK || !strings.Contains(body, `"default"`) {
		t.Errorf("the operator's token: %d %s", code, body)
	}
	if code, body := get(t, e.Router.REST+"/v1/clusters", ""); code != http.StatusUnauthorized || !strings.Contains(body, "NO_IDENTITY") {
		t.Errorf("no token: %d %s", code, body)
	}
	tokens := filepath.Join(dir, "tokens.yaml")
	token := begin(t, nil, "token", "vera", "--role", "viewer", "--subscribe", "news/#", "--file", tokens).done()
	up.stop()
	up.done()

	// The next up has the same operator, and whoever was added.
	up = begin(t, nil, "up", "--gateways", "1", "--first-port", "0", "--data", dir)
	e = up.endpointsIn(dir)
	for _, who := range []string{token, string(operator)} {
		if code, body := get(t, e.Router.REST+"/v1/clusters", strings.TrimSpace(who)); code != http.StatusOK {
			t.Errorf("after a restart: %d %s", code, body)
		}
	}
	up.stop()
	up.done()
}

func TestATokenIsPrintedWithItsEntry(t *testing.T) {
	out := begin(t, nil, "token", "chat", "--role", "publisher", "--publish", "chat/#", "--client-prefix", "").done()
	token, rest, _ := strings.Cut(out, "\n")
	if !strings.HasPrefix(token, "beeline_") || strings.Contains(rest, token) || !strings.Contains(rest, "name: chat") ||
		!strings.Contains(rest, "chat/#") || !strings.Contains(rest, "sha256:") {
		t.Errorf("it says:\n%s", out)
	}
	fails(t, "--role: viewer, publisher or operator", "token", "chat")
	fails(t, `role "king"`, "token", "chat", "--role", "king")
	fails(t, "an operator has none", "token", "chat", "--role", "operator", "--publish", "#")
	fails(t, `topic filter "#/a"`, "token", "chat", "--role", "viewer", "--publish", "#/a")
	other := filepath.Join(t.TempDir(), "other.yaml")
	if err := os.WriteFile(other, []byte("listeners: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	fails(t, "--file", "token", "chat", "--role", "viewer", "--file", other)
}

func TestATokenIsRemovedAndTheOthersStay(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens.yaml")
	certs := []string{"certs", "--authority", t.TempDir(), "--out", t.TempDir(), "--tokens", file, "router/router"}
	succeeds(t, certs...)
	empty := read(t, file)
	for _, name := range []string{"ann", "bob", "ann"} {
		succeeds(t, "token", name, "--role", "viewer", "--publish", "a/#", "--file", file)
	}
	full := read(t, file)
	succeeds(t, certs...) // as whenever the cluster is brought up
	if got := read(t, file); got != full {
		t.Errorf("it was\n%sand is\n%s", full, got)
	}
	mine := strings.Replace(full, "- name: bob", "# he may stay\n- name: bob", 1)
	if err := os.WriteFile(file, []byte(mine), 0o600); err != nil {
		t.Fatal(err)
	}
	succeeds(t, "token", "ann", "--remove", "--file", file)
	if got := read(t, file); strings.Contains(got, "ann") || !strings.Contains(got, "name: bob") || !strings.Contains(got, "# he may stay") {
		t.Errorf("without ann:\n%s", got)
	}
	succeeds(t, "token", "eve", "--role", "viewer", "--file", file)
	succeeds(t, "token", "eve", "--remove", "--file", file)
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o640 {
		t.Errorf("mode %v, %v: the routers have to read it", info.Mode(), err)
	}
	fails(t, `"ann": no token has that name`, "token", "ann", "--remove", "--file", file)
	fails(t, "--remove: give the --file", "token", "bob", "--remove")
	fails(t, "--remove: give the --file", "token", "bob", "--remove", "--file", file, "--role", "viewer")
	succeeds(t, "token", "bob", "--remove", "--file", file)
	if got := read(t, file); got != empty {
		t.Errorf("without anybody: %q", got)
	}
	fails(t, "no such file", "token", "bob", "--remove", "--file", file+".not")
	fails(t, "--tokens:", "certs", "--authority", t.TempDir(), "--out", t.TempDir(), "--tokens", file+"/no/file", "router/router")
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
