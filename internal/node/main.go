package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/beeline-mqtt/beeline/internal/config"
)

// Main is the main of a program: it runs run until that returns. SIGINT and SIGTERM end run's context, a second one the
// process. An error is printed behind the program's name, and the exit code 1; that a question about the configuration
// has been answered is none.
func Main(program string, run func(ctx context.Context) error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	if err := run(ctx); err != nil && !errors.Is(err, config.ErrDone) {
		fmt.Fprintln(os.Stderr, program+":", err)
		os.Exit(1)
	}
}
