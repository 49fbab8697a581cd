package auth

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/beeline-mqtt/beeline/internal/watched"
)

func TestAPasswordFileHasAUserInEachLine(t *testing.T) {
	r := newRig(t, withPasswords)
	for range 2 { // the second time it is known
		r.want(as("ann", "secret"), "ann", nil)
		r.want(as("bob:x", "other"), "bob:x", nil)
		r.want(as("ann", "other"), "", ErrBadCredentials)
		r.want(as("ann", ""), "", ErrBadCredentials)
		r.want(as("bob", "other"), "", ErrBadCredentials)
		r.want(as("ann", "secret"+strings.Repeat("x", longestPassword)), "", ErrBadCredentials)
		r.want(as("ann", strings.Repeat("x", 60000)), "", ErrBadCredentials)
	}
}

func TestHashesOfOtherProgramsAreTaken(t *testing.T) {
	r := newRig(t, func(r *rig) {
		r.cfg.Methods = []string{"password"}
		line := user(t, "ann", "secret")
		r.cfg.Password.File = r.file("users", strings.Replace(line, "$2a$", "$2y$", 1)+strings.Replace(strings.Replace(line, "ann", "bob", 1), "$2a$", "$2b$", 1))
	})
	r.want(as("ann", "secret"), "ann", nil)
	r.want(as("bob", "secret"), "bob", nil)
	r.want(as("bob", "other"), "", ErrBadCredentials)
}

func TestWrongPasswordFilesAreRefusedWithoutRepeatingThem(t *testing.T) {
	right := user(t, "ann", "x")
	for name, c := range map[string]struct{ text, why string }{
		"a password":      {"ann:hunter2", "line 1: the hash is not one of bcrypt"},
		"no colon":        {right + "hunter2", "line 2: is not user:hash"},
		"another hash":    {"ann:$6$hunter2", "not one of bcrypt"},
		"no user":         {strings.TrimPrefix(right, "ann"), "user name"},
		"a strange user":  {"a\x01" + right, "user name"},
		"a user, twice":   {right + right, "line 2: the user is there already"},
		"a cost of years": {"ann:$2a$31$" + strings.Repeat("a", 53), "cost 31"},
		"cut off":         {strings.TrimSpace(right)[:50], "not one of bcrypt"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := parseUsers([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.why) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%v, want one about %s", err, c.why)
			}
		})
	}
	u, err := parseUsers(nil)
	if err != nil || u.slowest != nil {
		t.Errorf("an empty file: %v", err)
	}
}

func TestAPasswordFileIsReadAgainWhenItChanges(t *testing.T) {
	r := newRig(t, withPasswords)
	r.want(as("ann", "secret"), "ann", nil)
	r.file("users", user(t, "ann", "new")+user(t, "joe", "x"))
	r.advance(watched.Interval)
	r.want(as("ann", "secret"), "", ErrBadCredentials)
	r.want(as("ann", "new"), "ann", nil)
	r.want(as("bob:x", "other"), "", ErrBadCredentials)

	r.file("users", "what is this")
	r.advance(watched.Interval)
	r.want(as("ann", "new"), "ann", nil)
	if said := r.log.String(); !strings.Contains(said, "cannot be read again") || strings.Contains(said, "what is this") {
		t.Errorf("it says:\n%s", said)
	}
	r.file("users", user(t, "joe", "x"))
	r.advance(watched.Interval)
	r.want(as("ann", "new"), "", ErrBadCredentials)
	r.want(as("joe", "x"), "joe", nil)
	if len(r.password.known) != 1 {
		t.Errorf("passwords of %d users are known", len(r.password.known))
	}
}

func TestWhoHasShownThePasswordDoesNotWait(t *testing.T) {
	r := newRig(t, all(withPasswords, func(r *rig) { r.cfg.Password.Concurrency, r.cfg.Password.Waiting, r.cfg.Failures = 1, 1, 0 }))
	r.want(as("ann", "secret"), "ann", nil)
	r.password.compare <- struct{}{} // somebody is being compared
	r.want(as("ann", "secret"), "ann", nil)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, a := range []Attempt{as("ann", "wrong"), as("nobody", "wrong")} {
		if _, err := r.Authenticate(ctx, a); !errors.Is(err, ErrBusy) {
			t.Errorf("%q waits with %v", a.Username, err)
		}
	}
	r.password.waiting.Store(2) // and one waits
	for _, a := range []Attempt{as("ann", "wrong"), as("nobody", "wrong")} {
		r.want(a, "", ErrBusy)
	}
	r.password.waiting.Store(0)
	<-r.password.compare
	r.want(as("ann", "wrong"), "", ErrBadCredentials)
	if n := r.counted("beeline_gateway_authentications_total", "reason=busy"); n != 4 {
		t.Errorf("%v were counted", n)
	}
}

// Of a user that is not there a hash is compared as well: the time does not tell.
func TestUnknownUsersTakeAsLongAsWrongPasswords(t *testing.T) {
	r := newRig(t, all(withPasswords, func(r *rig) { r.cfg.Password.Concurrency = 1 }))
	r.password.compare <- struct{}{}
	var waiting sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	for _, a := range []Attempt{as("ann", "wrong"), as("nobody", "wrong")} {
		waiting.Go(func() {
			if _, err := r.Authenticate(ctx, a); !errors.Is(err, ErrBusy) {
				t.Errorf("%q did not have to wait: %v", a.Username, err)
			}
		})
	}
	cancel()
	waiting.Wait()
	<-r.password.compare
	u, err := parseUsers([]byte(user(t, "a", "x") + "b:" + slow(t) + "\n" + user(t, "c", "x")))
	if cost, _ := bcrypt.Cost(u.slowest); err != nil || cost != bcrypt.MinCost+1 {
		t.Errorf("the hash for unknown users has the cost %d; %v", cost, err)
	}
}

func slow(t *testing.T) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte("x"), bcrypt.MinCost+1)
	if err != nil {
		t.Fatal(err)
	}
	return string(hash)
}

func TestManyMayBeAuthenticatedAtOnce(t *testing.T) {
	r := newRig(t, all(withPasswords, func(r *rig) { r.cfg.Password.Concurrency, r.cfg.Failures = 2, 0 }))
	var attempts sync.WaitGroup
	for i := range 100 {
		attempts.Go(func() {
			password, want := "secret", error(nil)
			if i%3 == 0 {
				password, want = fmt.Sprint(i), ErrBadCredentials
			}
			r.want(as("ann", password), "ann", want)
		})
	}
	attempts.Wait()
	if n := r.counted("beeline_gateway_passwords_waiting"); n != 0 {
		t.Errorf("%v wait still", n)
	}
}
