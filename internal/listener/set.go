package listener

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"

	"github.com/beeline-mqtt/beeline/internal/config"
)

// Set are the listeners of one service, told apart by their names.
type Set []*Listener

// ValidateNames reports under key, which has the list, that there is no listener, or one whose name is missing or used
// before.
func ValidateNames(key string, all []Config) error {
	if len(all) == 0 {
		return config.Invalid(key, "is missing: at least one is needed")
	}
	seen := make(map[string]bool, len(all))
	for i, c := range all {
		if c.Name == "" || seen[c.Name] {
			return config.Invalid(fmt.Sprintf("%s[%d].name", key, i), "must be given, and not twice")
		}
		seen[c.Name] = true
	}
	return nil
}

// ListenAll binds all addresses, or none. At most maxConns connections are open at once on each listener.
func ListenAll(all []Config, maxConns int, logger *slog.Logger) (Set, error) {
	var s Set
	for _, c := range all {
		l, err := Listen(c, maxConns, logger)
		if err != nil {
			s.Close()
			return nil, err
		}
		s = append(s, l)
	}
	return s, nil
}

// Close gives the addresses up. It is for listeners that are not served.
func (s Set) Close() {
	for _, l := range s {
		_ = l.Close()
	}
}

// Addr returns the address of a listener by its name, nil when there is none.
func (s Set) Addr(name string) net.Addr {
	for _, l := range s {
		if l.Name() == name {
			return l.Addr()
		}
	}
	return nil
}

// Serve serves all of them until ctx ends, and waits until their handlers have returned. When one ends by itself, all do.
func (s Set) Serve(ctx context.Context, h Handler) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var serving sync.WaitGroup
	errs := make([]error, len(s))
	for i, l := range s {
		serving.Go(func() {
			defer stop()
			errs[i] = l.Serve(ctx, h)
		})
	}
	serving.Wait()
	return errors.Join(errs...)
}
