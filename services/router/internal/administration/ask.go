package administration

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/beeline-mqtt/beeline/internal/cluster"
)

// process is one that is asked. conn is nil, and err says why, if it cannot be.
type process struct {
	member  cluster.Member
	session bool
	conn    grpc.ClientConnInterface
	err     error
}

// name is the process for people.
func (p process) name() string {
	switch {
	case !p.session:
		return "gateway " + p.member.ID
	case p.member.ID == "":
		return "session service"
	}
	return "session service " + p.member.ID
}

// gateways are those that there are.
func (s *Service) gateways() (all []process) {
	for _, m := range s.deps.Fleet.Gateways() {
		g, err := s.deps.Fleet.Gateway(m.ID)
		all = append(all, process{member: m, conn: g.Conn, err: err})
	}
	return all
}

// active is the session service.
func (s *Service) active() process {
	m, c, err := s.deps.Fleet.Session()
	return process{member: m, session: true, conn: c, err: err}
}

// answer is that of one process.
type answer[T any] struct {
	from process
	got  T
	err  error
}

// ask asks all processes at once and returns their answers in the same order, when all have answered or their time is over.
func ask[T any](ctx context.Context, s *Service, all []process, f func(context.Context, process) (T, error)) []answer[T] {
	ctx, cancel := context.WithTimeout(ctx, s.answerTimeout)
	defer cancel()
	answers := make([]answer[T], len(all))
	var wg sync.WaitGroup
	for i, p := range all {
		answers[i] = answer[T]{from: p, err: p.err}
		if p.err == nil {
			wg.Go(func() { answers[i].got, answers[i].err = f(ctx, p) })
		}
	}
	wg.Wait()
	return answers
}

// troubles names those that did not answer.
func troubles[T any](answers []answer[T]) (all []string) {
	for _, a := range answers {
		if a.err != nil {
			all = append(all, fmt.Sprintf("%s: %s", a.from.name(), explained(a.err)))
		}
	}
	return all
}

// explained is why a process did not answer.
func explained(err error) string {
	s, ok := status.FromError(err)
	switch {
	case !ok:
		return err.Error()
	case s.Code() == codes.DeadlineExceeded:
		return "no answer in time"
	}
	return s.Message()
}

// refused is the error that any of the answers gives for the request itself, because the others would say the same.
func refused[T any](answers []answer[T]) error {
	for _, a := range answers {
		if status.Code(a.err) == codes.InvalidArgument {
			return passed(a.err)
		}
	}
	return nil
}

// none is the error when nobody has answered; nil when somebody has, or nobody was asked.
func none[T any](answers []answer[T]) error {
	for _, a := range answers {
		if a.err == nil {
			return nil
		}
	}
	if len(answers) == 0 {
		return nil
	}
	return status.Errorf(codes.Unavailable, "nobody answers: %v", troubles(answers))
}
