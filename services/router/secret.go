package router

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/beeline-mqtt/beeline/internal/config"
	"github.com/beeline-mqtt/beeline/services/router/internal/placement"
)

// secret returns the secret, wherever it is: in the configuration or in its file, where the end of the line does not
// count. An error is about the key that is wrong.
func (c Config) secret() (placement.Secret, error) {
	key, text := "secret", string(c.Secret)
	switch {
	case c.Secret != "" && c.SecretFile != "":
		return placement.Secret{}, config.Invalid("secret", "and secret_file: give one of them")
	case c.SecretFile != "":
		b, err := os.ReadFile(c.SecretFile)
		if err != nil {
			return placement.Secret{}, config.Invalid("secret_file", "%w", err)
		}
		key, text = "secret_file", strings.TrimRight(string(b), "\r\n")
	}
	s, err := placement.NewSecret([]byte(text))
	if err != nil {
		return placement.Secret{}, config.Invalid(key, "must have at least %d characters", placement.SecretLen)
	}
	return s, nil
}

// ProvideSecret makes a secret for Config.SecretFile in the file at path, which gets that mode. It never changes a file
// that is there: with another secret the routers would not find what they have stored. The directory has to exist.
func ProvideSecret(path string, mode os.FileMode) error {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = makeSecret(path, mode)
	}
	if err != nil {
		return fmt.Errorf("make a secret: %w", err)
	}
	return nil
}

func makeSecret(path string, mode os.FileMode) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(tmp.Name())) }()
	_, err = fmt.Fprintln(tmp, rand.Text()+rand.Text())
	if err := errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	// Unlike a renamed file, a link takes nobody's place: of two that are made at the same time, the first stays.
	if err := os.Link(tmp.Name(), path); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
