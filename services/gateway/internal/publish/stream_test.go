package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	gatewayv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/gateway/v1"
	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/turn"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/broker"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// published is a message that the broker has been given.
type published struct {
	m     *message.Message
	terms broker.Terms
	done  func(packet.Code)
	tell  func(broker.Report)
}

// fakeBroker settles nothing by itself, but QoS 0.
type fakeBroker struct {
	mu        sync.Mutex
	published []published
	retained  []func(error)
}

func (b *fakeBroker) PublishFrom(m *message.Message, done func(packet.Code), _ *turn.Turn) {
	b.mu.Lock()
	b.published = append(b.published, published{m: m, done: done})
	b.mu.Unlock()
	if m.QoS == 0 {
		done(packet.Success)
	}
}

func (b *fakeBroker) PublishReported(m *message.Message, terms broker.Terms, tell func(broker.Report), _ *turn.Turn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.published = append(b.published, published{m: m, terms: terms, tell: tell})
}

func (b *fakeBroker) Retain(_ *message.Message, done func(error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.retained = append(b.retained, done)
}

// all is what has been published, once nothing goes on any more.
func (b *fakeBroker) all() []published {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.published
}

func (b *fakeBroker) topics() (topics []string) {
	for _, p := range b.all() {
		topics = append(topics, p.m.Topic)
	}
	return topics
}

// router is the other end of a stream, and the stream.
type router struct {
	grpc.ServerStream

	ctx    context.Context
	in     chan *gatewayv1.PublishRequest
	out    chan *gatewayv1.PublishResponse
	header bool
}

func (r *router) Context() context.Context { return r.ctx }

func (r *router) SendHeader(metadata.MD) error {
	r.header = true
	return nil
}

func (r *router) Recv() (*gatewayv1.PublishRequest, error) {
	select {
	case x, ok := <-r.in:
		if !ok {
			return nil, io.EOF
		}
		return x, nil
	case <-r.ctx.Done():
		return nil, r.ctx.Err()
	}
}

func (r *router) Send(x *gatewayv1.PublishResponse) error {
	select {
	case r.out <- x:
		return nil
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
}

// rig is a stream that is served.
type rig struct {
	*router
	t       *testing.T
	broker  *fakeBroker
	serving bool
	end     context.CancelFunc // of the incarnation
	hangUp  context.CancelFunc // of the router
	over    chan error
}

// serve serves a stream, in a bubble, until f returns.
func serve(t *testing.T, results int, f func(r *rig)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, hangUp := context.WithCancel(t.Context())
		life, end := context.WithCancel(t.Context())
		r := &rig{
			router: &router{ctx: ctx, in: make(chan *gatewayv1.PublishRequest), out: make(chan *gatewayv1.PublishResponse, results)},
			t:      t, broker: new(fakeBroker), serving: true, end: end, hangUp: hangUp, over: make(chan error, 1),
		}
		limits := client.DefaultLimits()
		seq := uint64(0)
		d := &Deps{
			Broker: r.broker, Limits: &limits, Incarnation: "g", Metrics: NewMetrics(prometheus.NewRegistry()),
			NextSequence: func() uint64 { seq++; return seq }, Serving: func() bool { return r.serving },
		}
		var running sync.WaitGroup
		go func() { r.over <- Serve(life, r.router, &running, d) }()
		synctest.Wait()
		if !r.header {
			t.Error("the stream is not taken")
		}
		f(r)
		hangUp()
		end()
		running.Wait()
	})
}

func publication(id uint64, topic string) *gatewayv1.Publication {
	return &gatewayv1.Publication{RequestId: id, Message: &messagev1.Message{
		Topic: topic, Payload: []byte("x"), Qos: messagev1.Qos_QOS_AT_LEAST_ONCE,
	}}
}

func (r *rig) publish(all ...*gatewayv1.Publication) {
	r.t.Helper()
	select {
	case r.in <- &gatewayv1.PublishRequest{Publications: all}:
	case <-time.After(time.Minute):
		r.t.Fatal("the stream is not read")
	}
	synctest.Wait()
}

// results are those of one frame.
func (r *rig) results() []*gatewayv1.Result {
	r.t.Helper()
	select {
	case x := <-r.out:
		return x.GetResults()
	case <-time.After(time.Minute):
		r.t.Fatal("there are no results")
		return nil
	}
}

// want reads results until there are as many, and compares them as id:code.
func (r *rig) want(want ...string) {
	r.t.Helper()
	var got []string
	for len(got) < len(want) {
		for _, x := range r.results() {
			got = append(got, fmt.Sprintf("%d:%#x", x.GetRequestId(), x.GetReasonCode()))
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		r.t.Fatalf("results (-want +got):\n%s", diff)
	}
}

// none checks that there is nothing to read.
func (r *rig) none() {
	r.t.Helper()
	synctest.Wait()
	select {
	case x := <-r.out:
		r.t.Fatalf("got %v", x)
	default:
	}
}

// ended is how the stream has ended.
func (r *rig) ended(want codes.Code) {
	r.t.Helper()
	synctest.Wait()
	select {
	case err := <-r.over:
		if status.Code(err) != want {
			r.t.Errorf("the stream ended with %v, want %v", err, want)
		}
	default:
		r.t.Error("the stream goes on")
	}
}

func TestResultsComeAsTheyAreKnownAndTogether(t *testing.T) {
	serve(t, 10, func(r *rig) {
		zero := publication(4, "d")
		zero.Message.Qos = messagev1.Qos_QOS_AT_MOST_ONCE
		r.publish(publication(1, "a"), publication(2, "b"), publication(3, "c"), zero)
		r.want("4:0x0")
		all := r.broker.all()
		if m := all[1].m; m.Topic != "b" || m.Origin != "g" || m.Seq != 2 || m.Publisher != "" || m.QoS != 1 {
			t.Errorf("published %+v", m)
		}
		all[2].done(packet.NoMatchingSubscribers)
		r.want("3:0x10")
		all[0].done(packet.Success)
		all[0].done(packet.QuotaExceeded) // only the first counts
		all[1].done(packet.QuotaExceeded)
		r.want("1:0x0", "2:0x97")
		close(r.in)
		r.ended(codes.OK)
	})
}

func TestTheLastResultsComeAfterTheRouterHasClosedItsEnd(t *testing.T) {
	serve(t, 10, func(r *rig) {
		r.publish(publication(1, "a"))
		close(r.in)
		r.none()
		r.broker.all()[0].done(packet.Success)
		r.want("1:0x0")
		r.ended(codes.OK)
	})
}

func TestMessagesThatNoClientMayPublishAreRefused(t *testing.T) {
	long := strings.Repeat("x", 3<<20)
	for name, c := range map[string]struct {
		spoil func(*messagev1.Message)
		want  string
	}{
		"no topic":                     {func(m *messagev1.Message) { m.Topic = "" }, "1:0x90"},
		"a wildcard":                   {func(m *messagev1.Message) { m.Topic = "a/+" }, "1:0x90"},
		"too many levels":              {func(m *messagev1.Message) { m.Topic = strings.Repeat("/", 100) }, "1:0x90"},
		"half a direct address":        {func(m *messagev1.Message) { m.Topic = "p2p/x/" }, "1:0x90"},
		"a direct address in disguise": {func(m *messagev1.Message) { m.Topic = "p2p/%41/t" }, "1:0x90"},
		"too large":                    {func(m *messagev1.Message) { m.Payload = []byte(long) }, "1:0x95"},
		"no QoS":                       {func(m *messagev1.Message) { m.Qos = 0 }, "1:0x81"},
		"a QoS beyond 2":               {func(m *messagev1.Message) { m.Qos = 4 }, "1:0x81"},
		"an unknown payload format":    {func(m *messagev1.Message) { m.PayloadFormat = 7 }, "1:0x81"},
		"an expiry beyond MQTT's":      {func(m *messagev1.Message) { ms := uint64(1 << 50); m.ExpiresInMs = &ms }, "1:0x81"},
		"U+0000 in a property":         {func(m *messagev1.Message) { m.ContentType = "\x00" }, "1:0x81"},
		"U+0000 in a user property": {func(m *messagev1.Message) {
			m.UserProperties = []*messagev1.UserProperty{{Name: "n", Value: "a\x00"}}
		}, "1:0x81"},
		"a wildcard to answer to":   {func(m *messagev1.Message) { m.ResponseTopic = "a/#" }, "1:0x81"},
		"correlation data too long": {func(m *messagev1.Message) { m.CorrelationData = []byte(long)[:70_000] }, "1:0x81"},
	} {
		t.Run(name, func(t *testing.T) {
			serve(t, 10, func(r *rig) {
				p := publication(1, "a")
				c.spoil(p.GetMessage())
				r.publish(p)
				r.want(c.want)
				if n := len(r.broker.all()); n > 0 {
					t.Errorf("%d messages are published", n)
				}
			})
		})
	}
}

func TestFramesThatNoRouterMakesEndTheStream(t *testing.T) {
	for name, p := range map[string]*gatewayv1.Publication{
		"no request id":         publication(0, "a"),
		"no message":            {RequestId: 1},
		"a report without time": {RequestId: 1, Message: publication(1, "a").GetMessage(), Report: &gatewayv1.Report{}},
		"an unknown wait":       {RequestId: 1, Message: publication(1, "a").GetMessage(), Report: &gatewayv1.Report{Wait: 9, WithinMs: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			serve(t, 10, func(r *rig) {
				r.publish(p)
				r.ended(codes.InvalidArgument)
			})
		})
	}
}

func TestAnIncarnationThatEndsEndsItsStreams(t *testing.T) {
	serve(t, 10, func(r *rig) {
		r.publish(publication(1, "a"))
		r.end()
		r.ended(codes.Unavailable)
	})
	serve(t, 10, func(r *rig) {
		r.serving = false
		r.publish(publication(1, "a"))
		r.ended(codes.Unavailable)
		if n := len(r.broker.all()); n > 0 {
			t.Errorf("%d messages are published for an incarnation that is over", n)
		}
	})
	serve(t, 10, func(r *rig) {
		r.publish(publication(1, "a"))
		r.hangUp()
		r.ended(codes.Canceled)
		r.broker.all()[0].done(packet.Success) // to nobody
	})
}

func TestAMessageWithoutAnswerIsGivenUp(t *testing.T) {
	serve(t, 10, func(r *rig) {
		r.publish(publication(1, "a"))
		time.Sleep(6 * time.Second)
		r.publish(publication(2, "b"))
		r.none()
		time.Sleep(6 * time.Second)
		r.want("1:0x80")
		r.broker.all()[0].done(packet.Success) // too late
		r.broker.all()[1].done(packet.Success)
		r.want("2:0x0")
	})
}

func TestRetainedMessagesAreStoredFirstAndNothingOvertakesThem(t *testing.T) {
	retained := func(id uint64, topic string) *gatewayv1.Publication {
		p := publication(id, topic)
		p.Message.Retain = true
		return p
	}
	serve(t, 10, func(r *rig) {
		r.publish(publication(1, "a"), retained(2, "b"), publication(3, "c"), retained(4, "d"), retained(5, "p2p/x/e"))
		if diff := cmp.Diff([]string{"a"}, r.broker.topics()); diff != "" {
			t.Errorf("before anything is stored (-want +got):\n%s", diff)
		}
		r.broker.retained[1](nil)
		if diff := cmp.Diff([]string{"a"}, r.broker.topics()); diff != "" {
			t.Errorf("while the first is stored (-want +got):\n%s", diff)
		}
		r.broker.retained[0](client.ErrQuota)
		r.want("2:0x97")
		r.publish(publication(6, "f"))
		if diff := cmp.Diff([]string{"a", "c", "d", "p2p/x/e", "f"}, r.broker.topics()); diff != "" {
			t.Errorf("at last (-want +got):\n%s", diff)
		}
		if n := len(r.broker.retained); n != 2 {
			t.Errorf("%d messages are stored", n)
		}
	})
}

func TestAStreamIsNotReadWhileTooMuchIsUnderWay(t *testing.T) {
	serve(t, 0, func(r *rig) {
		sent := 0
		for full := false; !full; {
			batch := make([]*gatewayv1.Publication, 4096) // the stream's, once it is sent
			for i := range batch {
				sent++
				batch[i] = publication(uint64(sent), "a")
			}
			select {
			case r.in <- &gatewayv1.PublishRequest{Publications: batch}:
			case <-time.After(time.Second): // less than anything is given up after
				full = true
			}
		}
		all := r.broker.all()
		if len(all) != mostUnsettled {
			t.Errorf("%d messages are taken, want %d", len(all), mostUnsettled)
		}
		for _, p := range all {
			p.done(packet.Success)
		}
		// Results that nobody reads hold it up just as much.
		select {
		case r.in <- &gatewayv1.PublishRequest{Publications: []*gatewayv1.Publication{publication(1<<39, "a")}}:
			t.Error("the stream is read while its results are not")
		case <-time.After(time.Second):
		}
		for got := 0; got < len(all); {
			got += len(r.results())
		}
		r.publish(publication(1<<40, "a"))
	})
}

func TestReportedMessagesLeaveRoomForOthers(t *testing.T) {
	serve(t, 100, func(r *rig) {
		var batch []*gatewayv1.Publication
		for i := range mostUnsettled/2 + 1 {
			p := publication(uint64(i+1), "p2p/x/t")
			p.Report = &gatewayv1.Report{Wait: gatewayv1.Report_WAIT_ACKNOWLEDGED, WithinMs: 600_000, Summary: i == 1}
			batch = append(batch, p)
		}
		r.publish(batch...)
		r.want(fmt.Sprintf("%d:0x97", mostUnsettled/2+1))
		r.publish(publication(1<<40, "a"))
		all := r.broker.all()
		if got, want := all[0].terms, (broker.Terms{Wait: broker.UntilAcknowledged, Within: 10 * time.Minute}); !reflect.DeepEqual(got, want) {
			t.Errorf("terms %+v, want %+v", got, want)
		}
		all[len(all)-1].done(packet.Success)
		r.want(fmt.Sprintf("%d:0x0", 1<<40))

		report := broker.Report{Code: packet.Success, Unanswered: []string{"h"}, Receipts: []broker.Receipt{
			{ClientReceipt: mesh.ClientReceipt{ClientID: "x", Outcome: mesh.ClientAcked, Epoch: 7}, Holder: "g"},
			{ClientReceipt: mesh.ClientReceipt{ClientID: "y", Outcome: mesh.ClientAcked, Epoch: 8}, Holder: "h"},
		}}
		all[0].tell(report)
		got := r.results()[0]
		if x := got.GetReceipts(); len(x) != 2 || x[1].GetClientId() != "y" || x[1].GetOutcome() != gatewayv1.Outcome_OUTCOME_ACKED ||
			x[1].GetEpoch() != 8 || x[1].GetHolder() != "h" || len(got.GetUnanswered()) != 1 || len(got.GetCounts()) > 0 {
			t.Errorf("result %v", got)
		}
		all[1].tell(report)
		got = r.results()[0]
		if c := got.GetCounts(); len(c) != 1 || c[0].GetReceivers() != 2 || c[0].GetOutcome() != gatewayv1.Outcome_OUTCOME_ACKED || len(got.GetReceipts()) > 0 {
			t.Errorf("summary %v", got)
		}
		time.Sleep(time.Hour) // a report has a time of its own, which is the broker's
		r.none()
	})
}

func TestEveryOutcomeHasANameInTheContract(t *testing.T) {
	seen := make(map[gatewayv1.Outcome]mesh.ClientOutcome)
	for o := mesh.ClientQueued; o <= mesh.ClientUnknown; o++ {
		x := outcomeOf(o)
		if other, twice := seen[x]; twice {
			t.Errorf("%d and %d are both %v", o, other, x)
		}
		seen[x] = o
	}
	if len(seen) != len(gatewayv1.Outcome_name)-1 {
		t.Errorf("%d outcomes of %d", len(seen), len(gatewayv1.Outcome_name)-1)
	}
}

func TestManyReceiptsAreCounted(t *testing.T) {
	r := broker.Report{Receipts: make([]broker.Receipt, mostReceipts+1)}
	for i := range r.Receipts {
		r.Receipts[i].Outcome = mesh.ClientQueued
	}
	if x := resultOf(1, r, false); len(x.GetReceipts()) > 0 || x.GetCounts()[0].GetReceivers() != mostReceipts+1 {
		t.Errorf("%d receipts, counts %v", len(x.GetReceipts()), x.GetCounts())
	}
}

func TestAResultThatCannotBeSentEndsTheStream(t *testing.T) {
	s := &stream{grpc: broken{}}
	if err := s.send([]*gatewayv1.Result{{RequestId: 1}}); !errors.Is(err, errBroken) {
		t.Errorf("%v", err)
	}
}

var errBroken = errors.New("broken")

type broken struct{ Stream }

func (broken) Send(*gatewayv1.PublishResponse) error { return errBroken }
