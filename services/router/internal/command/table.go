package command

import (
	"crypto/rand"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/beeline-mqtt/beeline/internal/packet"
)

// Bounds of commands under way.
const (
	mostPerClient = 2_000
	mostCommands  = 50_000
)

// Why a command is not taken.
var (
	errTooMany          = errors.New("too many commands are under way")
	errTooManyForClient = errors.New("too many commands wait for this client")
)

// correlation names a command in its answer. It cannot be guessed.
type correlation [16]byte

func newCorrelation() (c correlation) {
	_, _ = rand.Read(c[:]) // never fails
	return c
}

// pending is a command that waits for its answer.
type pending struct {
	clientID    string
	correlation correlation
	reply       reply       // of an empty topic: the answer has the correlation
	answer      chan answer // of one element
	has         atomic.Bool // its answer, which may have been taken out of the channel
}

// answer is what a device has published.
type answer struct {
	packet packet.Publish
	came   time.Time
}

// refusal is why a message is no answer, as the metric names it.
type refusal string

const (
	answered refusal = ""
	// unmatched: nobody waits for it: it is late, or was given before, or there was no such command.
	unmatched refusal = "unmatched"
	// forged: it comes from another client than the one that was commanded.
	forged refusal = "forged"
)

// reply is where answers of devices come that see no properties: publisher is empty where nobody knows who publishes.
type reply struct{ cluster, publisher, topic string }

// table is the commands that wait for answers.
type table struct {
	mu        sync.Mutex // guards the following
	waiting   map[correlation]*pending
	replies   map[reply]*pending // one at a time for each
	perClient map[string]int
}

func newTable() *table {
	return &table{waiting: make(map[correlation]*pending), replies: make(map[reply]*pending), perClient: make(map[string]int)}
}

// enter takes a command; leave has to be called. Its error is errTooMany or errTooManyForClient.
func (t *table) enter(clientID string, r reply) (*pending, error) {
	p := &pending{clientID: clientID, correlation: newCorrelation(), reply: r, answer: make(chan answer, 1)}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case len(t.waiting) >= mostCommands:
		return nil, errTooMany
	case t.perClient[clientID] >= mostPerClient:
		return nil, errTooManyForClient
	}
	t.perClient[clientID]++
	t.waiting[p.correlation] = p
	return p, nil
}

// expect has p answered by the next message of its client on its reply topic. Whoever calls sees to it that there is one
// command at a time for each.
func (t *table) expect(p *pending) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.replies[p.reply] = p
}

func (t *table) leave(p *pending) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.waiting, p.correlation)
	if t.replies[p.reply] == p {
		delete(t.replies, p.reply)
	}
	if t.perClient[p.clientID]--; t.perClient[p.clientID] == 0 {
		delete(t.perClient, p.clientID)
	}
}

// open is how many wait.
func (t *table) open() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.waiting)
}

// byCorrelation gives an answer to the command that it names. Unless verified, nobody knows the publisher.
func (t *table) byCorrelation(publisher string, verified bool, a answer) refusal {
	var data []byte
	if a.packet.Props != nil {
		data = a.packet.Props.CorrelationData
	}
	var c correlation
	if len(data) != len(c) {
		return unmatched
	}
	copy(c[:], data)
	t.mu.Lock()
	p := t.waiting[c]
	t.mu.Unlock()
	switch {
	case p == nil || p.reply.topic != "":
		return unmatched
	case verified && p.clientID != publisher:
		return forged
	}
	return p.give(a)
}

// byTopic gives an answer to the command that waits there.
func (t *table) byTopic(r reply, a answer) refusal {
	t.mu.Lock()
	p := t.replies[r]
	t.mu.Unlock()
	if p == nil {
		return unmatched
	}
	return p.give(a)
}

// give gives a command its answer, if it is the first.
func (p *pending) give(a answer) refusal {
	if !p.has.CompareAndSwap(false, true) {
		return unmatched
	}
	p.answer <- a
	return answered
}
