package session

import (
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// writtenIDs are how many writes one frame answers at most.
const writtenIDs = 1000

// errNotStored: the gateway attaches again and repeats what was not answered.
var errNotStored = status.Error(codes.Unavailable, "cannot be stored at present")

// receive takes a frame that is not about leases.
func (st *stream) receive(r *sessionv1.AttachRequest) error {
	k := st.term.kept
	switch f := r.GetFrame().(type) {
	case *sessionv1.AttachRequest_Write:
		w, err := journal.WriteFromWire(f.Write, time.Now())
		if err != nil {
			return status.Errorf(codes.InvalidArgument, "write: %v", err)
		}
		k.Write(w, func(left []journal.LeftOut, err error) { st.written(f.Write.GetRequestId(), left, err) })
	case *sessionv1.AttachRequest_Settled:
		k.Settled(f.Settled.GetClientId(), f.Settled.GetEpoch())
	case *sessionv1.AttachRequest_Retain:
		m, err := journal.MessageFromWire(f.Retain.GetMessage(), time.Now())
		if err != nil {
			return status.Errorf(codes.InvalidArgument, "retain: %v", err)
		}
		k.Retain(m, func(version uint64, err error) { st.retained(f.Retain.GetRequestId(), version, err) })
	case *sessionv1.AttachRequest_Published:
		st.term.published(st, f.Published.GetRequestId(), f.Published.GetFailed())
	case *sessionv1.AttachRequest_MembersApplied:
		st.term.spread(st, f.MembersApplied)
	}
	return nil
}

// written answers a write. What one sync of the disk has made durable is answered together.
func (st *stream) written(id uint64, left []journal.LeftOut, err error) {
	to := &st.durable
	switch {
	case errors.Is(err, store.ErrFenced):
		to = &st.fenced
	case errors.Is(err, store.ErrInvalid):
		st.end(status.Errorf(codes.InvalidArgument, "write: %v", err))
		return
	case err != nil:
		st.end(errNotStored)
		return
	}
	st.mu.Lock()
	full := len(*to) >= st.term.session.outbox
	if !full {
		*to = append(*to, id)
		for _, l := range left {
			st.leftOut = append(st.leftOut, &sessionv1.LeftOut{
				RequestId: id, Position: uint64(l.Position), Duplicate: l.Duplicate,
			})
		}
	}
	st.mu.Unlock()
	if full {
		st.end(errCutOff)
		return
	}
	signal(st.filled)
}

// answers are the frames for writes that have been carried out. It needs mu.
func (st *stream) answers() []*sessionv1.AttachResponse {
	var frames []*sessionv1.AttachResponse
	for len(st.durable)+len(st.fenced) > 0 {
		// What was left out is named with the first ids, in the same frame or before them.
		w := &sessionv1.Written{LeftOut: st.leftOut}
		st.leftOut = nil
		w.RequestIds, st.durable = cut(st.durable)
		w.Fenced, st.fenced = cut(st.fenced)
		frames = append(frames, &sessionv1.AttachResponse{Frame: &sessionv1.AttachResponse_Written{Written: w}})
	}
	return frames
}

// cut takes off as many as one frame has. What is left is nil at the end, because the frame has the array.
func cut(ids []uint64) (first, rest []uint64) {
	if len(ids) <= writtenIDs {
		return ids, nil
	}
	return ids[:writtenIDs:writtenIDs], ids[writtenIDs:]
}

func (st *stream) retained(id, version uint64, err error) {
	// A full disk is a bound like that of the topics: the publisher is told, and everybody else's stream goes on.
	quota := errors.Is(err, store.ErrQuota) || errors.Is(err, store.ErrFull)
	if err != nil && !quota {
		st.end(errNotStored)
		return
	}
	st.push(&sessionv1.AttachResponse{Frame: &sessionv1.AttachResponse_Retained{
		Retained: &sessionv1.Retained{RequestId: id, Version: version, QuotaExceeded: quota},
	}})
}
