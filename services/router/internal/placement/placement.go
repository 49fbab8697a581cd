// Package placement decides where a client goes: which cluster it is assigned to, and which node of that cluster takes
// its connection. It does not know where assignments, nodes, holders and records come from, and keeps none of them: it
// has no clock, no goroutine and no I/O, and draws no random numbers. Equal questions have equal answers, in every
// process and on every router.
//
// Everything may be used from any goroutine. An Assignments never changes once it is made; whoever follows changes
// makes a new one and swaps a pointer.
//
//	CONNECT ──> Triple ──Secret.Key──> Key
//	               └──────┬─────────────┤
//	       Assignments.Lookup: cluster  │
//	                      └───> Choose: node ──> Explain
package placement

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"sync"
)

// SecretLen is how many bytes a secret has at least.
const SecretLen = sha256.Size

// What is wrong with a secret or a key.
var (
	ErrShortSecret = errors.New("secret has less than 32 bytes")
	ErrNoKey       = errors.New("not 64 lower-case hexadecimal digits")
)

// Triple is what a CONNECT says about who the client is. It never prints its password.
type Triple struct {
	// ClientID is empty for a client that wants the server to make one up.
	ClientID string
	// Username and Password are not read unless their flag is set. An empty one is not the same as none.
	Username    string
	HasUsername bool
	// Password stays the caller's.
	Password    []byte `json:"-"`
	HasPassword bool
}

// Format prints all but the password, for every verb.
func (t Triple) Format(s fmt.State, _ rune) {
	write(s, "client id %q, ", t.ClientID)
	if t.HasUsername {
		write(s, "user name %q, ", t.Username)
	} else {
		write(s, "no user name, ")
	}
	if t.HasPassword {
		write(s, "a password")
	} else {
		write(s, "no password")
	}
}

// write has nobody to give an error to: fmt writes into memory.
func write(w io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }

// Secret makes keys of triples. All routers of one route store have the same one. With another secret every triple has
// another key: exact assignments and whatever else is stored under keys are not found any more.
type Secret struct{ macs *sync.Pool }

// NewSecret copies the bytes. Fewer than SecretLen are ErrShortSecret.
func NewSecret(secret []byte) (Secret, error) {
	if len(secret) < SecretLen {
		return Secret{}, fmt.Errorf("%w: %d", ErrShortSecret, len(secret))
	}
	secret = slices.Clone(secret)
	// To begin with a secret is half of the work.
	return Secret{macs: &sync.Pool{New: func() any { return hmac.New(sha256.New, secret) }}}, nil
}

// Format prints that there is a secret and not which.
func (s Secret) Format(f fmt.State, _ rune) { write(f, "secret") }

// Key stands for a triple wherever one is stored or compared. Without the secret, nobody can tell a password from it,
// not even by trying.
type Key [sha256.Size]byte

// Key is the HMAC-SHA-256, under the secret, of
//
//	"beeline triple 1", client id, user name flag, user name, password flag, password
//
// with a byte for each flag, and before each string its length in 8 bytes, big endian. What is stored under keys
// depends on this: it stays as it is.
func (s Secret) Key(t Triple) Key {
	const version = "beeline triple 1"
	var username string
	var password []byte
	if t.HasUsername {
		username = t.Username
	}
	if t.HasPassword {
		password = t.Password
	}
	b := make([]byte, 0, 4*8+2+len(version)+len(t.ClientID)+len(username)+len(password))
	b = field(b, version)
	b = field(b, t.ClientID)
	b = field(append(b, flag(t.HasUsername)), username)
	b = field(append(b, flag(t.HasPassword)), password)
	mac, _ := s.macs.Get().(hash.Hash)
	mac.Write(b)
	clear(b) // The password is in it.
	b = mac.Sum(b[:0])
	mac.Reset()
	s.macs.Put(mac)
	return Key(b)
}

func field[T string | []byte](b []byte, v T) []byte {
	return append(binary.BigEndian.AppendUint64(b, uint64(len(v))), v...)
}

func flag(set bool) byte {
	if set {
		return 1
	}
	return 0
}

// String is the key as 64 lower-case hexadecimal digits.
func (k Key) String() string { return hex.EncodeToString(k[:]) }

// ParseKey reads what String wrote, and nothing else: a key has one text. Anything else is ErrNoKey.
func ParseKey(text string) (Key, error) {
	var k Key
	// The text is not in the error: who takes a password for a key does not find it in a log.
	if n, err := hex.Decode(k[:], []byte(text[:min(len(text), hex.EncodedLen(len(k)))])); err != nil || n != len(k) {
		return Key{}, ErrNoKey
	}
	if k.String() != text {
		return Key{}, ErrNoKey
	}
	return k, nil
}
