package router

import (
	"os"

	"github.com/beeline-mqtt/beeline/services/router/internal/access"
	"github.com/beeline-mqtt/beeline/services/router/internal/tokens"
)

// Limits bound what the holder of a token may publish and read. What no list names is not allowed.
type Limits = access.Limits

// NewToken makes a token that nobody can guess for a role: viewer, publisher or operator. The entry is one item of the list in
// a token file; it does not say what the token is. Without limits the holder may do all that the role may.
func NewToken(name, role string, limits *Limits) (token, entry string, err error) {
	return tokens.Make(name, role, limits)
}

// AppendToken adds an entry to the token file at path, which is made if it is not there. Routers see it within a second.
func AppendToken(path, entry string) error { return tokens.Append(path, entry) }

// RemoveToken removes the entries with a name from the token file at path. Routers see it within a second: calls that have
// begun go on.
func RemoveToken(path, name string) error { return tokens.Remove(path, name) }

// ProvideTokens makes a token file without tokens at path, with that mode, unless there is one.
func ProvideTokens(path string, mode os.FileMode) error { return tokens.Provide(path, mode) }
