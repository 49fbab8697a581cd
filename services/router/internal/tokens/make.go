package tokens

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/beeline-mqtt/beeline/internal/atomicfile"
	"github.com/beeline-mqtt/beeline/services/router/internal/access"
)

// Make makes a token that nobody can guess, and the entry for it, as one item of the list of a token file. The token is not
// in the entry.
func Make(name, role string, limits *access.Limits) (token, entry string, err error) {
	token = "beeline_" + rand.Text()
	e := Entry{Name: name, Role: role, SHA256: Hash(token), Limits: limits}
	text, err := yaml.Marshal([]Entry{e})
	if err != nil {
		return "", "", err
	}
	if _, err := parseTable(append([]byte("tokens:\n"), text...)); err != nil {
		return "", "", err
	}
	return token, string(text), nil
}

// none is a token file without tokens.
const none = "tokens:\n"

// Provide makes a token file without tokens at path, with that mode, unless there is one.
func Provide(path string, mode os.FileMode) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return atomicfile.Write(path, []byte(none), mode)
}

// Append adds an entry of Make to the token file at path, which is made if it is not there. Who reads the file sees it as it
// was or as it is then.
func Append(path, entry string) error {
	text, mode, err := atomicfile.Read(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(text) == 0 {
		text = []byte(none)
	}
	if text[len(text)-1] != '\n' {
		text = append(text, '\n')
	}
	text = append(text, entry...)
	if _, err := parseTable(text); err != nil {
		return fmt.Errorf("%s does not end with the list of its tokens: %w", path, err)
	}
	return atomicfile.Write(path, text, mode)
}

// errNobody: an entry to remove that there is not.
var errNobody = errors.New("no token has that name")

// Remove removes the entries with a name from the token file at path.
func Remove(path, name string) error {
	text, mode, err := atomicfile.Read(path)
	if err != nil {
		return err
	}
	if _, err := parseTable(text); err != nil {
		return err
	}
	var file struct {
		Tokens []yaml.Node `yaml:"tokens"` // with what is written beside the entries
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		return err
	}
	before := len(file.Tokens)
	file.Tokens = slices.DeleteFunc(file.Tokens, func(n yaml.Node) bool {
		var e Entry
		return n.Decode(&e) == nil && e.Name == name
	})
	if len(file.Tokens) == before {
		return fmt.Errorf("%q: %w", name, errNobody)
	}
	left := []byte(none)
	if len(file.Tokens) > 0 {
		list, err := yaml.Marshal(file.Tokens) // without indentation, as Append adds to it
		if err != nil {
			return err
		}
		left = append(left, list...)
	}
	return atomicfile.Write(path, left, mode)
}
