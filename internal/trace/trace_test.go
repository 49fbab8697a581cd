package trace_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	tracev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/trace/v1"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/trace"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func follow(t *testing.T, tap *trace.Tap, f trace.Filter) *trace.Follower {
	t.Helper()
	x, err := tap.Follow(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.Leave)
	return x
}

func msg(publisher, topic string) *message.Message {
	return &message.Message{ID: message.ID{Origin: "g", Seq: 7}, Publisher: publisher, Topic: topic}
}

func TestStepsOfWhatIsFollowedAreShown(t *testing.T) {
	for name, c := range map[string]struct {
		filter trace.Filter
		kind   trace.Kind
		m      *message.Message
		other  string
		want   bool
	}{
		"everything":                             {trace.Filter{}, trace.Received, msg("a", "t"), "", true},
		"of a publisher":                         {trace.Filter{Client: "a"}, trace.Forwarded, msg("a", "t"), "g2", true},
		"of another publisher":                   {trace.Filter{Client: "a"}, trace.Forwarded, msg("b", "t"), "g2", false},
		"delivered to the client":                {trace.Filter{Client: "a"}, trace.Delivered, msg("b", "t"), "a", true},
		"delivered to another client":            {trace.Filter{Client: "a"}, trace.Delivered, msg("b", "t"), "c", false},
		"dropped for the client":                 {trace.Filter{Client: "a"}, trace.Dropped, msg("b", "t"), "a", true},
		"forwarded to a process of that name":    {trace.Filter{Client: "a"}, trace.Forwarded, msg("b", "t"), "a", false},
		"addressed to the client":                {trace.Filter{Client: "a/1"}, trace.Arrived, msg("b", "p2p/a%2F1/x"), "g1", true},
		"addressed to another client":            {trace.Filter{Client: "a"}, trace.Arrived, msg("b", "p2p/c/x"), "g1", false},
		"a filter that matches":                  {trace.Filter{Topic: "x/+"}, trace.Received, msg("a", "x/1"), "", true},
		"a filter that does not":                 {trace.Filter{Topic: "x/+"}, trace.Received, msg("a", "y/1"), "", false},
		"a filter of direct addresses":           {trace.Filter{Topic: "p2p/+/x"}, trace.Received, msg("a", "p2p/b/x"), "", true},
		"a filter of other addresses":            {trace.Filter{Topic: "p2p/c/#"}, trace.Received, msg("a", "p2p/b/x"), "", false},
		"a wildcard does not reach addresses":    {trace.Filter{Topic: "#"}, trace.Received, msg("a", "p2p/b/x"), "", false},
		"a filter of a user":                     {trace.Filter{Topic: "user/+/x"}, trace.Received, msg("a", "user/b/x"), "", true},
		"a filter of another kind of address":    {trace.Filter{Topic: "p2p/+/x"}, trace.Received, msg("a", "user/b/x"), "", false},
		"a client id that begins with $":         {trace.Filter{Topic: "p2p/+/x"}, trace.Received, msg("a", "p2p/$b/x"), "", true},
		"client and filter":                      {trace.Filter{Client: "a", Topic: "x/#"}, trace.Received, msg("a", "x"), "", true},
		"the filter, of another client":          {trace.Filter{Client: "a", Topic: "x/#"}, trace.Received, msg("b", "x"), "", false},
		"the client, on a topic not asked for":   {trace.Filter{Client: "a", Topic: "x/#"}, trace.Received, msg("a", "y"), "", false},
		"an address that nobody could have made": {trace.Filter{Client: "a"}, trace.Received, msg("b", "p2p/%zz/x"), "", false},
	} {
		t.Run(name, func(t *testing.T) {
			tap := trace.New()
			f := follow(t, tap, c.filter)
			tap.Step(c.kind, c.m, c.other, "why")
			got := f.Take()
			if len(got) == 0 && !c.want {
				return
			}
			if len(got) != 1 || !c.want {
				t.Fatalf("steps %+v, wanted: %v", got, c.want)
			}
			s := got[0]
			if s.Kind != c.kind || s.ID != c.m.ID || s.Topic != c.m.Topic || s.Publisher != c.m.Publisher ||
				s.Other != c.other || s.Detail != "why" || s.Time.IsZero() {
				t.Errorf("step %+v of %+v", s, c.m)
			}
		})
	}
}

func TestATapIsOnWhileSomebodyFollows(t *testing.T) {
	var none *trace.Tap
	none.Step(trace.Received, msg("a", "t"), "", "")
	tap := trace.New()
	if none.On() || tap.On() {
		t.Error("it is on although nobody follows")
	}
	one, two := follow(t, tap, trace.Filter{}), follow(t, tap, trace.Filter{})
	one.Leave()
	if !tap.On() {
		t.Error("it is off although somebody follows")
	}
	two.Leave()
	two.Leave()
	if tap.On() {
		t.Error("it is on although nobody follows any more")
	}
}

func TestAFollowerThatIsTooSlowIsToldHowManyStepsItHasMissed(t *testing.T) {
	tap := trace.New()
	f := follow(t, tap, trace.Filter{})
	const bound, over = 4096, 10
	for range bound + over {
		tap.Step(trace.Received, msg("a", "t"), "", "")
	}
	if n := len(f.Take()); n != bound {
		t.Errorf("%d steps waited, want %d", n, bound)
	}
	tap.Step(trace.Received, msg("a", "t"), "", "")
	tap.Step(trace.Received, msg("a", "t"), "", "")
	if got := f.Take(); len(got) != 2 || got[0].LeftOut != over || got[1].LeftOut != 0 {
		t.Errorf("steps %+v, want two, %d left out before the first", got, over)
	}
	long := msg("a", strings.Repeat("x", 60_000))
	for range bound {
		tap.Step(trace.Received, long, "", "")
	}
	if n := len(f.Take()); n > 100 {
		t.Errorf("%d steps of long topics waited", n)
	}
}

func TestNotAnyNumberFollow(t *testing.T) {
	tap := trace.New()
	for range 16 {
		follow(t, tap, trace.Filter{})
	}
	if _, err := tap.Follow(trace.Filter{}); !errors.Is(err, trace.ErrTooMany) {
		t.Errorf("one more: %v, want ErrTooMany", err)
	}
}

func TestAClosedTapEndsAllFollowing(t *testing.T) {
	tap := trace.New()
	f := follow(t, tap, trace.Filter{})
	tap.Close()
	tap.Close()
	<-f.Over()
	if _, err := tap.Follow(trace.Filter{}); !errors.Is(err, trace.ErrClosed) {
		t.Errorf("following a closed tap: %v, want ErrClosed", err)
	}
	if tap.On() {
		t.Error("it is on")
	}
}

// serve has a tap served until the test ends.
func serve(t *testing.T, tap *trace.Tap) tracev1.TraceServiceClient {
	t.Helper()
	s := grpc.NewServer()
	trace.Register(s, tap)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { defer close(served); _ = s.Serve(l) }()
	c, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(); s.Stop(); <-served })
	return tracev1.NewTraceServiceClient(c)
}

func TestAStreamBringsStepsInTheirOrder(t *testing.T) {
	tap := trace.New()
	tap.Lives("g1")
	stream, err := serve(t, tap).Follow(t.Context(), &tracev1.FollowRequest{Filter: "x/#"})
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil || first.GetIncarnation() != "g1" || len(first.GetSteps()) > 0 {
		t.Fatalf("first frame %v, %v, want one of g1 without steps", first, err)
	}
	const many = 1000
	for i := range many {
		tap.Step(trace.Answered, msg("a", fmt.Sprintf("x/%d", i)), "", "success")
	}
	for i := 0; i < many; {
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range r.GetSteps() {
			if want := fmt.Sprintf("x/%d", i); s.GetTopic() != want || s.GetStep() != adminv1.TraceStep_TRACE_STEP_ANSWERED {
				t.Fatalf("step %v, want ANSWERED of %s", s, want)
			}
			i++
		}
	}
	tap.Close()
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("after the end: %v, want UNAVAILABLE", err)
	}
}

func TestEachStepHasItsNameInTheContract(t *testing.T) {
	for kind, want := range map[trace.Kind]adminv1.TraceStep{
		trace.Received: adminv1.TraceStep_TRACE_STEP_RECEIVED, trace.Forwarded: adminv1.TraceStep_TRACE_STEP_FORWARDED,
		trace.Arrived: adminv1.TraceStep_TRACE_STEP_ARRIVED, trace.Delivered: adminv1.TraceStep_TRACE_STEP_DELIVERED,
		trace.Receipt: adminv1.TraceStep_TRACE_STEP_RECEIPT, trace.Answered: adminv1.TraceStep_TRACE_STEP_ANSWERED,
		trace.Dropped: adminv1.TraceStep_TRACE_STEP_DROPPED,
	} {
		if adminv1.TraceStep(kind) != want {
			t.Errorf("%d is %v, want %v", kind, adminv1.TraceStep(kind), want)
		}
	}
}

func TestAStreamThatAsksForNothingOrTooManyIsRefused(t *testing.T) {
	tap := trace.New()
	c := serve(t, tap)
	code := func(r *tracev1.FollowRequest) codes.Code {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stream, err := c.Follow(ctx, r)
		if err == nil {
			_, err = stream.Recv()
		}
		return status.Code(err)
	}
	if got := code(&tracev1.FollowRequest{}); got != codes.InvalidArgument {
		t.Errorf("nothing asked for: %v, want INVALID_ARGUMENT", got)
	}
	for range 16 {
		follow(t, tap, trace.Filter{Client: "a"})
	}
	if got := code(&tracev1.FollowRequest{ClientId: "a"}); got != codes.ResourceExhausted {
		t.Errorf("one too many: %v, want RESOURCE_EXHAUSTED", got)
	}
	tap.Close()
	if got := code(&tracev1.FollowRequest{ClientId: "a"}); got != codes.Unavailable {
		t.Errorf("while stopping: %v, want UNAVAILABLE", got)
	}
}

func BenchmarkNobodyFollows(b *testing.B) {
	tap := trace.New()
	m := msg("a", "t")
	for b.Loop() {
		if tap.On() {
			tap.Step(trace.Received, m, "", "")
		}
	}
}
