package lifecycle_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/beeline-mqtt/beeline/internal/lifecycle"
)

func TestAPauseEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if !lifecycle.Pause(t.Context(), time.Minute) || time.Since(began) != time.Minute {
			t.Errorf("it took %v", time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began = time.Now()
		if lifecycle.Pause(ctx, time.Hour) || time.Since(began) != time.Second {
			t.Errorf("with a context of a second it took %v", time.Since(began))
		}
	})
}
