//go:build linux

package faults

import (
	"cmp"
	"fmt"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/test/faults/ledger"
)

// listener is a regular that subscribes to what speakers say. A durable one has one session for ever, a transient
// one a new one with each connection.
type listener struct {
	regular
	// group is the shared subscription that it is a member of, if it is of one: then it subscribes to that alone.
	group string

	// mu of regular guards the following.
	session    string
	connection int
	subscribed bool
	asking     bool      // a SUBSCRIBE is under way
	deaf       time.Time // nothing is read until then
	mute       bool      // nothing is acknowledged any more
}

func (l *listener) run() {
	var old *line
	defer func() {
		if old != nil {
			old.hangUp(true)
			<-old.ended
		}
	}()
	for connection := 1; ; connection++ {
		next, present, err := l.ring()
		if old != nil {
			old.hangUp(false)
			<-old.ended
			old = nil
		}
		away := l.between(20*time.Millisecond, 150*time.Millisecond)
		if err == nil {
			l.begin(next, connection, present)
			l.w.wg.Go(func() { next.read(func(pk packets.Packet) { l.handle(next, pk) }) })
			l.listen(next)
			old = l.leave(next)
			if old == nil && !l.w.isCalm() {
				away = l.between(0, 1500*time.Millisecond)
			}
		}
		if !l.rest(away) {
			return
		}
	}
}

// begin begins a connection.
func (l *listener) begin(x *line, connection int, present bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.durable || l.session == "" {
		if l.session != "" {
			l.w.Ended(l.session)
		}
		l.session = l.id
		if !l.durable {
			l.session = fmt.Sprintf("%s#%d", l.id, connection)
		}
		l.w.Open(l.session, l.durable)
		// What is for it alone needs no subscription.
		l.w.Subscribe(l.session, "p2p/"+l.id+"/#")
		l.w.Subscribed(l.session)
	}
	if !l.durable || !present {
		l.subscribed = false
	}
	l.line, l.connection, l.asking, l.deaf, l.mute = x, connection, false, time.Time{}, false
}

// owner is what gets the messages of its subscription: its session, or the group.
func (l *listener) owner() string { return cmp.Or(l.group, l.session) }

// listen stays until the connection is over, hangs, or has lasted as long as chance wants it.
func (l *listener) listen(x *line) {
	filter, owner := "regulars/#", l.owner()
	if l.group != "" {
		filter = "$share/" + l.group + "/" + filter
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	until := time.NewTimer(l.between(500*time.Millisecond, 4*time.Second))
	defer until.Stop()
	lasts, hangs := until.C, l.between(3*time.Second, 6*time.Second)
	calm := l.w.calm
	for {
		l.mu.Lock()
		ask, deaf := !l.subscribed && !l.asking, time.Now().Before(l.deaf)
		if ask {
			l.asking = true
			l.w.Subscribe(owner, "regulars/#")
		}
		l.mu.Unlock()
		if ask {
			_ = x.send(packets.Packet{
				FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: 1,
				Filters: packets.Subscriptions{{Filter: filter, Qos: 2}},
			})
		}
		x.say(packets.Pingreq, 0)
		if !deaf && x.silence() > hangs {
			l.note("is not served")
			return
		}
		select {
		case <-x.ended:
			l.note("is thrown out")
			return
		case <-l.w.stop:
			return
		case <-calm:
			calm, lasts = nil, nil
		case <-lasts:
			return
		case <-tick.C:
		}
		if calm != nil && l.random.IntN(60) == 0 {
			l.mu.Lock()
			l.deaf = time.Now().Add(l.between(200*time.Millisecond, 2*time.Second))
			l.note("is deaf until %s", l.deaf.UTC().Format(clock))
			l.mu.Unlock()
		}
	}
}

// leave ends a connection in one way or another. The line that it returns stands still.
func (l *listener) leave(x *line) *line {
	way := l.random.IntN(4)
	l.note("leaves: %s", [...]string{"without a word", "with a word", "for another connection", "mute first"}[way])
	if way == 2 && !l.w.isCalm() {
		return x // and nothing counts any more that comes over it, from the next CONNECT on
	}
	if way == 3 {
		// What comes now is not acknowledged, and has to come again.
		l.mu.Lock()
		l.mute = true
		l.mu.Unlock()
		l.rest(100 * time.Millisecond)
	}
	x.hangUp(way == 1)
	<-x.ended
	if !l.durable && !l.over() {
		l.w.Ended(l.session)
	}
	return nil
}

// over reports whether the regulars are told to go. Who is there until then is owed everything.
func (r *regular) over() bool {
	select {
	case <-r.w.stop:
		return true
	default:
		return false
	}
}

// handle does what a packet asks for.
func (l *listener) handle(x *line, pk packets.Packet) {
	l.mu.Lock()
	deaf := l.deaf
	l.mu.Unlock()
	if d := time.Until(deaf); d > 0 {
		timer := time.NewTimer(d)
		select {
		case <-timer.C:
		case <-l.w.calm:
			timer.Stop()
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.line != x {
		return
	}
	switch pk.FixedHeader.Type {
	case packets.Suback:
		l.asking = false
		if pk.ReasonCodes[0] < 0x80 {
			l.subscribed = true
			l.note("is subscribed")
			l.w.Subscribed(l.owner())
		}
	case packets.Publish:
		// Who is mute takes no responsibility for what comes: it has not got it.
		if l.mute && pk.FixedHeader.Qos > 0 {
			return
		}
		group := l.group
		if topic.IsDirect(pk.TopicName) {
			group = ""
		}
		l.w.Received(ledger.Delivery{
			Session: l.session, Group: group, Connection: l.connection, Topic: pk.TopicName, Payload: string(pk.Payload),
			QoS: pk.FixedHeader.Qos, PacketID: pk.PacketID, DUP: pk.FixedHeader.Dup,
		})
		switch pk.FixedHeader.Qos {
		case 1:
			x.say(packets.Puback, pk.PacketID)
		case 2:
			x.say(packets.Pubrec, pk.PacketID)
		}
	case packets.Pubrel:
		if l.mute {
			return
		}
		l.w.Released(l.session, pk.PacketID)
		x.say(packets.Pubcomp, pk.PacketID)
	}
}
