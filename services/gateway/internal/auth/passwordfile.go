package auth

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/crypto/bcrypt"

	"github.com/beeline-mqtt/beeline/internal/atomicfile"
)

// Line makes the line of a password file for a user. The password, of at most 72 bytes, is not in it.
func Line(user, password string) (string, error) {
	if err := validUser(user); err != nil {
		return "", err
	}
	if password == "" || len(password) > longestPassword {
		return "", fmt.Errorf("the password has %d bytes: 1 to %d", len(password), longestPassword)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), usualCost)
	if err != nil {
		return "", err
	}
	return user + ":" + string(hash) + "\n", nil
}

// Put puts a line of Line into the password file at path, in place of the one that its user has. The file is made if it is not
// there. Who reads the file sees it as it was or as it is then.
func Put(path, line string) error {
	name, _, err := parseUser(line[:max(0, len(line)-1)])
	if err != nil {
		return err
	}
	text, mode, err := atomicfile.Read(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	text = withLine(text, name, line)
	if _, err := parseUsers(text); err != nil {
		return fmt.Errorf("%s is no password file: %w", path, err)
	}
	return atomicfile.Write(path, text, mode)
}

// withLine is text with a line for a user.
func withLine(text []byte, name, line string) []byte {
	var out []byte
	found := false
	for old := range bytes.Lines(text) {
		if is, _, err := parseUser(string(bytes.TrimSpace(old))); err == nil && is == name && !found {
			out, found = append(out, line...), true
			continue
		}
		out = append(out, old...)
	}
	if found {
		return out
	}
	if n := len(out); n > 0 && out[n-1] != '\n' {
		out = append(out, '\n')
	}
	return append(out, line...)
}
