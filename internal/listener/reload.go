package listener

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// reloadEvery is how often at most the files of a certificate are looked at: when a client comes.
const reloadEvery = time.Second

// certificate is a listener's, read again when its files have changed.
type certificate struct {
	certFile, keyFile string
	logger            *slog.Logger
	every             time.Duration

	mu      sync.Mutex // guards the following
	current *tls.Certificate
	state   [2]fileState
	looked  time.Time
}

// fileState tells whether a file is another one than before.
type fileState struct {
	modified time.Time
	size     int64
}

func loadCertificate(certFile, keyFile string, logger *slog.Logger) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, logger: logger, every: reloadEvery}
	state, err := c.look()
	if err != nil {
		return nil, err
	}
	return c, c.load(state)
}

// look returns the state of both files.
func (c *certificate) look() (state [2]fileState, err error) {
	for i, path := range [...]string{c.certFile, c.keyFile} {
		info, err := os.Stat(path)
		if err != nil {
			return state, fmt.Errorf("cert_file, key_file: %w", err)
		}
		state[i] = fileState{info.ModTime(), info.Size()}
	}
	return state, nil
}

// load reads the files, which are in a state. With mu held, or before anybody else knows c.
func (c *certificate) load(state [2]fileState) error {
	cert, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("cert_file, key_file: %w", err)
	}
	c.current, c.state = &cert, state
	return nil
}

// get is the GetCertificate of a tls.Config. While the files make no sense, as half way through their being replaced, the
// former certificate stays.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.looked) >= c.every {
		c.looked = now
		state, err := c.look()
		if err == nil && state != c.state {
			if err = c.load(state); err == nil {
				c.logger.Info("certificate read again")
			}
		}
		if err != nil {
			c.logger.Warn("certificate not read again: the former one stays", slog.Any("error", err))
		}
	}
	return c.current, nil
}
