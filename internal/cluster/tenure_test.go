package cluster

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestATenureEndsByTheClockAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTenure(time.Now().Add(8 * time.Second))
		time.Sleep(8*time.Second - time.Nanosecond)
		if !x.lasts() {
			t.Fatal("over too early")
		}
		time.Sleep(time.Nanosecond)
		if x.lasts() {
			t.Fatal("lasts too long")
		}
	})
}

func TestATenureThatWasSeenToBeOverIsOverForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTenure(time.Now().Add(time.Second))
		sent := time.Now()
		// The process is paused; when it goes on, the answer to a request that it sent before is waiting.
		time.Sleep(30 * time.Second)
		if x.prolong(sent.Add(8*time.Second)) || x.lasts() {
			t.Fatal("prolonged after its end")
		}
		if x.prolong(time.Now().Add(time.Hour)) || x.lasts() {
			t.Fatal("prolonged after it was seen to be over")
		}
	})
}

func TestATenureIsNeverShortened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTenure(time.Now().Add(time.Second))
		if !x.prolong(time.Now().Add(8*time.Second)) || !x.prolong(time.Now().Add(2*time.Second)) {
			t.Fatal("over too early")
		}
		if got := x.remaining(); got != 8*time.Second {
			t.Errorf("%v remain, want 8s", got)
		}
		x.end()
		if x.lasts() || x.prolong(time.Now().Add(time.Hour)) {
			t.Error("goes on after its end")
		}
	})
}

func TestATenureThatBeginsTooLateIsOver(t *testing.T) {
	if newTenure(time.Now().Add(-time.Second)).lasts() {
		t.Error("lasts")
	}
}
