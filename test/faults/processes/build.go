//go:build linux

package processes

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// module is where the commands are.
const module = "github.com/beeline-mqtt/beeline/"

// Binaries are the programs that a Cluster is made of.
type Binaries struct{ dir string }

// Build builds the programs into dir. With race they look for data races: whatever they find fails the test.
func Build(ctx context.Context, dir string, race bool) (Binaries, error) {
	args := []string{"build", "-o", dir + string(filepath.Separator)}
	cgo := "CGO_ENABLED=0"
	if race {
		args = append(args, "-race")
		cgo = "CGO_ENABLED=1"
	}
	args = append(args, module+"services/gateway/cmd/gateway", module+"services/session/cmd/session", module+"services/router/cmd/router",
		module+"test/faults/cmd/etcd")
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		return Binaries{}, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return Binaries{dir: dir}, nil
}

func (b Binaries) path(name string) string { return filepath.Join(b.dir, name) }
