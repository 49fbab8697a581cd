package gate

import (
	"context"
	"errors"
	"time"

	"buf.build/go/protovalidate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/beeline-mqtt/beeline/services/router/internal/access"
)

// Reasons in the ErrorInfo of what is refused; metrics have them, too.
const (
	noIdentity    = "NO_IDENTITY"
	tokenInvalid  = "TOKEN_INVALID"
	tokenExpired  = "TOKEN_EXPIRED"
	keysMissing   = "KEYS_MISSING"
	roleTooLow    = "ROLE_TOO_LOW"
	outsideLimits = "OUTSIDE_LIMITS"
	rateExceeded  = "RATE_EXCEEDED"
	invalid       = "INVALID_REQUEST"
)

// domain tells our reasons from those of others.
const domain = "beeline"

// refusal is an error that ends as a gRPC status.
type refusal struct {
	reason string
	status *status.Status
}

// Error implements error.
func (r *refusal) Error() string { return r.status.Message() }

// GRPCStatus has gRPC and others find the status.
func (r *refusal) GRPCStatus() *status.Status { return r.status }

func refused(code codes.Code, reason, text string, about map[string]string, more ...protoadapt.MessageV1) error {
	s := status.New(code, text)
	details := append([]protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: reason, Domain: domain, Metadata: about}}, more...)
	if with, err := s.WithDetails(details...); err == nil {
		s = with
	}
	return &refusal{reason, s}
}

func unauthenticated(reason, text string) error {
	return refused(codes.Unauthenticated, reason, text, nil)
}

func unavailable() error {
	return refused(codes.Unavailable, keysMissing, "tokens cannot be checked now: their keys could not be fetched yet", nil)
}

func roleMissing(has, least access.Role) error {
	return refused(codes.PermissionDenied, roleTooLow, "the caller is "+has.String()+", and this needs "+least.String(),
		map[string]string{"role": has.String(), "needs": least.String()})
}

func outside(e *access.OutsideError) error {
	return refused(codes.PermissionDenied, outsideLimits, e.Error(), map[string]string{"field": e.Field})
}

func tooFast(unit string, again time.Duration) error {
	return refused(codes.ResourceExhausted, rateExceeded, "too many "+unit+" a second", map[string]string{"unit": unit},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(again)})
}

// violated makes a status of what protovalidate found, or of what kept it from looking.
func violated(err error) error {
	var found *protovalidate.ValidationError
	if !errors.As(err, &found) {
		return refused(codes.Internal, invalid, "the request could not be checked", nil)
	}
	bad := &errdetails.BadRequest{}
	for _, v := range found.Violations {
		bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{
			Field: protovalidate.FieldPathString(v.Proto.GetField()), Description: v.Proto.GetMessage(), Reason: v.Proto.GetRuleId(),
		})
	}
	text := "the request is not valid"
	if len(found.Violations) > 0 {
		text = found.Violations[0].String()
	}
	return refused(codes.InvalidArgument, invalid, text, nil, bad)
}

// refuse counts.
func (g *Gate) refuse(err error) error {
	var r *refusal
	if errors.As(err, &r) {
		g.refused.WithLabelValues(r.reason).Inc()
	}
	return err
}

// outcome is the code of an error.
func outcome(err error) string { return status.Code(err).String() }

func from(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		return p.Addr.String()
	}
	return ""
}
