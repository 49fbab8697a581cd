package main

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// adviceError is an error of a router, with what can be done about it.
type adviceError struct {
	err  error
	code codes.Code
	// more are lines: what exactly is wrong, and what to do.
	more []string
}

// Error implements error. Of the status it leaves the message and the code.
func (e *adviceError) Error() string {
	text := regexp.MustCompile(`rpc error: code = \w+ desc = `).ReplaceAllString(e.err.Error(), "")
	return strings.Join(append([]string{fmt.Sprintf("%s (%s)", text, e.code)}, e.more...), "\n  ")
}

func (e *adviceError) Unwrap() error { return e.err }

// advised adds to an error of a router what can be done about it. Any other error stays as it is.
func advised(err error) error {
	var of interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &of) {
		return err
	}
	s := of.GRPCStatus()
	e := &adviceError{err: err, code: s.Code()}
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				e.more = append(e.more, v.GetField()+": "+v.GetDescription())
			}
		case *errdetails.ErrorInfo:
			if needs := d.GetMetadata()["needs"]; needs != "" {
				e.more = append(e.more, fmt.Sprintf("it needs the role %s, and yours is %s", needs, d.GetMetadata()["role"]))
			}
		case *errdetails.RetryInfo:
			e.more = append(e.more, fmt.Sprintf("try again in %v", d.GetRetryDelay().AsDuration()))
		}
	}
	if a := advice(s.Code()); a != "" {
		e.more = append(e.more, a)
	}
	return e
}

// advice is what can be done about an error of a kind, empty if its message says that.
func advice(c codes.Code) string {
	switch c {
	case codes.Unauthenticated:
		return "the router does not know you: give --token-file, or --cert-file and --key-file; beeline token and beeline certs make them"
	case codes.PermissionDenied:
		return "your role or its limits leave this out: whoever runs the router gives others, with beeline token or beeline certs"
	case codes.Unavailable:
		return "is the router up, is --router its gRPC address, is --ca-file its authority (--insecure: no TLS)? Does beeline gateways list an active one?"
	case codes.DeadlineExceeded:
		return "what was asked may have happened all the same: a longer --timeout waits longer"
	case codes.Unimplemented:
		return "the router does not know this: it is older than this command"
	case codes.Internal, codes.Unknown, codes.DataLoss:
		return "the router's log says more"
	}
	return ""
}
