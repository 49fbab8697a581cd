package gate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/beeline-mqtt/beeline/services/router/internal/access"
)

func TestMessagesOfAStreamThatComeTooFastWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRates(Rates{Publisher: Rate{Messages: 2000}}, time.Now)
		p, began := access.Principal{Name: "p", Role: access.Publisher}, time.Now()
		for range 6 {
			if err := r.messages(t.Context(), p, 1000); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began).Round(time.Millisecond); took != 2*time.Second {
			t.Errorf("6000 messages at 2000/s took %v, the first second's worth being free", took)
		}
		// One who cannot wait that long is told so, and the end of the stream ends the wait.
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		refusedAs(t, "a deadline that is too soon", r.messages(ctx, p, 1000), codes.ResourceExhausted, rateExceeded)
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, cancel)
		if err := r.messages(ctx, p, 2000); !errors.Is(err, context.Canceled) {
			t.Errorf("after the end: %v", err)
		}
		if err := r.messages(t.Context(), access.Principal{Name: "o", Role: access.Operator}, 1_000_000); err != nil {
			t.Errorf("without a limit: %v", err)
		}
	})
}

func TestCallersAreForgottenWhenThereAreTooMany(t *testing.T) {
	now := time.Now()
	r := newRates(Rates{Viewer: Rate{Calls: 1}}, func() time.Time { return now })
	call := func(i int) error { return r.call(access.Principal{Name: fmt.Sprint(i), Role: access.Viewer}) }
	for i := range mostCallers {
		if err := call(i); err != nil {
			t.Fatal(err)
		}
	}
	now = now.Add(500 * time.Millisecond)
	busy := mostCallers // nobody has been idle yet: all are forgotten
	if err := call(busy); err != nil || len(r.callers) != 1 {
		t.Errorf("%v, %d callers", err, len(r.callers))
	}
	for i := range mostCallers - 1 {
		if err := call(i); err != nil {
			t.Fatal(err)
		}
	}
	now = now.Add(900 * time.Millisecond)
	if err := r.call(access.Principal{Name: "late", Role: access.Publisher}); err != nil {
		t.Fatal(err)
	}
	now = now.Add(100 * time.Millisecond) // now the others have been
	if err := call(-1); err != nil || len(r.callers) > 3 {
		t.Errorf("%v, %d callers", err, len(r.callers))
	}
}

func TestARateIsNotNegative(t *testing.T) {
	for want, r := range map[string]Rate{"calls": {Calls: -1}, "messages": {Messages: -1}} {
		if err := r.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if err := DefaultConfig().Rates.Publisher.Validate(); err != nil {
		t.Error(err)
	}
}
