//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/test/faults/ledger"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// bulletin publishes on a PublishStream, and on another one whenever that breaks. What has no result then is not published
// again. A ledger has what was sent, and with which result.
type bulletin struct {
	ledger.Stream
	b    *backend
	book *ledger.Ledger
	stop chan struct{}
	idle chan struct{} // closed when it has ended

	mu      sync.Mutex // guards the following
	taken   []string   // payloads whose results say that somebody has them
	refused []uint32   // results that are failures
	unknown int        // messages without a result
	breaks  []error    // how streams have ended
	over    bool       // it is to end
}

func (b *backend) bulletin(book *ledger.Ledger, name string) *bulletin {
	x := &bulletin{
		Stream: ledger.Stream{Publisher: name, Topic: "news/" + name, QoS: 1},
		b:      b, book: book, stop: make(chan struct{}), idle: make(chan struct{}),
	}
	go x.run()
	b.t.Cleanup(x.end)
	return x
}

func (x *bulletin) run() {
	defer close(x.idle)
	pause := time.NewTicker(pace)
	defer pause.Stop()
	for connection := 1; ; connection++ {
		err := x.publish(connection)
		if err == nil {
			return
		}
		x.mu.Lock()
		x.breaks = append(x.breaks, err)
		over := x.over
		x.mu.Unlock()
		if over {
			return
		}
		<-pause.C
	}
}

// publish publishes on one stream, until that breaks, or has been ended in order.
func (x *bulletin) publish(connection int) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s, err := x.b.Messaging().PublishStream(ctx)
	if err != nil {
		return err
	}
	open := make(chan ledger.Message, window)
	ended := make(chan error, 1)
	go func() { ended <- x.results(s, open) }()
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case <-x.stop:
			_ = s.CloseSend() // it never fails
			return <-ended
		case <-tick.C:
		}
		if len(open) == window {
			continue
		}
		m := x.book.Send(x.Stream, connection)
		open <- m // nobody else does
		if s.Send(&messagingv1.PublishStreamRequest{Messages: []*messagingv1.Message{text(m.Topic, m.Payload())}}) != nil {
			return <-ended // which knows why
		}
	}
}

// results writes down results until the stream ends. nil: it ended in order.
func (x *bulletin) results(s messagingv1.MessagingService_PublishStreamClient, open chan ledger.Message) error {
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) && len(open) == 0 {
			return nil
		}
		x.mu.Lock()
		if err != nil {
			x.unknown += len(open)
		}
		for _, one := range r.GetResults() {
			m := <-open
			x.book.Acknowledge(m, byte(one.GetReasonCode()))
			switch {
			case one.GetReasonCode() >= 0x80:
				x.refused = append(x.refused, one.GetReasonCode())
			case one.GetReasonCode() == 0:
				x.taken = append(x.taken, m.Payload())
			}
		}
		x.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// more waits until n messages more are taken.
func (x *bulletin) more(n int) {
	x.b.t.Helper()
	taken := func() int {
		x.mu.Lock()
		defer x.mu.Unlock()
		return len(x.taken)
	}
	want := taken() + n
	eventually(x.b.t, fmt.Sprintf("%q has published %d more", x.Publisher, n), func() bool { return taken() >= want })
}

// end ends it in order. What it has written down does not change any more.
func (x *bulletin) end() {
	x.mu.Lock()
	if !x.over {
		x.over = true
		close(x.stop)
	}
	x.mu.Unlock()
	<-x.idle
}

// reader is a client with a durable session that reads the news.
type reader struct {
	id    string
	book  *ledger.Ledger
	lines []*client
	noted []int // arrivals of each line that the ledger has
}

func (b *backend) reader(book *ledger.Ledger, id string, gateway int) *reader {
	b.t.Helper()
	r := &reader{id: id, book: book}
	book.Open(id, true)
	b.move(r, gateway)
	book.Subscribe(id, "news/#")
	r.lines[0].subscribe("news/#", 1)
	book.Subscribed(id)
	return r
}

// move connects a reader to a gateway.
func (b *backend) move(r *reader, gateway int) {
	b.t.Helper()
	r.lines = append(r.lines, connect(b.t, b.c.Gateways[gateway].MQTT, rawmqtt.V5, r.id, rawmqtt.Durable(3600)))
	r.noted = append(r.noted, 0)
}

// note shows the ledger what has come.
func (r *reader) note() {
	for i, x := range r.lines {
		all := x.arrivals("")
		for _, a := range all[r.noted[i]:] {
			r.book.Received(ledger.Delivery{Session: r.id, Connection: i, Topic: a.topic, Payload: a.payload, QoS: 1})
		}
		r.noted[i] = len(all)
	}
}

// audit waits until everything has come that was taken, and fails the test if something has not, or is wrong otherwise. For
// those who have moved order may be given up.
func audit(t testing.TB, book *ledger.Ledger, readers []*reader, moved ...string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for time.Now().Before(deadline) {
		for _, r := range readers {
			r.note()
		}
		if n, _ := book.Outstanding(book.Now()); n == 0 {
			break
		}
		<-tick.C
	}
	r := book.Report()
	t.Logf("news: %v", r)
	for _, wrong := range r.Wrongs {
		if wrong.Kind != ledger.Reordered || !slices.Contains(moved, wrong.Client) {
			t.Errorf("%v", wrong)
		}
	}
	if r.Acknowledged == 0 {
		t.Error("nothing was published")
	}
}
