//go:build linux

package compose

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/grpc"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

// section is the text of docs/services.md below a heading.
func section(t *testing.T, heading string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/services.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(text), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("docs/services.md has no section %q", heading)
	}
	body, _, _ := strings.Cut(after, "\n## ")
	return body
}

// commands are the blocks of shell of a section.
func commands(t *testing.T, heading string) []string {
	t.Helper()
	var all []string
	for _, m := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(section(t, heading), -1) {
		all = append(all, m[1])
	}
	return all
}

func TestEveryMethodIsTriedInTheDocuments(t *testing.T) {
	text := section(t, "With grpcurl")
	for _, s := range []*grpc.ServiceDesc{
		&messagingv1.MessagingService_ServiceDesc, &messagingv1.GroupService_ServiceDesc,
		&adminv1.AdminService_ServiceDesc, &adminv1.GatewayService_ServiceDesc, &adminv1.PlacementService_ServiceDesc,
	} {
		var names []string
		for _, m := range s.Methods {
			names = append(names, m.MethodName)
		}
		for _, m := range s.Streams {
			names = append(names, m.StreamName)
		}
		for _, name := range names {
			if !regexp.MustCompile(`\$\w+/` + name + `\b`).MatchString(text) {
				t.Errorf("docs/services.md does not say how to try %s/%s", s.ServiceName, name)
			}
		}
	}
}

// around makes a script of what the documents say: the first command that fails ends it, and nothing is left of what it has
// begun. docker compose is the command that the test was given.
const around = `set -em
trap 'for job in $(jobs -p); do kill -- -$job 2>/dev/null || true; done' EXIT
docker() { if [ "$1" = compose ]; then shift; command $COMPOSE "$@"; else command docker "$@"; fi; }
`

// What is documented is pasted as it stands, but for the ports, which are the engine's choice.
func (p *project) doesWhatIsDocumented(t *testing.T) {
	who, try := commands(t, "Who you are"), commands(t, "With grpcurl")
	if len(who) != 2 || len(try) < 2 {
		t.Fatalf("%d blocks of who one is, %d of what to try", len(who), len(try))
	}
	refused := try[len(try)-1]
	script := around + who[1] + strings.Join(try[:len(try)-1], "") + strings.Join(commands(t, "REST"), "") + "set +e\necho REFUSED\n" + refused
	script = strings.NewReplacer(
		"127.0.0.1:7946", p.address(t, "router", "7946"), "127.0.0.1:8080", p.address(t, "router", "8080"),
		"127.0.0.1:1883", p.address(t, "router", "1883"),
	).Replace(script) + "true\n"

	out := p.paste(t, script)
	did, was, _ := strings.Cut(out, "\nREFUSED\n")
	for _, want := range []string{
		"beeline.messaging.v1.GroupService", "rpc PublishStream", `"status": "SERVING"`,
		`"kind": "KIND_CONNECTED"`, `"step": "TRACE_STEP_DELIVERED"`, `"deliveryId": "1"`,
		`"matched": true`, `"reasonCode": 16`, `"OUTCOME_ACKNOWLEDGED"`, `"OUTCOME_QUEUED"`, `"payload": "NDIga1do"`, `"code": 5`,
		`"added": "2"`, `"removed": "1"`, `"inboxMessages": "2"`, "It would not get it", "It would get it", `"topic": "site/1/status"`,
		`"state": "GATEWAY_STATE_DRAIN`, `"shares"`, "192.0.2.1:1883",
		`{"matched":false}`, `"OUTCOME_UNKNOWN"`, `{"result":`, `"swagger"`,
	} {
		if !strings.Contains(did, want) {
			t.Errorf("nothing has answered %s", want)
		}
	}
	codes := map[string]int{"InvalidArgument": 2, "NotFound": 2, "OutOfRange": 1, "ResourceExhausted": 1, "Unauthenticated": 1, "PermissionDenied": 1}
	for code, want := range codes {
		if got := len(regexp.MustCompile(`(?i)code(:| =) `+code).FindAllString(was, -1)); got != want {
			t.Errorf("%d commands were refused with %s, want %d", got, code, want)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
}

// paste runs a script as somebody who has the repository would.
func (p *project) paste(t *testing.T, script string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "deploy/compose"), 0o755); err != nil { //nolint:gosec // nothing secret is in it
		t.Fatal(err)
	}
	files := make([]string, 0, 2)
	for _, name := range []string{"compose.yaml", "direct.yaml"} {
		path, err := filepath.Abs("../../deploy/compose/" + name)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, path)
	}
	return p.run(t, "env", "--chdir", dir, "COMPOSE="+os.Getenv("BEELINE_TEST_COMPOSE"),
		"COMPOSE_FILE="+strings.Join(files, ":"), "COMPOSE_PROJECT_NAME="+p.name, "COMPOSE_PROFILES=four",
		"PATH="+filepath.Dir(p.beeline)+":"+os.Getenv("PATH"), "bash", "-c", "exec 2>&1\n"+script)
}
