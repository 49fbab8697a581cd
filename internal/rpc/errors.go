package rpc

import (
	"errors"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Reason is why a call was refused, as a word that both ends know.
type Reason string

// The reasons, each with the code that it travels under.
const (
	// NotActive: this instance is not the one that decides; ask etcd which is. FAILED_PRECONDITION.
	NotActive Reason = "NOT_ACTIVE"
	// NotAlive: the caller's incarnation has ended; it must begin a new one. FAILED_PRECONDITION.
	NotAlive Reason = "NOT_ALIVE"
	// Fenced: the caller does not hold the session at that epoch any more. FAILED_PRECONDITION.
	Fenced Reason = "FENCED"
	// Held: a gateway holds the session; ask it. FAILED_PRECONDITION.
	Held Reason = "HELD"
	// Stopping: this process is about to end; try another, or again. UNAVAILABLE.
	Stopping Reason = "STOPPING"
)

// domain tells our reasons from those of others (google.rpc.ErrorInfo).
const domain = "beeline"

func (r Reason) code() codes.Code {
	switch r {
	case NotActive, NotAlive, Fenced, Held:
		return codes.FailedPrecondition
	case Stopping:
		return codes.Unavailable
	default:
		return codes.Unknown
	}
}

// Refuse returns the error with which a handler refuses a call. The peer gets the reason and detail.
func Refuse(r Reason, detail string) error {
	s, err := status.New(r.code(), detail).WithDetails(&errdetails.ErrorInfo{Reason: string(r), Domain: domain})
	if err != nil {
		return status.Error(codes.Internal, "internal error")
	}
	return s.Err()
}

// ReasonOf returns why a call was refused; empty when err does not say, as when the network failed.
func ReasonOf(err error) Reason {
	var carrier interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &carrier) {
		return ""
	}
	for _, detail := range carrier.GRPCStatus().Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == domain {
			return Reason(info.GetReason())
		}
	}
	return ""
}
