package auth

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

func TestALineHasTheHashAlone(t *testing.T) {
	line, err := Line("ann", "secret")
	if err != nil {
		t.Fatal(err)
	}
	u, err := parseUsers([]byte(line))
	if err != nil || bcrypt.CompareHashAndPassword(u.hashes["ann"], []byte("secret")) != nil || strings.Contains(line, "secret") {
		t.Errorf("%q, %v", line, err)
	}
	for name, c := range map[string][2]string{
		"no user": {"", "x"}, "a comment": {"#a", "x"}, "a line break": {"a\nb", "x"}, "a blank at the end": {"a ", "x"}, "not UTF-8": {"a\xff", "x"},
		"no password": {"ann", ""}, "more than bcrypt looks at": {"ann", strings.Repeat("x", longestPassword+1)},
	} {
		if line, err := Line(c[0], c[1]); err == nil {
			t.Errorf("%s: %q", name, line)
		}
	}
}

func TestALineTakesThePlaceOfTheUsersFormerOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	ann, bob, again := user(t, "ann", "1"), user(t, "bob", "2"), user(t, "ann", "3")
	for _, step := range []struct{ line, want string }{
		{ann, ann},
		{bob, ann + bob},
		{again, again + bob},
	} {
		if err := Put(path, step.line); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil || string(text) != step.want {
			t.Errorf("the file is %q, want %q; %v", text, step.want, err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}

	const comment = "# ours"
	if err := os.WriteFile(path, []byte(comment), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := Put(path, bob); err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(path)
	if info, _ := os.Stat(path); string(text) != comment+"\n"+bob || info.Mode().Perm() != 0o640 {
		t.Errorf("the file is %q, %v", text, info.Mode())
	}
	for _, wrong := range []string{"", "ann:secret\n"} {
		if err := Put(path, wrong); err == nil {
			t.Errorf("%q was put into it", wrong)
		}
	}
	if err := os.WriteFile(path, []byte("listeners: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Put(path, bob); err == nil || !strings.Contains(err.Error(), "no password file") {
		t.Errorf("something else was extended: %v", err)
	}
}
