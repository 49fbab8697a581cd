package tokens

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"go.yaml.in/yaml/v3"

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

// Append adds an entry of Make to the token file at path, which is made if it is not there. Who reads the file sees it as it
// was or as it is then.
func Append(path, entry string) error {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(text) == 0 {
		text = []byte("tokens:\n")
	}
	if text[len(text)-1] != '\n' {
		text = append(text, '\n')
	}
	text = append(text, entry...)
	if _, err := parseTable(text); err != nil {
		return fmt.Errorf("%s does not end with the list of its tokens: %w", path, err)
	}
	next := path + ".new"
	if err := os.WriteFile(next, text, 0o600); err != nil {
		return err
	}
	return os.Rename(next, path)
}
