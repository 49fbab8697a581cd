package tokens

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
	"golang.org/x/crypto/bcrypt"

	"github.com/beeline-mqtt/beeline/services/router/internal/access"
)

// Entry is one token of a token file.
type Entry struct {
	Name string `yaml:"name"`
	Role string `yaml:"role"`
	// SHA256 is the hash of the token in hexadecimal: for tokens that nobody can guess.
	SHA256 string `yaml:"sha256,omitempty"`
	// Bcrypt is the hash of a password. The token is the name, a dot, and the password; the name has no dot.
	Bcrypt string `yaml:"bcrypt,omitempty"`
	// Limits bound what the holder may publish and read; absent: nothing does.
	Limits *access.Limits `yaml:"limits,omitempty"`
}

// File is what a token file holds, YAML or JSON.
type File struct {
	Tokens []Entry `yaml:"tokens"`
}

// Hash is the SHA256 of an entry.
func Hash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// table is a token file in memory.
type table struct {
	byHash map[string]access.Principal
	byName map[string]password

	slow sync.Mutex // one bcrypt at a time: it is slow on purpose, and anybody may ask for it

	mu    sync.RWMutex
	known map[string]access.Principal // guarded by mu: who has shown a password keeps nobody waiting, and waits for nobody
}

type password struct {
	hash []byte
	of   access.Principal
}

func parseTable(text []byte) (*table, error) {
	var f File
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&f); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	t := &table{byHash: map[string]access.Principal{}, byName: map[string]password{}, known: map[string]access.Principal{}}
	for i, e := range f.Tokens {
		if err := t.add(e); err != nil {
			return nil, fmt.Errorf("tokens[%d]: %w", i, err)
		}
	}
	return t, nil
}

func (t *table) add(e Entry) error {
	role, err := access.ParseRole(e.Role)
	switch {
	case e.Name == "":
		return errors.New("name is missing")
	case err != nil:
		return err
	case role == access.Operator && e.Limits != nil:
		return errors.New("limits: an operator has none")
	case (e.SHA256 == "") == (e.Bcrypt == ""):
		return errors.New("give sha256 or bcrypt")
	}
	if err := e.Limits.Validate(); err != nil {
		return fmt.Errorf("limits: %w", err)
	}
	p := access.Principal{Name: e.Name, Source: access.ByToken, Role: role, Limits: e.Limits}
	if e.Bcrypt != "" {
		if _, err := bcrypt.Cost([]byte(e.Bcrypt)); err != nil {
			return fmt.Errorf("bcrypt: %w", err)
		}
		if _, twice := t.byName[e.Name]; twice || strings.Contains(e.Name, ".") {
			return fmt.Errorf("name %q: of entries with bcrypt, must be there once and without a dot", e.Name)
		}
		t.byName[e.Name] = password{[]byte(e.Bcrypt), p}
		return nil
	}
	hash := strings.ToLower(e.SHA256)
	if b, err := hex.DecodeString(hash); err != nil || len(b) != sha256.Size {
		return errors.New("sha256: is not 64 hexadecimal digits")
	}
	if _, twice := t.byHash[hash]; twice {
		return errors.New("sha256: another entry has the same token")
	}
	t.byHash[hash] = p
	return nil
}

// find looks a token up by its hash, and a password by the name before it.
func (t *table) find(token string) (access.Principal, bool) {
	hash := Hash(token)
	if p, ok := t.byHash[hash]; ok {
		return p, true
	}
	name, secret, _ := strings.Cut(token, ".")
	x, ok := t.byName[name]
	if !ok {
		return access.Principal{}, false
	}
	if p, ok := t.shown(hash); ok {
		return p, true
	}
	t.slow.Lock()
	defer t.slow.Unlock()
	if p, ok := t.shown(hash); ok {
		return p, true
	}
	if bcrypt.CompareHashAndPassword(x.hash, []byte(secret)) != nil {
		return access.Principal{}, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.known[hash] = x.of
	return x.of, true
}

func (t *table) shown(hash string) (access.Principal, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	p, ok := t.known[hash]
	return p, ok
}
