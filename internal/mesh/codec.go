package mesh

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"

	"github.com/beeline-mqtt/beeline/internal/buffers"
)

const (
	// window is the HTTP/2 flow-control window of streams and connections. Giving it switches off grpc-go's own
	// estimate, which starts at 64 KiB and would make writes wait for the reader's turn.
	window = 16 << 20
	// maxFrame bounds a received gRPC message.
	maxFrame = 8 << 20
	// MaxMessageBytes bounds message.Size of what a link takes: an encoded message must fit into one frame.
	MaxMessageBytes = maxFrame - 256<<10

	ioBuffer = 128 << 10
)

// codec passes frames through as they are and leaves everything else to gRPC's codec for protobuf, whose name
// it shares.
type codec struct{}

func (codec) Name() string { return proto.Name }

// Marshal hands a frame's buffer over to gRPC, which frees it once it is written.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(*frame); ok {
		b := f.buf
		f.buf = nil
		return mem.BufferSlice{b}, nil
	}
	return encoding.GetCodecV2(proto.Name).Marshal(v)
}

// Unmarshal keeps a reference to what was received; frame.free gives it back.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	if f, ok := v.(*frame); ok {
		f.buf = data.MaterializeToBuffer(mem.DefaultBufferPool())
		return nil
	}
	return encoding.GetCodecV2(proto.Name).Unmarshal(data, v)
}

// ServerOptions are what a server that Register is called on needs: the codec, which serves other services as
// before, flow-control windows, and keep-alive that finds a dead peer within 40 s and tolerates DialOptions and those of package rpc.
// There is no maximum connection age: streams between peers live as long as the processes.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{}),
		grpc.InitialWindowSize(window),
		grpc.InitialConnWindowSize(window),
		grpc.ReadBufferSize(ioBuffer),
		grpc.WriteBufferSize(ioBuffer),
		grpc.MaxRecvMsgSize(maxFrame),
		grpc.MaxConcurrentStreams(256),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
}

// DialOptions are what Deps.Dial should pass to grpc.NewClient, beside the credentials.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithInitialWindowSize(window),
		grpc.WithInitialConnWindowSize(window),
		grpc.WithReadBufferSize(ioBuffer),
		grpc.WithWriteBufferSize(ioBuffer),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxFrame)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: 20 * time.Second, Timeout: 10 * time.Second, PermitWithoutStream: true,
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
	}
}

const (
	// minSlab is above the size from which gRPC recycles at all.
	minSlab = 4 << 10
	// maxSlab keeps the buffer of one large message from staying.
	maxSlab = 128 << 10
)

// slabs recycles the buffers that batches are encoded into: gRPC gives one back when it has been written.
type slabs struct{ *buffers.Pool }

var _ mem.BufferPool = slabs{}

func newSlabs() slabs { return slabs{buffers.New(minSlab, maxSlab)} }

// Get lends an empty buffer, which grows as it has to.
func (s slabs) Get(int) *[]byte { return s.Pool.Get() }
