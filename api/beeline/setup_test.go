package beeline

import (
	"context"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

// Streams as the fake sees them.
type (
	publishServer   = grpc.BidiStreamingServer[messagingv1.PublishStreamRequest, messagingv1.PublishStreamResponse]
	subscribeServer = grpc.BidiStreamingServer[messagingv1.SubscribeRequest, messagingv1.SubscribeResponse]
	presenceServer  = grpc.ServerStreamingServer[messagingv1.WatchPresenceResponse]
)

// fake is a router whose streams are scripts: the first one is served by the first function, and so on.
type fake struct {
	messagingv1.UnimplementedMessagingServiceServer

	publish   chan func(publishServer) error
	subscribe chan func(subscribeServer) error
	presence  chan func(*messagingv1.WatchPresenceRequest, presenceServer) error

	unary func(request any) (any, error)
}

func (f *fake) PublishStream(s publishServer) error { return (<-f.publish)(s) }

func (f *fake) Subscribe(s subscribeServer) error { return (<-f.subscribe)(s) }

func (f *fake) WatchPresence(r *messagingv1.WatchPresenceRequest, s presenceServer) error {
	return (<-f.presence)(r, s)
}

func (f *fake) Publish(_ context.Context, r *messagingv1.PublishRequest) (*messagingv1.PublishResponse, error) {
	return answer[messagingv1.PublishResponse](f, r)
}

func (f *fake) Send(_ context.Context, r *messagingv1.SendRequest) (*messagingv1.SendResponse, error) {
	return answer[messagingv1.SendResponse](f, r)
}

func (f *fake) Command(_ context.Context, r *messagingv1.CommandRequest) (*messagingv1.CommandResponse, error) {
	return answer[messagingv1.CommandResponse](f, r)
}

func answer[T any](f *fake, request any) (*T, error) {
	a, err := f.unary(request)
	if err != nil {
		return nil, err
	}
	return a.(*T), nil
}

// start serves a fake until the test, which is in a bubble, ends. Whatever goroutine is left then fails it.
func start(t *testing.T) (*fake, *Client) {
	t.Helper()
	f := &fake{
		publish: make(chan func(publishServer) error, 10), subscribe: make(chan func(subscribeServer) error, 10),
		presence: make(chan func(*messagingv1.WatchPresenceRequest, presenceServer) error, 10),
	}
	l := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	messagingv1.RegisterMessagingServiceServer(server, f)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///fake", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return f, New(conn)
}
