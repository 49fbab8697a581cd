package placement_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/services/router/internal/placement"
)

// secret is the same one in all tests.
func secret(t testing.TB) placement.Secret {
	t.Helper()
	s, err := placement.NewSecret([]byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// user is a client with user name and password.
func user(id, name, password string) placement.Triple {
	return placement.Triple{
		ClientID: id, Username: name, HasUsername: true, Password: []byte(password), HasPassword: true,
	}
}

func TestASecretIsLongAndCopied(t *testing.T) {
	if _, err := placement.NewSecret(make([]byte, placement.SecretLen-1)); !errors.Is(err, placement.ErrShortSecret) {
		t.Errorf("31 bytes: %v", err)
	}
	if _, err := placement.NewSecret(nil); !errors.Is(err, placement.ErrShortSecret) {
		t.Errorf("no bytes: %v", err)
	}
	own := make([]byte, placement.SecretLen)
	s, err := placement.NewSecret(own)
	if err != nil {
		t.Fatal(err)
	}
	before := s.Key(user("x", "joe", "pw"))
	own[0] = 1
	if s.Key(user("x", "joe", "pw")) != before {
		t.Error("the secret follows the caller's slice")
	}
}

// What is stored under keys is lost if this fails: do not adapt the test.
func TestAKeyIsTheHMACOfItsFields(t *testing.T) {
	mac := hmac.New(sha256.New, []byte("0123456789abcdef0123456789abcdef"))
	mac.Write([]byte("\x00\x00\x00\x00\x00\x00\x00\x10beeline triple 1" +
		"\x00\x00\x00\x00\x00\x00\x00\x05meter" +
		"\x01\x00\x00\x00\x00\x00\x00\x00\x03joe" +
		"\x01\x00\x00\x00\x00\x00\x00\x00\x02pw"))
	if got, want := secret(t).Key(user("meter", "joe", "pw")).String(), fmt.Sprintf("%x", mac.Sum(nil)); got != want {
		t.Errorf("key is %s, want %s", got, want)
	}
	if got, want := secret(t).Key(placement.Triple{}).String(),
		"cbd2310130b90ddb1f58b7614b63adfece90df57c2bf63542660166baaa1ad15"; got != want {
		t.Errorf("key of nothing is %s, want %s", got, want)
	}
}

func TestKeysTellTriplesApart(t *testing.T) {
	other, err := placement.NewSecret([]byte("another secret that is long enough"))
	if err != nil {
		t.Fatal(err)
	}
	keys := map[placement.Key]string{other.Key(user("ab", "cd", "ef")): "another secret"}
	for name, triple := range map[string]placement.Triple{
		"as it is":               user("ab", "cd", "ef"),
		"client id is longer":    user("abc", "d", "ef"),
		"user name is longer":    user("ab", "cde", "f"),
		"user name is shorter":   user("ab", "c", "def"),
		"all in the client id":   user("abcdef", "", ""),
		"all in the password":    user("", "", "abcdef"),
		"other case":             user("AB", "cd", "ef"),
		"no user name":           {ClientID: "ab", Password: []byte("cdef"), HasPassword: true},
		"no password":            {ClientID: "ab", Username: "cdef", HasUsername: true},
		"empty user name":        {ClientID: "ab", HasUsername: true},
		"empty password":         {ClientID: "ab", HasPassword: true},
		"both are empty":         user("ab", "", ""),
		"neither":                {ClientID: "ab"},
		"nothing":                {},
		"a length in the client": user("ab\x01\x00\x00\x00\x00\x00\x00\x00\x02cd", "", "ef"),
	} {
		k := secret(t).Key(triple)
		if same, known := keys[k]; known {
			t.Errorf("%q has the key of %q", name, same)
		}
		keys[k] = name
	}
}

func TestWhatIsNotSetIsNotInTheKey(t *testing.T) {
	unset := placement.Triple{ClientID: "x", Username: "joe", Password: []byte("pw")}
	if secret(t).Key(unset) != secret(t).Key(placement.Triple{ClientID: "x"}) {
		t.Error("a user name or password counts though its flag is not set")
	}
}

func TestKeysOfEqualTriplesAreEqualAndOfOthersAreNot(t *testing.T) {
	s := secret(t)
	part := rapid.StringMatching(`[ab\x00]{0,3}`)
	triple := rapid.Custom(func(r *rapid.T) placement.Triple {
		c := placement.Triple{ClientID: part.Draw(r, "client id")}
		if c.HasUsername = rapid.Bool().Draw(r, "has user name"); c.HasUsername {
			c.Username = part.Draw(r, "user name")
		}
		if c.HasPassword = rapid.Bool().Draw(r, "has password"); c.HasPassword {
			c.Password = []byte(part.Draw(r, "password"))
		}
		return c
	})
	rapid.Check(t, func(r *rapid.T) {
		x, y := triple.Draw(r, "x"), triple.Draw(r, "y")
		if same := s.Key(x) == s.Key(y); same != cmp.Equal(x, y) {
			r.Fatalf("keys are equal: %t", same)
		}
	})
}

func TestAKeyHasOneText(t *testing.T) {
	k := secret(t).Key(user("x", "joe", "pw"))
	if got, err := placement.ParseKey(k.String()); err != nil || got != k {
		t.Errorf("read back: %s, %v", got, err)
	}
	for name, text := range map[string]string{
		"empty":      "",
		"upper case": strings.ToUpper(k.String()),
		"short":      k.String()[2:],
		"odd":        k.String()[1:],
		"long":       k.String() + "00",
		"a password": "correct horse battery staple",
		"not hex":    strings.Repeat("z", 64),
	} {
		got, err := placement.ParseKey(text)
		if !errors.Is(err, placement.ErrNoKey) || got != (placement.Key{}) {
			t.Errorf("%s: %s, %v", name, got, err)
		}
		if text != "" && err != nil && strings.Contains(err.Error(), text) {
			t.Errorf("%s: the error repeats it: %v", name, err)
		}
	}
}

func TestPasswordsAndSecretsAreNotPrinted(t *testing.T) {
	triple, s := user("x", "joe", "hunter2"), secret(t)
	asJSON, err := json.Marshal([]any{triple, s})
	if err != nil {
		t.Fatal(err)
	}
	printed := string(asJSON)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		printed += fmt.Sprintf(verb+verb, triple, &triple) + fmt.Sprintf(verb+verb, s, &s)
		printed += fmt.Sprintf(verb, []placement.Triple{triple}) + fmt.Sprintf(verb, []placement.Secret{s})
	}
	for _, secret := range []string{
		"hunter2", fmt.Sprintf("%x", "hunter2"), "104 117 110", "aHVudGVyMg", "0x68",
		"0123456789", fmt.Sprintf("%x", "0123456789"), "48 49 50", "0x30",
	} {
		if strings.Contains(printed, secret) {
			t.Errorf("%q is in %s", secret, printed)
		}
	}
	for want, triple := range map[string]placement.Triple{
		`client id "x", user name "joe", a password`: triple,
		`client id "", no user name, no password`:    {},
	} {
		if got := fmt.Sprint(triple); got != want {
			t.Errorf("printed: %s, want %s", got, want)
		}
	}
}
