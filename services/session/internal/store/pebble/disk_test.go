package pebble_test

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"syscall"
	"testing"

	cockroach "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
	"github.com/beeline-mqtt/beeline/services/session/internal/store/pebble"
)

func options(fs vfs.FS, dir string) pebble.Options {
	return pebble.Options{Dir: dir, FS: fs, Logger: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Cache: 1 << 20}
}

func mustOpen(t *testing.T, o pebble.Options) *pebble.Store {
	t.Helper()
	s, err := pebble.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const (
	filled  = 8  // sessions
	entries = 40 // in each
)

func text(n, size int) *message.Message {
	return &message.Message{
		ID: message.ID{Origin: "g", Seq: uint64(n + 1)}, Topic: fmt.Sprint("t/", n), QoS: 2,
		Payload: []byte(strings.Repeat(fmt.Sprint(n%10), size)),
	}
}

// fillStore stores some of everything; every message goes to two sessions.
func fillStore(t *testing.T, s *pebble.Store) {
	t.Helper()
	answers := make(chan error, 10*filled*entries)
	n := 0
	for i := range filled {
		s.Put(0, store.Record{Client: fmt.Sprint(i), Session: journal.SessionID(i + 1), Epoch: 1}, func(err error) { answers <- err })
		n++
	}
	for at := range entries {
		for i := range filled {
			m := text(at*filled+i/2, 10+600*(at%3))
			s.Write(journal.Write{Client: fmt.Sprint(i), Session: journal.SessionID(i + 1), Epoch: 1, Changes: []journal.Change{
				{Kind: journal.Append, Entry: journal.Entry{Position: journal.Position(at + 1), QoS: 2, Message: m}},
				{Kind: journal.Subscribed, Filter: fmt.Sprint("f/", at)},
			}}, func(_ []journal.LeftOut, err error) { answers <- err })
			s.Retain(m, func(_ uint64, err error) { answers <- err })
			n += 2
		}
	}
	for range n {
		if err := <-answers; err != nil {
			t.Fatal(err)
		}
	}
}

// checkStore reads everything: it is right, or there is an error.
func checkStore(t *testing.T, s *pebble.Store) error {
	t.Helper()
	records := 0
	if err := s.Load(func(store.Record, store.Stats) error { records++; return nil }); err != nil {
		return err
	}
	if records != filled {
		t.Errorf("%d records", records)
	}
	for i := range filled {
		client, id := fmt.Sprint(i), journal.SessionID(i+1)
		state, err := s.State(client, id)
		if err != nil {
			return err
		}
		if len(state.Subscriptions) != entries || state.First != 1 || state.Next != entries+1 {
			t.Errorf("%d subscriptions, first %d, next %d", len(state.Subscriptions), state.First, state.Next)
		}
		page, err := s.Inbox(client, id, 0, 1000, 1<<30)
		if err != nil {
			return err
		}
		if len(page) != entries {
			t.Errorf("%d entries", len(page))
		}
		for at, e := range page {
			if want := text(at*filled+i/2, 10+600*(at%3)); e.Message.Topic != want.Topic || string(e.Message.Payload) != string(want.Payload) {
				t.Errorf("entry %d of %s is not what was stored", e.Position, client)
			}
		}
	}
	page, err := s.Retained("#", nil, 10_000)
	for _, m := range page.Messages {
		if m.Message.Topic != fmt.Sprint("t/", m.Message.Seq-1) {
			t.Errorf("retained message of %q has the id %v", m.Message.Topic, m.Message.ID)
		}
	}
	return err
}

// copyDir copies a directory into a new disk.
func copyDir(t *testing.T, from vfs.FS) *vfs.MemFS {
	t.Helper()
	to := vfs.NewMem()
	if ok, err := vfs.Clone(from, to, dir, dir); err != nil || !ok {
		t.Fatal(ok, err)
	}
	return to
}

func contents(t *testing.T, fs vfs.FS, name string) []byte {
	t.Helper()
	f, err := fs.Open(dir + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func replace(t *testing.T, fs vfs.FS, name string, data []byte) {
	t.Helper()
	f, err := fs.Create(dir+"/"+name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
}

// A flipped bit in any file is found, or it does no harm: wrong or missing data is never passed on.
func TestAFlippedBitIsFound(t *testing.T) {
	for _, tt := range []struct {
		name   string
		closed bool // everything is in tables; else it is in the log of a process that was killed
		suffix string
	}{
		{"in a table", true, ".sst"},
		{"in the list of files", true, "MANIFEST"},
		{"in the write-ahead log", false, ".log"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			mem := vfs.NewMem()
			s := mustOpen(t, options(mem, dir))
			fillStore(t, s)
			if tt.closed {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			} else {
				s.Attest()
			}
			disk := copyDir(t, mem)
			if !tt.closed {
				s.Close()
			}
			flipBits(t, disk, tt.suffix)
		})
	}
}

func flipBits(t *testing.T, disk vfs.FS, suffix string) {
	t.Helper()
	names, err := disk.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	tried, found := 0, 0
	for _, name := range names {
		if !strings.Contains(name, suffix) {
			continue
		}
		data := contents(t, disk, name)
		// The last record of a log cannot be told from one that a crash cut short.
		end := len(data)
		if suffix != ".sst" {
			end = len(strings.TrimRight(string(data), "\x00")) - 60
		}
		for at := 0; at < end; at += max(1, end/40) {
			damaged := copyDir(t, disk)
			wrong := append([]byte(nil), data...)
			wrong[at] ^= 1 << (at % 8)
			replace(t, damaged, name, wrong)
			tried++
			err := openAndCheck(t, damaged)
			if err != nil {
				found++
				if !errors.Is(err, store.ErrCorrupt) {
					t.Errorf("bit at %d of %s: %v is not ErrCorrupt", at, name, err)
				}
			}
		}
	}
	t.Logf("%d of %d flipped bits are errors, the others do no harm", found, tried)
	if tried < 20 || found < tried/2 {
		t.Errorf("only %d of %d flipped bits are found", found, tried)
	}
}

func openAndCheck(t *testing.T, fs vfs.FS) error {
	t.Helper()
	s, err := pebble.Open(options(fs, dir))
	if err != nil {
		return err
	}
	defer s.Close()
	return checkStore(t, s)
}

func TestAStoreIsOpenOnce(t *testing.T) {
	for _, tt := range []struct {
		name string
		fs   vfs.FS
		dir  string
	}{
		{"in memory", vfs.NewMem(), dir},
		{"on disk", vfs.Default, t.TempDir() + "/new/store"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := mustOpen(t, options(tt.fs, tt.dir))
			if _, err := pebble.Open(options(tt.fs, tt.dir)); !errors.Is(err, store.ErrLocked) {
				t.Errorf("opened again: %v", err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if err := mustOpen(t, options(tt.fs, tt.dir)).Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestAStoreOfANewerVersionIsRefused(t *testing.T) {
	t.Run("of ours", func(t *testing.T) {
		mem := vfs.NewMem()
		if err := mustOpen(t, options(mem, dir)).Close(); err != nil {
			t.Fatal(err)
		}
		pebble.SetSchema(t, mem, dir, 2)
		_, err := pebble.Open(options(mem, dir))
		if !errors.Is(err, store.ErrFuture) || !strings.Contains(err.Error(), "schema 2") {
			t.Errorf("error %v", err)
		}
		// It has let go of the directory.
		if _, err := pebble.Open(options(mem, dir)); errors.Is(err, store.ErrLocked) {
			t.Error(err)
		}
	})
	t.Run("of Pebble", func(t *testing.T) {
		mem := vfs.NewMem()
		if err := mustOpen(t, options(mem, dir)).Close(); err != nil {
			t.Fatal(err)
		}
		names, _ := mem.List(dir)
		for _, name := range names {
			if strings.HasPrefix(name, "marker.format-version.") {
				if err := mem.Rename(dir+"/"+name, dir+"/marker.format-version.000099.099"); err != nil {
					t.Fatal(err)
				}
			}
		}
		if _, err := pebble.Open(options(mem, dir)); !errors.Is(err, store.ErrFuture) {
			t.Errorf("error %v", err)
		}
	})
}

func TestADirectoryOfAnotherProgramIsRefused(t *testing.T) {
	mem := vfs.NewMem()
	db, err := cockroach.Open(dir, &cockroach.Options{FS: mem})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Set([]byte("e"), nil, cockroach.Sync), db.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := pebble.Open(options(mem, dir)); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("error %v", err)
	}
}

func TestABackupCanBeRestored(t *testing.T) {
	mem := vfs.NewMem()
	s := mustOpen(t, options(mem, dir))
	fillStore(t, s)
	if err := s.Backup("/backup"); err != nil {
		t.Fatal(err)
	}
	// What comes later is not in it.
	done := make(chan error, 1)
	s.Delete("0", 1, func(err error) { done <- err })
	if err := errors.Join(<-done, s.Backup("/later")); err != nil {
		t.Fatal(err)
	}
	if err := s.Backup("/backup"); err == nil {
		t.Error("a backup was made over another")
	}
	if err := pebble.Restore("/backup", options(mem, dir)); err == nil {
		t.Error("a backup was restored over a store")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := pebble.Restore("/nowhere", options(mem, "/restored")); err == nil {
		t.Error("nothing was restored")
	}
	if err := pebble.Restore("/backup", options(mem, "/restored")); err != nil {
		t.Fatal(err)
	}
	r := mustOpen(t, options(mem, "/restored"))
	defer r.Close()
	if err := checkStore(t, r); err != nil || r.ID() != s.ID() {
		t.Errorf("restored store: %v, id %s, want %s", err, r.ID(), s.ID())
	}
}

func TestADamagedBackupIsNotRestored(t *testing.T) {
	mem := vfs.NewMem()
	s := mustOpen(t, options(mem, dir))
	fillStore(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	names, _ := mem.List(dir)
	for _, name := range names {
		if strings.HasSuffix(name, ".sst") {
			data := contents(t, mem, name)
			data[len(data)/3] ^= 4
			replace(t, mem, name, data)
		}
	}
	if err := pebble.Restore(dir, options(mem, "/restored")); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("error %v", err)
	}
}

// ENOSPC comes between two looks at the room on the disk.
func TestADiskThatIsSuddenlyFullIsTold(t *testing.T) {
	d := newDisk(store.DefaultLimits())
	o := d.options()
	told := make(chan error, 2)
	o.Failed = func(err error) { told <- err }
	o.FS = full{o.FS, d}
	s := mustOpen(t, o)
	fillStore(t, s)
	d.broken.Store(true)
	done := make(chan error, 1)
	s.Retain(text(1, 10), func(_ uint64, err error) { done <- err })
	if err := <-done; !errors.Is(err, store.ErrFailed) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("error %v", err)
	}
	if err := <-told; !errors.Is(err, store.ErrFailed) || len(told) > 0 {
		t.Errorf("told %v, and %d more", err, len(told))
	}
	if err := s.Close(); !errors.Is(err, store.ErrFailed) {
		t.Errorf("Close: %v", err)
	}
	d.broken.Store(false)
	// What was answered before is there.
	s = mustOpen(t, d.options())
	defer s.Close()
	if err := checkStore(t, s); err != nil {
		t.Error(err)
	}
}

// full says ENOSPC for what d injects.
type full struct {
	vfs.FS
	d *disk
}

func (f full) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, c)
	return fullFile{file}, noSpace(err)
}

func (f full) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.ReuseForWrite(from, to, c)
	return fullFile{file}, noSpace(err)
}

type fullFile struct{ vfs.File }

func (f fullFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	return n, noSpace(err)
}

func noSpace(err error) error {
	if errors.Is(err, errBroken) {
		return syscall.ENOSPC
	}
	return err
}

func TestAMessageOfManyInboxesIsStoredOnce(t *testing.T) {
	for _, tt := range []struct {
		name           string
		size, sessions int
		atMost         int
	}{
		{"large", 8 << 10, 50, 8<<10 + 50*200},
		{"small", 1 << 10, 50, 2<<10 + 50*200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDisk(store.DefaultLimits())
			s := mustOpen(t, d.options())
			defer func() { s.Close() }()
			payload := make([]byte, tt.size)
			for i := range payload {
				payload[i] = byte(i * i >> 3) // does not compress to nothing
			}
			done := make(chan error, 2*tt.sessions)
			before := logSize(t, d)
			for i := range tt.sessions {
				client, id := fmt.Sprint(i), journal.SessionID(i+1)
				s.Put(0, store.Record{Client: client, Session: id, Epoch: 1}, func(err error) { done <- err })
				m := &message.Message{ID: message.ID{Origin: "g", Seq: 1}, Topic: "t", Payload: payload}
				s.Write(journal.Write{Client: client, Session: id, Epoch: 1, Changes: []journal.Change{
					{Kind: journal.Append, Entry: journal.Entry{Position: 1, QoS: 1, Message: m}},
				}}, func(_ []journal.LeftOut, err error) { done <- err })
			}
			for range 2 * tt.sessions {
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			}
			if got := logSize(t, d) - before; got > tt.atMost {
				t.Errorf("%d inboxes and one message of %d bytes take %d bytes", tt.sessions, tt.size, got)
			}
			if n := s.Buckets(); n != 1 {
				t.Errorf("%d buckets", n)
			}
			for i := range tt.sessions {
				s.Delete(fmt.Sprint(i), 1, func(err error) { done <- err })
				<-done
			}
			s.Close()
			s = mustOpen(t, d.options())
			s.Sweep()
			if n := s.Buckets(); n != 0 {
				t.Errorf("%d buckets are left of nothing", n)
			}
		})
	}
}

func logSize(t *testing.T, d *disk) int {
	t.Helper()
	names, err := d.mem.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	size := 0
	for _, name := range names {
		if strings.HasSuffix(name, ".log") {
			size += len(strings.TrimRight(string(contents(t, d.mem, name)), "\x00"))
		}
	}
	return size
}

func TestADiskWithoutRoomToOpenIsLeftAlone(t *testing.T) {
	d := newDisk(store.DefaultLimits())
	d.fill(true)
	if _, err := d.openStore(); !errors.Is(err, store.ErrFull) || !strings.Contains(err.Error(), "1024 KiB are free, 4096 are needed") {
		t.Errorf("error %v, want %v", err, store.ErrFull)
	}
	if names, err := d.mem.List(dir); err != nil || len(names) > 1 { // the lock
		t.Errorf("left: %v, %v", names, err)
	}
	d.fill(false)
	s, err := d.openStore()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
