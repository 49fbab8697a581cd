package beeline

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Pauses before a stream is opened again.
const (
	firstPause = 100 * time.Millisecond
	longPause  = 5 * time.Second
)

// passing reports whether a stream that ended with err is worth opening again.
func passing(err error) bool {
	return errors.Is(err, io.EOF) || status.Code(err) == codes.Unavailable
}

// pauses are the times between attempts to open a stream.
type pauses struct{ next time.Duration }

// succeeded has the pauses begin anew.
func (p *pauses) succeeded() { p.next = 0 }

// over reports whether the caller has had enough, which is no error.
func over(ctx context.Context) bool { return ctx.Err() != nil }

// wait waits the next time, or until ctx is over.
func (p *pauses) wait(ctx context.Context) {
	p.next = min(max(firstPause, 2*p.next), longPause)
	t := time.NewTimer(p.next/2 + rand.N(p.next)/2) // not all callers of a router that was lost at once
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
