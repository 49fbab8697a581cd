package presence

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Why there is nothing after a cursor.
var (
	// ErrGone: the events after it are not kept any more, or are those of another instance.
	ErrGone = errors.New("the events after the cursor are not known here any more")
	// ErrCursor: nobody has ever been given it.
	ErrCursor = errors.New("not a cursor")
)

// idBytes is how long client ids in a History are, taken all together: longer ones crowd out more than one event each.
const idBytes = 256

// History is the latest events of one instance, numbered from 1.
type History struct {
	instance string
	ring     []Event // an event has its place by its sequence
	first    uint64  // sequence of the oldest that is kept; behind last when none is
	last     uint64
	bytes    int // of client ids
}

// NewHistory returns one that will keep that many events, at least one.
func NewHistory(instance string, events int) *History {
	return &History{instance: instance, ring: make([]Event, max(events, 1)), first: 1}
}

// Capacity is how many events are kept at most.
func (h *History) Capacity() uint64 { return uint64(len(h.ring)) }

// Last is the sequence of the newest event, 0 if there was none.
func (h *History) Last() uint64 { return h.last }

func (h *History) place(sequence uint64) *Event { return &h.ring[sequence%h.Capacity()] }

func (h *History) add(e Event) {
	h.bytes += len(e.Client)
	for h.first <= h.last && (h.last-h.first+1 == h.Capacity() || h.bytes > idBytes*len(h.ring)) {
		oldest := h.place(h.first)
		h.bytes -= len(oldest.Client)
		*oldest = Event{}
		h.first++
	}
	h.last++
	e.Sequence = h.last
	*h.place(e.Sequence) = e
}

// Cursor names the point behind an event.
func (h *History) Cursor(sequence uint64) string {
	return h.instance + "/" + strconv.FormatUint(sequence, 10)
}

// Find returns the sequence of the event before a cursor. The errors are those of this package.
func (h *History) Find(cursor string) (uint64, error) {
	instance, number, ok := strings.Cut(cursor, "/")
	sequence, err := strconv.ParseUint(number, 10, 64)
	switch {
	case !ok || err != nil || instance == "":
		return 0, fmt.Errorf("%q: %w", cursor, ErrCursor)
	case instance != h.instance:
		return 0, fmt.Errorf("%q is of another session instance: %w", cursor, ErrGone)
	case sequence > h.last:
		return 0, fmt.Errorf("%q is ahead of all events: %w", cursor, ErrCursor)
	}
	return sequence, h.kept(sequence)
}

func (h *History) kept(after uint64) error {
	if after+1 < h.first {
		return fmt.Errorf("events up to %d are not kept: %w", h.first-1, ErrGone)
	}
	return nil
}

// Page bounds what After returns.
type Page struct {
	// Looked is how many events are looked at, Events how many are returned, at most.
	Looked, Events int
	// Bytes of client ids beyond which the page is full.
	Bytes int
}

// After returns the events behind a sequence whose clients' ids begin with a prefix, and the sequence up to which it has
// looked. The error is ErrGone. The events are the caller's.
func (h *History) After(sequence uint64, prefix string, p Page) (events []Event, through uint64, err error) {
	if err := h.kept(sequence); err != nil {
		return nil, sequence, err
	}
	bytes := 0
	for through = sequence; through < h.last && through-sequence < uint64(p.Looked); through++ {
		if len(events) == p.Events || bytes >= p.Bytes {
			break
		}
		if e := h.place(through + 1); strings.HasPrefix(e.Client, prefix) {
			events = append(events, *e)
			bytes += len(e.Client)
		}
	}
	return events, through, nil
}

// Before returns the events of one client before a sequence, newest first, and the sequence before which the next call has
// to look; 1 when there is nothing before it that is kept. The page's Bytes do not count. The events are the caller's.
func (h *History) Before(sequence uint64, client string, p Page) (events []Event, next uint64) {
	sequence = min(sequence, h.last+1)
	for looked := 0; sequence > h.first && looked < p.Looked && len(events) < p.Events; looked++ {
		sequence--
		if e := h.place(sequence); e.Client == client {
			events = append(events, *e)
		}
	}
	if sequence <= h.first {
		return events, 1
	}
	return events, sequence
}
