package mesh

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	meshv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/mesh/v1"
)

// protocolVersion is the version of beeline.mesh.v1 that is spoken here.
const protocolVersion = 1

// errProtocol is wrapped by every error about a frame that is well formed and not allowed.
var errProtocol = errors.New("protocol error")

// frame is one ConnectRequest or ConnectResponse, encoded. It is what the codec passes to and from gRPC.
type frame struct {
	buf mem.Buffer
}

// bytes returns what was received; it is void after free.
func (f *frame) bytes() []byte { return f.buf.ReadOnlyData() }

func (f *frame) free() {
	if f.buf != nil {
		f.buf.Free()
		f.buf = nil
	}
}

// only returns the one field that an encoder writes into a ConnectRequest or ConnectResponse.
func only(b []byte) (protowire.Number, []byte, error) {
	c := cursor{b: b}
	num, typ, _ := c.more()
	body := c.bytes(typ)
	if c.bad || len(c.b) > 0 || num == 0 {
		return 0, nil, fmt.Errorf("%w: not one field", errMalformed)
	}
	return num, body, nil
}

// encodeCold encodes a frame that is not worth encoding by hand.
func encodeCold(m proto.Message) (*frame, error) {
	b, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode frame: %w", err)
	}
	return &frame{buf: mem.SliceBuffer(b)}, nil
}

func decodeRequest(b []byte) (*meshv1.ConnectRequest, error) {
	m := &meshv1.ConnectRequest{}
	if err := proto.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("%w: %w", errMalformed, err)
	}
	return m, nil
}

func decodeResponse(b []byte) (*meshv1.ConnectResponse, error) {
	m := &meshv1.ConnectResponse{}
	if err := proto.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("%w: %w", errMalformed, err)
	}
	return m, nil
}

func helloFrame(h *meshv1.Hello) *meshv1.ConnectRequest {
	return &meshv1.ConnectRequest{Frame: &meshv1.ConnectRequest_Hello{Hello: h}}
}

func routesFrame(u *meshv1.RouteUpdate) *meshv1.ConnectRequest {
	return &meshv1.ConnectRequest{Frame: &meshv1.ConnectRequest_RouteUpdate{RouteUpdate: u}}
}

func digestFrame(d *meshv1.RouteDigest) *meshv1.ConnectRequest {
	return &meshv1.ConnectRequest{Frame: &meshv1.ConnectRequest_RouteDigest{RouteDigest: d}}
}

func adoptedFrame(incarnation string) *meshv1.ConnectRequest {
	return &meshv1.ConnectRequest{Frame: &meshv1.ConnectRequest_Adopted{Adopted: &meshv1.Adopted{Incarnation: incarnation}}}
}

func sendOnFrame(number uint64, client string) *meshv1.ConnectRequest {
	return &meshv1.ConnectRequest{Frame: &meshv1.ConnectRequest_SendOn{SendOn: &meshv1.SendOn{Number: number, ClientId: client}}}
}

func echoFrame() *meshv1.ConnectRequest {
	return &meshv1.ConnectRequest{Frame: &meshv1.ConnectRequest_Echo{Echo: &meshv1.Echo{}}}
}

func senderGoodbye() *meshv1.ConnectRequest {
	return &meshv1.ConnectRequest{Frame: &meshv1.ConnectRequest_Goodbye{Goodbye: &meshv1.Goodbye{}}}
}

func welcomeFrame(w *meshv1.Welcome) *meshv1.ConnectResponse {
	return &meshv1.ConnectResponse{Frame: &meshv1.ConnectResponse_Welcome{Welcome: w}}
}

func routesAckFrame(version uint64) *meshv1.ConnectResponse {
	return &meshv1.ConnectResponse{Frame: &meshv1.ConnectResponse_RoutesAck{RoutesAck: &meshv1.RoutesAck{Version: version}}}
}

func routesWantedFrame() *meshv1.ConnectResponse {
	return &meshv1.ConnectResponse{Frame: &meshv1.ConnectResponse_RoutesWanted{RoutesWanted: &meshv1.RoutesWanted{}}}
}

func adoptedAckFrame(a *meshv1.AdoptedAck) *meshv1.ConnectResponse {
	return &meshv1.ConnectResponse{Frame: &meshv1.ConnectResponse_AdoptedAck{AdoptedAck: a}}
}

func sentOnFrame(a *meshv1.SentOn) *meshv1.ConnectResponse {
	return &meshv1.ConnectResponse{Frame: &meshv1.ConnectResponse_SentOn{SentOn: a}}
}

func echoAckFrame() *meshv1.ConnectResponse {
	return &meshv1.ConnectResponse{Frame: &meshv1.ConnectResponse_EchoAck{EchoAck: &meshv1.EchoAck{}}}
}

func receiverGoodbye() *meshv1.ConnectResponse {
	return &meshv1.ConnectResponse{Frame: &meshv1.ConnectResponse_Goodbye{Goodbye: &meshv1.Goodbye{}}}
}
