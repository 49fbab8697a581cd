package away

import (
	"cmp"
	"slices"

	"github.com/beeline-mqtt/beeline/internal/journal"
)

// givenAtOnce bounds the messages of one shared subscription that members have been given and have not acknowledged.
const givenAtOnce = 128

// giving is how far what is kept for a shared subscription has been given to its members: a plain value. Messages are given
// in the order of their positions; one that comes back is given again before all that have not been.
type giving struct {
	// next is the position of the next entry. Up to stored everything is in the inbox, or was left out of it; up to read
	// it has been read.
	next, stored, read journal.Position
	// ready are the entries that have been read and are to be given, ascending; out are those that have been given.
	ready []journal.Entry
	out   map[journal.Position]journal.Entry
	// most is how many may be out: half of it after one came back, twice as many after one was done. While no member has room
	// it is one that is sent in vain, again and again.
	most int
}

// begin is where giving begins with an inbox from a first position to before a next one.
func begin(first, next journal.Position) giving {
	return giving{next: next, stored: next - 1, read: first - 1, most: givenAtOnce}
}

// wants says whether entries are to be read: how many, and behind which position. Half of what may be given at once may come
// back before it does so again: a page for each acknowledgement would be many.
func (g *giving) wants() (after journal.Position, most int, wanted bool) {
	wanted = len(g.ready) == 0 && len(g.out) <= givenAtOnce/2 && g.read < g.stored
	return g.read, givenAtOnce - len(g.out), wanted
}

// page takes the entries behind what was read before. stored is what it was when reading began: up to there nothing else is
// in the inbox when there were none.
func (g *giving) page(entries []journal.Entry, stored journal.Position) {
	if len(entries) == 0 {
		g.read = max(g.read, stored)
		return
	}
	g.ready = append(g.ready, entries...)
	g.read = entries[len(entries)-1].Position
}

// take returns the entry to be given now; false: there is none, or enough are out.
func (g *giving) take() (e journal.Entry, ok bool) {
	if len(g.ready) == 0 || len(g.out) >= g.most {
		return e, false
	}
	e = g.ready[0]
	g.ready = g.ready[1:]
	if g.out == nil {
		g.out = make(map[journal.Position]journal.Entry)
	}
	g.out[e.Position] = e
	return e, true
}

// back takes an entry that nobody has taken, or that was with a member who has gone.
func (g *giving) back(at journal.Position) {
	e, ok := g.out[at]
	if !ok {
		return
	}
	delete(g.out, at)
	g.most = max(1, g.most/2)
	i, _ := slices.BinarySearchFunc(g.ready, at, func(x journal.Entry, at journal.Position) int {
		return cmp.Compare(x.Position, at)
	})
	g.ready = slices.Insert(slices.Clone(g.ready), i, e)
}

// done says that an entry needs not be kept any longer.
func (g *giving) done(at journal.Position) {
	delete(g.out, at)
	g.most = min(2*g.most, givenAtOnce)
}

// empty reports whether everything has been given, and acknowledged.
func (g *giving) empty() bool { return len(g.ready)+len(g.out) == 0 && g.read >= g.stored }
