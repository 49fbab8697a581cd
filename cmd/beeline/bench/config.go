package bench

import (
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"
)

// Config is what all scenarios have.
type Config struct {
	Brokers   []Broker // at least one
	Login     Login
	Processes []Process
	Prefix    string // begins client ids and topics
	Warmup    time.Duration
	Duration  time.Duration
	Progress  io.Writer // takes one line a second; nil: nobody wants to know

	quiet  time.Duration // 0 is defaultQuiet
	settle time.Duration // 0 is defaultSettle
}

const (
	// defaultQuiet is how long nothing comes before what is missing counts as lost.
	defaultQuiet = 2 * time.Second
	// defaultSettle is how long nobody looks, after the last client has moved, on which connection the clients are.
	defaultSettle = 5 * time.Second
)

// Load is what publishers send.
type Load struct {
	Rate int // messages a second, of all publishers; 0: as many as the window lets them
	QoS  byte
	Size int // bytes of a payload, at least MinSize
	// Durable subscribers have sessions that outlive their connections.
	Durable bool
	Window  int // messages of a publisher under way: not acknowledged; at QoS 0 with rate 0, not received

	// Tick is how often messages are sent, at a rate with more than one in it: those of several publishers at once.
	Tick time.Duration
}

// check reports what cannot be.
func (c *Config) check(connections int) error {
	switch {
	case len(c.Brokers) == 0:
		return errors.New("no broker")
	case c.Warmup < 0:
		return errors.New("warmup: not negative")
	case c.Duration <= 0:
		return errors.New("duration: more than 0")
	}
	return checkFiles(connections)
}

func (l *Load) check() error {
	switch {
	case l.Rate < 0:
		return errors.New("rate: not negative")
	case l.QoS > 2:
		return errors.New("qos: 0, 1 or 2")
	case l.Size < MinSize:
		return fmt.Errorf("size: at least %d bytes, which the checks need", MinSize)
	case l.Tick < 10*time.Microsecond:
		return errors.New("tick: at least 10us")
	case l.Window < 1 || l.Window > 65535:
		return errors.New("window: 1 to 65535")
	}
	return nil
}

// otherFiles is how many files are open beside the connections, generously.
const otherFiles = 50

// checkFiles reports an error when the process may not open so many connections.
func checkFiles(connections int) error {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	if uint64(connections+otherFiles) > l.Cur {
		return fmt.Errorf("%d connections at once need %d open files and this process may have %d: see ulimit -n",
			connections, connections+otherFiles, l.Cur)
	}
	return nil
}
