package client_test

import (
	"net"
	"testing"
	"unsafe"

	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

type depthConn struct {
	net.Conn
	top uintptr
	t   *testing.T
}

//go:noinline
func here() uintptr { var x [8]byte; return uintptr(unsafe.Pointer(&x)) }

func (d *depthConn) Read(p []byte) (int, error) {
	h := here()
	println("depth at Read:", d.top-h, unsafe.Sizeof(client.Client{}))
	return d.Conn.Read(p)
}

func TestDepth(t *testing.T) {
	r := quiet(t)
	near, far := net.Pipe()
	go func() {
		grow(200)
		d := &depthConn{Conn: near, t: t}
		d.top = here()
		client.Serve(r.ctx, d, "tcp", &r.limits, &r.deps)
	}()
	c := rawmqtt.Over(t, far, 4)
	c.Hello("a")
	c.ExpectNothing()
	c.ExpectNothing()
	c.Disconnect()
}

//go:noinline
func grow(n int) byte {
	var b [512]byte
	if n > 0 {
		b[0] = grow(n - 1)
	}
	return b[n%7]
}
