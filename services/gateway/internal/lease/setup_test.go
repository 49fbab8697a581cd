package lease

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/cluster/clustertest"
	"github.com/beeline-mqtt/beeline/internal/journal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

// service is a session instance that does what the test says.
type service struct {
	sessionv1.UnimplementedSessionServiceServer
	t testing.TB
	// attached has the streams whose Hello has come.
	attached chan *peer
	// mute: no stream is welcomed; ignored counts those that were not.
	mute    atomic.Bool
	ignored atomic.Int64
	// What is asked outside of streams; nil: unimplemented.
	inbox    func(*sessionv1.ReadInboxRequest) (*sessionv1.ReadInboxResponse, error)
	retained func(*sessionv1.ReadRetainedRequest) (*sessionv1.ReadRetainedResponse, error)
}

func (s *service) ReadInbox(_ context.Context, r *sessionv1.ReadInboxRequest) (*sessionv1.ReadInboxResponse, error) {
	return s.inbox(r)
}

func (s *service) ReadRetained(_ context.Context, r *sessionv1.ReadRetainedRequest) (*sessionv1.ReadRetainedResponse, error) {
	return s.retained(r)
}

// peer is the session instance's end of one stream.
type peer struct {
	t     testing.TB
	hello string
	rpc   grpc.BidiStreamingServer[sessionv1.AttachRequest, sessionv1.AttachResponse]
	in    chan *sessionv1.AttachRequest
	out   chan error
	once  sync.Once
}

func (s *service) Attach(rpc grpc.BidiStreamingServer[sessionv1.AttachRequest, sessionv1.AttachResponse]) error {
	first, err := rpc.Recv()
	if err != nil {
		return err
	}
	if s.mute.Load() {
		s.ignored.Add(1)
		<-rpc.Context().Done()
		return nil
	}
	p := &peer{
		t: s.t, hello: first.GetHello().GetIncarnation(), rpc: rpc,
		in: make(chan *sessionv1.AttachRequest, 100_000), out: make(chan error, 1),
	}
	p.send(&sessionv1.AttachResponse{Frame: &sessionv1.AttachResponse_Welcome{Welcome: &sessionv1.Welcome{Incarnation: "S"}}})
	s.attached <- p
	go func() {
		defer close(p.in)
		for {
			r, err := rpc.Recv()
			if err != nil {
				return
			}
			p.in <- r
		}
	}()
	select {
	case err := <-p.out:
		return err
	case <-rpc.Context().Done():
		return nil
	}
}

// cut ends the stream.
func (p *peer) cut() { p.once.Do(func() { p.out <- fmt.Errorf("cut") }) }

func (p *peer) send(r *sessionv1.AttachResponse) { _ = p.rpc.Send(r) }

func (p *peer) next() *sessionv1.AttachRequest {
	p.t.Helper()
	select {
	case r, ok := <-p.in:
		if !ok {
			p.t.Fatal("the stream has ended")
		}
		return r
	case <-time.After(patience):
		p.t.Fatal("nothing comes")
	}
	return nil
}

// holdings reads all frames up to the last one.
func (p *peer) holdings() (held map[string]uint64, frames int) {
	p.t.Helper()
	held = map[string]uint64{}
	for {
		h := p.next().GetHoldings()
		if h == nil {
			p.t.Fatal("something comes before all holdings")
		}
		frames++
		if len(h.GetHoldings()) > 1000 {
			p.t.Errorf("%d holdings in a frame", len(h.GetHoldings()))
		}
		for _, one := range h.GetHoldings() {
			held[one.GetClientId()] = one.GetEpoch()
		}
		if h.GetLast() {
			return held, frames
		}
	}
}

func (p *peer) wantClaim(client string) uint64 {
	p.t.Helper()
	r := p.next()
	if r.GetClaim().GetClientId() != client {
		p.t.Fatalf("got %v, want a claim of %s", r, client)
	}
	return r.GetClaim().GetRequestId()
}

func (p *peer) wantRelease(client string, epoch uint64) uint64 {
	p.t.Helper()
	r := p.next()
	if r.GetRelease().GetClientId() != client || r.GetRelease().GetEpoch() != epoch {
		p.t.Fatalf("got %v, want a release of %s at %d", r, client, epoch)
	}
	return r.GetRelease().GetRequestId()
}

// wantNothing makes the keeper send something, and sees whether something else comes first.
func (p *peer) wantNothing(k *Keeper) {
	p.t.Helper()
	k.Release("mark", 1, Ending{})
	p.released(p.wantRelease("mark", 1))
}

func (p *peer) grant(id, epoch uint64) {
	p.send(&sessionv1.AttachResponse{Frame: &sessionv1.AttachResponse_Claimed{
		Claimed: &sessionv1.Claimed{RequestId: id, Epoch: epoch},
	}})
}

func (p *peer) refuse(id uint64, why sessionv1.Refusal) {
	p.send(&sessionv1.AttachResponse{Frame: &sessionv1.AttachResponse_Refused{
		Refused: &sessionv1.Refused{RequestId: id, Reason: why},
	}})
}

func (p *peer) released(id uint64) {
	p.send(&sessionv1.AttachResponse{Frame: &sessionv1.AttachResponse_Released{
		Released: &sessionv1.Released{RequestId: id},
	}})
}

func (p *peer) evict(client string, epoch uint64) {
	p.send(&sessionv1.AttachResponse{Frame: &sessionv1.AttachResponse_Evict{
		Evict: &sessionv1.Evict{ClientId: client, Epoch: epoch},
	}})
}

// wantWrite takes the next frame for a write of the client's.
func (p *peer) wantWrite(client string) *sessionv1.Write {
	p.t.Helper()
	r := p.next()
	if r.GetWrite().GetClientId() != client {
		p.t.Fatalf("got %v, want a write of %s", r, client)
	}
	return r.GetWrite()
}

func (p *peer) wantRetain(topic string) uint64 {
	p.t.Helper()
	r := p.next()
	if r.GetRetain().GetMessage().GetTopic() != topic {
		p.t.Fatalf("got %v, want a retained message of %s", r, topic)
	}
	return r.GetRetain().GetRequestId()
}

func (p *peer) wantSettled(client string, epoch uint64) {
	p.t.Helper()
	if r := p.next(); r.GetSettled().GetClientId() != client || r.GetSettled().GetEpoch() != epoch {
		p.t.Fatalf("got %v, want %s settled at %d", r, client, epoch)
	}
}

func (p *peer) written(ids ...uint64) {
	p.send(&sessionv1.AttachResponse{Frame: &sessionv1.AttachResponse_Written{Written: &sessionv1.Written{RequestIds: ids}}})
}

func (p *peer) fenced(ids ...uint64) {
	p.send(&sessionv1.AttachResponse{Frame: &sessionv1.AttachResponse_Written{Written: &sessionv1.Written{Fenced: ids}}})
}

func (p *peer) retained(id, version uint64, quota bool) {
	p.send(&sessionv1.AttachResponse{Frame: &sessionv1.AttachResponse_Retained{
		Retained: &sessionv1.Retained{RequestId: id, Version: version, QuotaExceeded: quota},
	}})
}

func (p *peer) publish(id uint64, m *messagev1.Message) {
	p.send(&sessionv1.AttachResponse{Frame: &sessionv1.AttachResponse_Publish{
		Publish: &sessionv1.Publish{RequestId: id, Message: m},
	}})
}

// stage is a keeper and the session service that it finds in etcd.
type stage struct {
	t       testing.TB
	deps    cluster.Deps
	service *service
	keeper  *Keeper
	metrics *prometheus.Registry
	stop    func()

	mu      sync.Mutex
	held    map[string]uint64
	evicted []func()
	evicts  chan string
}

func newStage(t testing.TB, change func(*Config)) *stage {
	t.Helper()
	etcd := clustertest.StartEtcd(t).Client()
	s := &stage{
		t: t, held: map[string]uint64{}, evicts: make(chan string, 100), metrics: prometheus.NewRegistry(),
		deps: cluster.Deps{Client: etcd, Keys: "test", Logger: slog.New(slog.DiscardHandler)},
	}
	sessions := cluster.NewSessions(s.deps, func(address string) (*grpc.ClientConn, error) {
		return grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	})
	c := Config{Incarnation: "G", OnEvict: s.onEvict, Holdings: s.holdings, Linger: time.Millisecond}
	if change != nil {
		change(&c)
	}
	s.keeper = New(c, Deps{Sessions: sessions, Logger: s.deps.Logger, Metrics: s.metrics})
	ctx, cancel := context.WithCancel(context.Background())
	outer, cancelOuter := context.WithCancel(context.Background())
	var wg, outerWg sync.WaitGroup
	outerWg.Go(func() { _ = sessions.Run(outer) })
	wg.Go(func() { _ = s.keeper.Run(ctx) })
	s.stop = func() {
		cancel()
		wg.Wait()
		cancelOuter()
		outerWg.Wait()
	}
	t.Cleanup(s.stop)
	return s
}

// become makes a new instance the active one, in place of an older one if there is any.
func (s *stage) become() *service {
	s.t.Helper()
	return s.becomeWith(&service{t: s.t, attached: make(chan *peer, 10)})
}

func (s *stage) becomeWith(v *service) *service {
	s.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	server := grpc.NewServer()
	sessionv1.RegisterSessionServiceServer(server, v)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	s.t.Cleanup(func() { server.Stop(); <-done })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	inc, err := cluster.Join(ctx, s.deps, cluster.IncarnationConfig{
		Kind: cluster.Session, Member: cluster.Member{Address: l.Addr().String()}, TTL: time.Minute,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.deps.Client.Put(ctx, s.deps.Keys.Active(), inc.ID()); err != nil {
		s.t.Fatal(err)
	}
	s.service = v
	return v
}

// attach waits for the keeper's next stream and reads its holdings.
func (s *stage) attach() *peer {
	s.t.Helper()
	select {
	case p := <-s.service.attached:
		p.holdings()
		return p
	case <-time.After(patience):
		s.t.Fatal("the keeper does not attach")
		return nil
	}
}

func (s *stage) holdings() iter.Seq2[string, Held] {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]Held, len(s.held))
	for id, epoch := range s.held {
		all[id] = Held{Epoch: epoch, Settled: strings.HasPrefix(id, "settled")}
	}
	return maps.All(all)
}

func (s *stage) onEvict(client string, epoch uint64, done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.evicts <- fmt.Sprintf("%s before %d, held at %d", client, epoch, s.held[client])
	delete(s.held, client)
	s.evicted = append(s.evicted, done)
}

// outcome of a claim that runs beside the test.
type outcome struct {
	epoch uint64
	err   error
}

func (s *stage) claim(ctx context.Context, client string) <-chan outcome {
	result := make(chan outcome, 1)
	go func() {
		var o outcome
		o.err = s.keeper.Claim(ctx, Request{ClientID: client}, func(g Grant) {
			s.mu.Lock()
			defer s.mu.Unlock()
			o.epoch = g.Epoch
			s.held[client] = g.Epoch
		})
		result <- o
	}()
	return result
}

func (s *stage) want(c <-chan outcome) outcome {
	s.t.Helper()
	select {
	case o := <-c:
		return o
	case <-time.After(patience):
		s.t.Fatal("the claim does not end")
		return outcome{}
	}
}

// cutOff ends the stream and waits until the keeper has seen it.
func (s *stage) cutOff(p *peer) {
	s.t.Helper()
	p.cut()
	clustertest.Wait(s.t, "the stream is gone", func() bool { return !s.keeper.Available() })
}

// answers are what done was called with. It has room for more than one, so that it can be seen if there is.
type answers chan error

// write has a session of the client's write that one entry is done with.
func (s *stage) write(client string, at journal.Position) answers {
	return s.writeAll(client, journal.Change{Kind: journal.Done, Position: at})
}

func (s *stage) writeAll(client string, changes ...journal.Change) answers {
	a := make(answers, 2)
	s.keeper.Write(journal.Write{Client: client, Session: 1, Epoch: 5, Changes: changes}, func(_ []journal.LeftOut, err error) { a <- err })
	return a
}

// wantAnswer wants that to be the only answer.
func (s *stage) wantAnswer(a answers, want error) {
	s.t.Helper()
	select {
	case got := <-a:
		if !errors.Is(got, want) {
			s.t.Errorf("answered %v, want %v", got, want)
		}
	case <-time.After(patience):
		s.t.Fatal("no answer")
	}
	s.wantNone(a)
}

func (s *stage) wantNone(a answers) {
	s.t.Helper()
	select {
	case got := <-a:
		s.t.Errorf("answered %v", got)
	default:
	}
}

func (s *stage) metric(name string) float64 {
	s.t.Helper()
	families, err := s.metrics.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}
