//go:build linux

package process

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// Address returns a host:port of loopback that is free. It stays so, for a process to be restarted on, because it
// is below the ports from which connections are made, and no two are given out in one run.
func Address() (string, error) {
	const first, last = 20000, 32000
	for range 1000 {
		a := net.JoinHostPort("127.0.0.1", strconv.Itoa(first+rand.N(last-first)))
		if _, given := addresses.LoadOrStore(a, true); given {
			continue
		}
		ln, err := net.Listen("tcp", a)
		if err != nil {
			continue
		}
		_ = ln.Close()
		return a, nil
	}
	return "", errors.New("no free port")
}

// addresses were given out already.
var addresses sync.Map //nolint:gochecknoglobals // ports belong to the whole process
