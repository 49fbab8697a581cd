package splice_test

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/beeline-mqtt/beeline/services/router/internal/splice"
)

func TestAPairEndsWhenNoByteHasPassedForSoLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, node := piped(t), piped(t)
		const idle = patience / 2
		wait, _ := start(t, client, node, splice.Options{Pool: pool(t, 0), Idle: idle, Linger: time.Hour})
		a, b := client.far, node.far
		for _, pause := range []time.Duration{idle - 1, idle / 2, idle - 1, idle - 1} {
			time.Sleep(pause)
			send(t, a, b) // one way is enough
			a, b = b, a
		}
		began := time.Now()
		expectClosed(t, client.far)
		if took := time.Since(began); took != idle {
			t.Errorf("ended after %v", took)
		}
		if r := wait(); r.Ended != splice.Idled || r.Err != nil {
			t.Errorf("%+v", r)
		}
	})
}

func TestASplicedPairEndsToo(t *testing.T) {
	client, node := wrapped(t), wrapped(t)
	const idle = 50 * time.Millisecond
	wait, _ := start(t, client, node, splice.Options{Pool: pool(t, 2), Idle: idle})
	began := time.Now()
	expectClosed(t, client.far)
	expectClosed(t, node.far)
	if took := time.Since(began); took < idle/2 {
		t.Errorf("ended after %v", took)
	}
	if r := wait(); r.Ended != splice.Idled {
		t.Errorf("%+v", r)
	}
}

func TestBytesThatAreNotTakenDoNotKeepAPair(t *testing.T) {
	client, node := wrapped(t), wrapped(t)
	wait, _ := start(t, client, node, splice.Options{Pool: pool(t, 2), Idle: 200 * time.Millisecond})
	_, err := node.far.Write(make([]byte, 256<<20))
	if err == nil {
		t.Error("it was all taken")
	}
	if r := wait(); r.Ended != splice.Idled {
		t.Errorf("%+v", r)
	}
}

func TestWhatCannotBeClosedOneWayLingers(t *testing.T) {
	for _, tc := range []struct {
		name                string
		linger, idle, takes time.Duration
	}{
		{"as long as it may", 5 * time.Second, 0, 5 * time.Second},
		{"not beyond the idle limit", 5 * time.Second, time.Second, time.Second},
		{"less than the idle limit", time.Second, 5 * time.Second, time.Second},
		{"not at all", 0, 5 * time.Second, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, node := piped(t), piped(t)
				wait, _ := start(t, client, node, splice.Options{Pool: pool(t, 0), Idle: tc.idle, Linger: tc.linger})
				began := time.Now()
				node.far.Close()
				r := wait()
				if took := time.Since(began); took != tc.takes || r.Ended != splice.NodeClosed || r.Err != nil {
					t.Errorf("after %v: %+v", took, r)
				}
			})
		})
	}
}

func TestWhatLingersPassesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, node := halfPipe(t), piped(t)
		wait, _ := start(t, client, node, splice.Options{Pool: pool(t, 0), Linger: 5 * time.Second})
		closeWrite(t, client.far)
		synctest.Wait()
		time.Sleep(3 * time.Second)
		sent := make(chan error, 1)
		go func() { _, err := node.far.Write([]byte("late")); sent <- err }()
		got := make([]byte, 4)
		if _, err := io.ReadFull(client.far, got); err != nil || string(got) != "late" {
			t.Errorf("received %q, %v", got, err)
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
		node.far.Close() // before the time is over
		if r := wait(); r.Ended != splice.ClientClosed || r.ToClient != 4 {
			t.Errorf("%+v", r)
		}
	})
}
