package rpc

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Guard decides about the calls of a public server, health and reflection included. It is called inside of metrics and the
// log, and calls the handler, which cannot panic any more.
type Guard interface {
	// Unary is a grpc.UnaryServerInterceptor.
	Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error)
	// Stream is a grpc.StreamServerInterceptor.
	Stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error
}

// Guard has g decide about the calls of a public server, before the part runs. A public server without a guard refuses
// every call; one that is not public asks no guard.
func (s *Server) Guard(g Guard) {
	if s.guard != nil {
		s.guard.of = g
	}
}

// guard asks the Guard that the server gets after it is made. A nil one is that of a server that is not public.
type guard struct{ of Guard }

func (g *guard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	switch {
	case g == nil:
		return handler(ctx, req)
	case g.of == nil:
		return nil, unguarded()
	}
	return g.of.Unary(ctx, req, info, handler)
}

func (g *guard) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	switch {
	case g == nil:
		return handler(srv, stream)
	case g.of == nil:
		return unguarded()
	}
	return g.of.Stream(srv, stream, info, handler)
}

func unguarded() error { return status.Error(codes.Unauthenticated, "nobody is let in") }
