package auth

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/bcrypt"

	"github.com/beeline-mqtt/beeline/internal/watched"
)

const (
	// longestPassword is what bcrypt looks at.
	longestPassword = 72
	// highestCost takes some seconds. More would be a way to stop a gateway by its own file.
	highestCost = 15
	// usualCost is that of new entries.
	usualCost = bcrypt.DefaultCost
)

// users are what a password file says.
type users struct {
	hashes map[string][]byte
	// slowest is one of the hashes that take longest; nil when there is none.
	slowest []byte
}

// parseUsers reads lines of user:hash. Empty ones and those that begin with # say nothing.
func parseUsers(text []byte) (*users, error) {
	u := &users{hashes: make(map[string][]byte)}
	highest := 0
	number := 0
	for line := range bytes.Lines(text) {
		number++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		name, hash, err := parseUser(string(line))
		if _, twice := u.hashes[name]; err == nil && twice {
			err = errors.New("the user is there already")
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		u.hashes[name] = hash
		if cost, _ := bcrypt.Cost(hash); cost > highest {
			highest, u.slowest = cost, hash
		}
	}
	return u, nil
}

// parseUser reads a line. Errors do not repeat it: somebody may have written a password.
func parseUser(line string) (name string, hash []byte, err error) {
	at := strings.LastIndexByte(line, ':')
	if at < 0 {
		return "", nil, errors.New("is not user:hash")
	}
	name, hash = line[:at], []byte(line[at+1:])
	if err := validUser(name); err != nil {
		return "", nil, err
	}
	cost, err := bcrypt.Cost(hash)
	switch {
	case err != nil || len(hash) != 60:
		return "", nil, errors.New("the hash is not one of bcrypt")
	case cost > highestCost:
		return "", nil, fmt.Errorf("the hash has the cost %d: at most %d", cost, highestCost)
	}
	return name, hash, nil
}

func validUser(name string) error {
	if name == "" || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) || strings.TrimSpace(name) != name || name[0] == '#' {
		return errors.New("the user name is empty, begins with #, or has characters at its ends or in it that it cannot have")
	}
	return nil
}

// passwords is the method password. Comparing is slow on purpose, and anybody may ask for it: few are compared at a time, and
// what was right once is remembered by a hash that nobody has outside of the process.
type passwords struct {
	file    *watched.File[*users]
	compare chan struct{} // an element for each that is being compared
	waiting atomic.Int64  // those, and who waits for that
	most    int64         // of waiting
	secret  []byte        // of the hashes of known

	mu    sync.Mutex        // guards known
	known map[string][]byte // by user name: what was right last
}

func newPasswords(cfg PasswordConfig, d Deps) (*passwords, error) {
	file, err := watched.Open(cfg.File, parseUsers, watched.Deps{Logger: d.Logger, Now: d.Now})
	if err != nil {
		return nil, err
	}
	concurrency := cfg.Concurrency
	if concurrency == 0 {
		concurrency = max(1, runtime.NumCPU()/2)
	}
	p := &passwords{
		file: file, compare: make(chan struct{}, concurrency), most: int64(concurrency + cfg.Waiting),
		secret: make([]byte, sha256.Size), known: make(map[string][]byte),
	}
	_, _ = rand.Read(p.secret) // never fails
	return p, nil
}

// try implements method. A user who is not in the file is another method's.
func (p *passwords) try(ctx context.Context, a Attempt) (Identity, error) {
	if !compares(a) {
		return Identity{}, errNotMine
	}
	all := p.file.Get(ctx)
	hash, ok := all.hashes[a.Username]
	if !ok {
		return Identity{}, errNotMine
	}
	shown := p.shown(a, hash)
	if !p.isKnown(a.Username, shown) {
		if err := p.matches(ctx, hash, a.Password); err != nil {
			return Identity{}, err
		}
		p.remember(all, a.Username, shown)
	}
	return Identity{ClientID: a.ClientID, Username: a.Username}, nil
}

// compares reports whether there is something to compare. What is longer than bcrypt looks at is nobody's password.
func compares(a Attempt) bool {
	return a.HasPassword && a.HasUsername && a.Username != "" && len(a.Password) <= longestPassword
}

// idle takes as long as the comparison of a password does, so that nobody learns from the time which users there are.
func (p *passwords) idle(ctx context.Context, a Attempt) error {
	if slowest := p.file.Get(ctx).slowest; compares(a) && slowest != nil {
		if err := p.matches(ctx, slowest, a.Password); err != nil && !errors.Is(err, ErrBadCredentials) {
			return err
		}
	}
	return refused(ErrBadCredentials, reasonCredentials)
}

// matches compares, when it is its turn.
func (p *passwords) matches(ctx context.Context, hash, password []byte) error {
	defer p.waiting.Add(-1)
	if p.waiting.Add(1) > p.most {
		return refused(ErrBusy, reasonBusy)
	}
	select {
	case p.compare <- struct{}{}:
	case <-ctx.Done():
		return refused(ErrBusy, reasonBusy)
	}
	defer func() { <-p.compare }()
	if bcrypt.CompareHashAndPassword(hash, password) != nil {
		return refused(ErrBadCredentials, reasonCredentials)
	}
	return nil
}

// shown is by what a password is known: it says nothing to whoever does not have the secret, nor of another hash.
func (p *passwords) shown(a Attempt, hash []byte) []byte {
	h := hmac.New(sha256.New, p.secret)
	h.Write(hash)
	h.Write(a.Password)
	return h.Sum(nil)
}

func (p *passwords) isKnown(user string, shown []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return hmac.Equal(p.known[user], shown)
}

// remember keeps what was right, for no more users than there are.
func (p *passwords) remember(all *users, user string, shown []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known[user] = shown
	if len(p.known) <= len(all.hashes) {
		return
	}
	for name := range p.known {
		if _, is := all.hashes[name]; !is {
			delete(p.known, name)
		}
	}
}
