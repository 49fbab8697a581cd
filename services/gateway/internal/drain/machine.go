package drain

import (
	"errors"
	"math"
	"time"
)

// What keeps an order from being carried out.
var (
	// ErrNowhere says that no other gateway takes clients: those who are left stay where they are.
	ErrNowhere = errors.New("no other gateway takes clients")
	// ErrUnseen says that the others could not be shown in time that the gateway is draining: whoever was moved would be
	// sent back.
	ErrUnseen = errors.New("the other processes could not be shown that the gateway is draining")
	// ErrDraining says that the gateway is being drained, or has been: then it has no clients to share.
	ErrDraining = errors.New("the gateway is drained")
	// ErrEnding says that the gateway's process is about to end.
	ErrEnding = errors.New("the gateway is stopping")
)

// Phase is what a gateway does with its clients.
type Phase byte

// The phases. In all but Serving the gateway is shown as draining.
const (
	// Serving: it takes clients and moves nobody.
	Serving Phase = iota
	// Grace: those who send clients here have time to notice; everybody is served, new ones too.
	Grace
	// Moving: clients are told to go.
	Moving
	// Settling: those who were to go have been told, and come back elsewhere meanwhile.
	Settling
	// Drained: the order is over, and the gateway stays as it is.
	Drained
)

// Then is what follows when an order has been carried out.
type Then byte

const (
	// Stay drained, until another order.
	Stay Then = iota
	// Resume: take clients again.
	Resume
	// End: the process ends. There is no way back.
	End
)

// Order says who is to go.
type Order struct {
	// Keep is how many stay. If nobody does, new clients are refused while there is another gateway for them, unless
	// the gateway is to Resume.
	Keep int
	// Rate and Timeout are those of Config where they are 0. A Rate without a Timeout has the time that it needs.
	Rate    int
	Timeout time.Duration
	Then    Then
}

// Scene is what there is.
type Scene struct {
	// Left is how many clients are here; those who have been told and are not gone yet are among them.
	Left int
	// Somewhere: another gateway takes clients.
	Somewhere bool
	// Shown: the others are shown that the gateway is draining.
	Shown bool
}

// Progress is how far the last order has come.
type Progress struct {
	Phase Phase
	Order Order
	// Told is how many clients have been told to go.
	Told int
	// Err is why it ended before its time: ErrNowhere or ErrUnseen.
	Err error
}

// Machine is the state of one gateway. The zero Machine is of no use; it is not for several goroutines at once.
type Machine struct {
	cfg   Config
	phase Phase
	order Order
	since time.Time // of the phase
	pace  pace      // while Moving
	most  int       // who are to be told, while Moving; math.MaxInt: whoever is here
	told  int
	last  bool // the time is over, and all have been told
	err   error
}

// New is a gateway that serves.
func New(c Config) Machine { return Machine{cfg: c} }

// Progress of the last order; its phase is that of the gateway.
func (m *Machine) Progress() Progress {
	return Progress{Phase: m.phase, Order: m.order, Told: m.told, Err: m.err}
}

// Draining says that the gateway is to be shown as draining.
func (m *Machine) Draining() bool { return m.phase != Serving }

// Busy says that Step is to be called now and then.
func (m *Machine) Busy() bool { return m.phase == Grace || m.phase == Moving || m.phase == Settling }

// Left is how many of those who are here have yet to go.
func (m *Machine) Left(here int) int {
	left := here - m.order.Keep
	switch {
	case m.phase == Settling: // all have been told
		return 0
	case m.phase == Moving && !m.everybody():
		left = min(left, m.most-m.told)
	}
	return max(0, left)
}

// Refuses says that new clients are refused if they can go elsewhere. Where an order has ended before its time, they are
// served like those who stay.
func (m *Machine) Refuses() bool {
	return m.everybody() && m.err == nil && (m.phase == Moving || m.phase == Drained)
}

// everybody says that no client is to stay.
func (m *Machine) everybody() bool { return m.order.Keep == 0 && m.order.Then != Resume }

// Begin carries an order out, in the place of one that is under way; the grace is not given twice. ErrDraining: some
// are to go, and all do already. ErrEnding: the gateway has been told to End.
func (m *Machine) Begin(now time.Time, o Order) error {
	switch {
	case m.phase != Serving && m.order.Then == End && o.Then != End:
		return ErrEnding
	case m.phase != Serving && m.order.Then == Stay && o.Then == Resume:
		return ErrDraining
	}
	m.order, m.told, m.err = o, 0, nil
	switch m.phase {
	case Serving:
		m.enter(now, Grace)
	case Grace: // goes on
	case Moving, Settling, Drained:
		m.enter(now, Grace)
		m.since = now.Add(-m.cfg.Grace)
	}
	return nil
}

// Resume has the gateway take clients again. Whoever has been told to go goes. ErrEnding: it has been told to End.
func (m *Machine) Resume(now time.Time) error {
	if m.phase != Serving && m.order.Then == End {
		return ErrEnding
	}
	if m.phase != Serving {
		m.enter(now, Serving)
	}
	return nil
}

// Step goes on with what is under way, and returns how many clients are to be told to go now, at most. Whoever has told
// them says so with Told. An order is never over in a Step after which somebody is to be told.
func (m *Machine) Step(now time.Time, s Scene) (tell int) {
	switch m.phase {
	case Grace:
		switch {
		case m.idle(s):
			m.over(now, nil)
		case !s.Somewhere:
			m.over(now, ErrNowhere)
		case now.Sub(m.since) < m.cfg.Grace:
		case s.Shown, m.order.Then == End:
			m.move(now, s)
			return m.step(now, s)
		case now.Sub(m.since) >= m.cfg.Grace+unseen:
			m.over(now, ErrUnseen)
		}
	case Moving:
		return m.step(now, s)
	case Settling:
		if now.Sub(m.since) >= m.cfg.Settle {
			m.enter(now, Serving)
		}
	case Serving, Drained:
	}
	return 0
}

// unseen is for how long after the grace others may not have been shown that the gateway is draining.
const unseen = 10 * time.Second

// Told says how many clients have been told to go since the last Step.
func (m *Machine) Told(n int) { m.told += n }

// idle says that nobody is to go any more.
func (m *Machine) idle(s Scene) bool { return s.Left <= m.order.Keep }

// move begins to tell clients to go.
func (m *Machine) move(now time.Time, s Scene) {
	m.enter(now, Moving)
	m.last = false
	n := s.Left - m.order.Keep
	// Of those who come while some go, none have to go: or clients that find no other gateway would be told again and
	// again.
	if m.most = n; m.everybody() {
		m.most = math.MaxInt
	}
	rate, within := m.order.Rate, m.order.Timeout
	if within == 0 {
		if within = m.cfg.Timeout; within == 0 && m.order.Then != End {
			within = DefaultConfig().Timeout
		}
		if rate > 0 {
			within = max(within, m.cfg.Grace+time.Second+time.Duration(float64(n)/float64(rate)*float64(time.Second)))
		}
	}
	if rate == 0 {
		rate = m.cfg.Rate
	}
	m.pace = paceOf(rate, n, within-m.cfg.Grace)
}

// step tells as many as are due.
func (m *Machine) step(now time.Time, s Scene) int {
	after := now.Sub(m.since)
	switch {
	case m.idle(s), m.told >= m.most, m.last:
		m.over(now, nil)
		return 0
	case !s.Somewhere:
		m.over(now, ErrNowhere)
		return 0
	}
	m.last = after >= m.pace.time
	return max(0, min(m.pace.due(after), m.most)-m.told)
}

// over ends the order.
func (m *Machine) over(now time.Time, err error) {
	m.err = err
	switch {
	case m.order.Then != Resume:
		m.enter(now, Drained)
	case m.told == 0 && m.phase == Grace: // nobody has to come back elsewhere
		m.enter(now, Serving)
	default:
		m.enter(now, Settling)
	}
}

func (m *Machine) enter(now time.Time, p Phase) { m.phase, m.since = p, now }
