//go:build linux

package faults

import (
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/faults/ledger"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// regulars are clients that come again: publishers and receivers, most with durable sessions. They leave without a
// word, or with one, connect elsewhere, also while their last connection still stands, and stop reading or
// acknowledging for a while. A ledger has what they sent and got.
type regulars struct {
	*ledger.Ledger
	t         testing.TB
	addresses []string
	pace      time.Duration // of each publisher
	calm      chan struct{} // closed: nobody says anything new, or leaves of his own accord
	stop      chan struct{} // closed: everybody leaves for good
	spoken    sync.WaitGroup
	wg        sync.WaitGroup
	speakers  []*speaker
	listeners []*listener
}

// attend has regulars come: speakers of both versions, at QoS 1 and 2, to all, and to some of the listeners
// alone; of each four listeners three are durable. Two more are a group that shares what is said.
func attend(t testing.TB, speakers, listeners int, seed uint64, addresses []string) *regulars {
	w := &regulars{
		Ledger: ledger.New(time.Now), t: t, addresses: addresses, pace: 25 * time.Millisecond,
		calm: make(chan struct{}), stop: make(chan struct{}),
	}
	for i := range listeners {
		l := &listener{regular: w.regular(fmt.Sprintf("listener-%d", i), i, seed, i%4 != 3)}
		w.listeners = append(w.listeners, l)
		w.wg.Go(l.run)
	}
	// The members of a group are of both versions, and durable: what is stored for one of them is for no other.
	w.OpenGroup("group")
	for i := range 2 {
		l := &listener{regular: w.regular(fmt.Sprintf("member-%d", i), i, seed, true), group: "group"}
		w.listeners = append(w.listeners, l)
		w.wg.Go(l.run)
	}
	for i := range speakers {
		id := fmt.Sprintf("speaker-%d", i)
		s := &speaker{regular: w.regular(id, i/2, seed, i%4 != 3)}
		s.stream = ledger.Stream{Publisher: id, Topic: "regulars/" + id, QoS: byte(1 + i%2), Durable: s.durable}
		if i%3 == 2 {
			s.stream.Topic = fmt.Sprintf("p2p/listener-%d/%s", i/3%listeners, id)
		}
		w.speakers = append(w.speakers, s)
		w.spoken.Go(s.run)
	}
	return w
}

// acks are those that each speaker has got.
func (w *regulars) acks() []int {
	n := make([]int, len(w.speakers))
	for i, s := range w.speakers {
		n[i] = s.acks()
	}
	return n
}

// settle waits until every speaker gets acknowledgements again, and everything that was sent before now and has been
// acknowledged is where it has to be. It returns how long that took.
func (w *regulars) settle(limit time.Duration) time.Duration {
	w.t.Helper()
	began, before, mark := time.Now(), w.acks(), w.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		silent := ""
		for i, n := range w.acks() {
			if n < before[i]+3 {
				silent = w.speakers[i].id
			}
		}
		n, first := w.Outstanding(mark)
		took := time.Since(began)
		switch {
		case n == 0 && silent == "":
			return took
		case took > limit && n > 0:
			w.t.Errorf("%s: %d messages that were acknowledged have not come within %v; %s", time.Now().UTC().Format(clock), n, limit, first)
			return took
		case took > limit:
			w.t.Errorf("%s: %q gets no acknowledgements within %v: %s", time.Now().UTC().Format(clock), silent, limit, w.speaker(silent).describe())
			return took
		}
		<-tick.C
	}
}

func (w *regulars) speaker(id string) *speaker {
	for _, s := range w.speakers {
		if s.id == id {
			return s
		}
	}
	return nil
}

// finish has the speakers bring to an end what they have begun, waits for what is on its way, and fails the test
// unless the ledger is clean, but for what may be.
func (w *regulars) finish(limit time.Duration, but ...ledger.Kind) ledger.Report {
	w.t.Helper()
	close(w.calm)
	done := make(chan struct{})
	go func() {
		w.spoken.Wait()
		close(done)
	}()
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case <-done:
	case <-timeout.C:
		for _, s := range w.speakers {
			if text := s.describe(); text != "" {
				w.t.Errorf("%q: %s", s.id, text)
			}
		}
	}
	began := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for time.Since(began) < limit {
		if n, _ := w.Outstanding(w.Now()); n == 0 {
			break
		}
		<-tick.C
	}
	late := time.Since(began)
	close(w.stop)
	<-done
	w.wg.Wait()
	r := w.Report()
	w.t.Logf("regulars: %v after the last acknowledgement everything had come\n%v", late.Round(time.Millisecond), r)
	if !r.Clean(but...) {
		w.t.Errorf("regulars: %v", r.Count)
		w.explain()
	}
	if r.Acknowledged == 0 || r.Again == 0 {
		w.t.Error("regulars: nothing was acknowledged, or nothing sent again")
	}
	return r
}

// explain shows what everybody has done, in the order of time: what is wrong with one has often to do with another.
func (w *regulars) explain() {
	w.t.Helper()
	var all []string
	for _, l := range w.listeners {
		all = append(all, l.history()...)
	}
	for _, s := range w.speakers {
		all = append(all, s.history()...)
	}
	slices.Sort(all)
	w.t.Logf("what the regulars have done:\n    %s", strings.Join(all, "\n    "))
}

// regular is what speakers and listeners have in common.
type regular struct {
	w       *regulars
	id      string
	version byte
	durable bool
	random  *rand.Rand // of the goroutine of run
	had     bool       // it was told that it has a session

	mu   sync.Mutex
	line *line // the present one; what older ones bring is not looked at

	noting sync.Mutex
	notes  []string // what it has done
}

// note writes down what the regular does, for failures.
func (r *regular) note(format string, args ...any) {
	r.noting.Lock()
	defer r.noting.Unlock()
	r.notes = append(r.notes, fmt.Sprintf("%s %s ", time.Now().UTC().Format(clock), r.id)+fmt.Sprintf(format, args...))
}

// history is what it has done.
func (r *regular) history() []string {
	r.noting.Lock()
	defer r.noting.Unlock()
	return slices.Clone(r.notes)
}

func (w *regulars) regular(id string, i int, seed uint64, durable bool) regular {
	var number uint64
	for _, b := range []byte(id) {
		number = number*131 + uint64(b)
	}
	return regular{w: w, id: id, version: version(i), durable: durable, random: rand.New(rand.NewPCG(seed, number))}
}

// between is a random time.
func (r *regular) between(from, to time.Duration) time.Duration {
	return from + time.Duration(r.random.Int64N(int64(to-from)))
}

// rest waits, unless the regulars are calm or over, and reports whether they are not over.
func (r *regular) rest(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.w.stop:
		return false
	}
}

// ring connects to a gateway at random, and reports whether the session was there. The line that stands is not the
// present one any more: nothing that comes over it counts.
func (r *regular) ring() (next *line, present bool, err error) {
	r.mu.Lock()
	r.line = nil
	r.mu.Unlock()
	where := r.random.IntN(len(r.w.addresses))
	r.note("calls gateway %d", where)
	next, present, err = call(r.w.t, r.w.addresses[where], r.version, r.id, r.durable)
	if err != nil {
		r.note("is not let in: %v", err)
		return nil, false, err
	}
	r.note("is let in, session present %t", present)
	if r.durable && r.had && !present {
		r.w.Forgotten(r.id)
	}
	if !r.durable && present {
		r.w.t.Errorf("%q: session present after a clean start", r.id)
	}
	r.had = true
	return next, present, nil
}

// calm reports whether it is.
func (w *regulars) isCalm() bool {
	select {
	case <-w.calm:
		return true
	default:
		return false
	}
}

// line is one connection of a regular.
type line struct {
	version byte
	t       testing.TB
	raw     *rawmqtt.Client
	writing sync.Mutex
	ended   chan struct{} // closed when the reader has seen the end

	mu    sync.Mutex
	heard time.Time // of the last packet
}

// call opens a line. An error says that there was no CONNACK that says yes.
func call(t testing.TB, addr string, version byte, id string, durable bool) (x *line, present bool, err error) {
	const patience = 3 * time.Second
	nc, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return nil, false, err
	}
	x = &line{version: version, t: t, raw: rawmqtt.Over(t, nc, version), ended: make(chan struct{}), heard: time.Now()}
	err = x.send(rawmqtt.ConnectPacket(version, id, func(pk *packets.Packet) {
		if durable {
			rawmqtt.Durable(600)(pk)
		}
	}))
	if err == nil {
		var ack packets.Packet
		ack, err = x.raw.Next(patience)
		present = ack.SessionPresent
		switch {
		case err != nil:
		case ack.FixedHeader.Type != packets.Connack:
			err = fmt.Errorf("%s instead of CONNACK", packets.PacketNames[ack.FixedHeader.Type])
		case ack.ReasonCode != 0:
			err = refused(ack.ReasonCode)
		}
	}
	if err != nil {
		x.raw.Close()
		return nil, false, err
	}
	return x, present, nil
}

// send writes a packet. An error says that the connection is over.
func (x *line) send(pk packets.Packet) error {
	pk.ProtocolVersion = x.version
	b := rawmqtt.Bytes(x.t, pk)
	x.writing.Lock()
	defer x.writing.Unlock()
	_ = x.raw.Conn().SetWriteDeadline(time.Now().Add(5 * time.Second))
	_, err := x.raw.Conn().Write(b)
	return err
}

// say sends a packet that has no more than a type and an identifier. That it fails shows in the read.
func (x *line) say(kind byte, id uint16) {
	_ = x.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: kind}, PacketID: id})
}

// read hands on whatever comes, until the end.
func (x *line) read(f func(packets.Packet)) {
	defer close(x.ended)
	for {
		pk, err := x.raw.Next(time.Hour)
		if err != nil {
			x.raw.Close()
			return
		}
		x.mu.Lock()
		x.heard = time.Now()
		x.mu.Unlock()
		f(pk)
	}
}

// silence is how long nothing has come.
func (x *line) silence() time.Duration {
	x.mu.Lock()
	defer x.mu.Unlock()
	return time.Since(x.heard)
}

// hangUp ends the line, with a word or without.
func (x *line) hangUp(word bool) {
	if word {
		x.say(packets.Disconnect, 0)
	}
	x.raw.Close()
}
