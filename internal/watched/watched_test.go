package watched

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var errEmpty = errors.New("there is nothing in it")

func parse(text []byte) (string, error) {
	if len(text) == 0 {
		return "", errEmpty
	}
	return string(text), nil
}

// desk is a file and who watches it, in a bubble.
type desk struct {
	path string
	log  bytes.Buffer
	file *File[string]
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{path: filepath.Join(t.TempDir(), "file")}
	d.say(t, "first")
	var err error
	d.file, err = Open(d.path, parse, Deps{Logger: slog.New(slog.NewTextHandler(&d.log, nil)), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *desk) say(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(d.path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(d.path+".new", d.path); err != nil {
		t.Fatal(err)
	}
}

func (d *desk) want(t *testing.T, want string) {
	t.Helper()
	if got := d.file.Get(t.Context()); got != want || d.file.Current() != want {
		t.Errorf("it says %q, and %q without a look; want %q", got, d.file.Current(), want)
	}
}

func TestAChangeIsSeenWithinAnInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		d.say(t, "second")
		time.Sleep(Interval - time.Millisecond)
		d.want(t, "first")
		time.Sleep(time.Millisecond)
		d.want(t, "second")
		if d.log.Len() > 0 {
			t.Errorf("it says:\n%s", &d.log)
		}
	})
}

func TestWhatWasReadLastCountsWhileTheFileIsWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		d.say(t, "")
		for range 3 {
			time.Sleep(Interval)
			d.want(t, "first")
		}
		if got := d.log.String(); strings.Count(got, "cannot be read again") != 1 || !strings.Contains(got, errEmpty.Error()) || !strings.Contains(got, d.path) {
			t.Errorf("for one mistake it says:\n%s", got)
		}
		if err := os.Remove(d.path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(Interval)
		d.want(t, "first")
		d.say(t, "third")
		time.Sleep(Interval)
		d.want(t, "third")
	})
}

func TestAFileIsLookedAtUntilTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			d.file.Run(ctx)
		}()
		d.say(t, "second")
		time.Sleep(Interval)
		synctest.Wait()
		if got := d.file.Current(); got != "second" {
			t.Errorf("it says %q", got)
		}
		stop()
		<-ended
	})
}

func TestAFileThatIsWrongFromTheStartIsAnError(t *testing.T) {
	d := Deps{Logger: slog.New(slog.DiscardHandler), Now: time.Now}
	path := filepath.Join(t.TempDir(), "file")
	if _, err := Open(path, parse, d); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, parse, d); !errors.Is(err, errEmpty) {
		t.Errorf("an empty file: %v", err)
	}
}
