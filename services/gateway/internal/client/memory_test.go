package client_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// idleClients has the test binary be the other side of many connections: its value is an address, a version and a
// number.
const idleClients = "BEELINE_TEST_IDLE_CLIENTS"

// mostIdleBytes is what a client that is connected and does nothing may cost: its share of the 10 KiB that one with a
// subscription may, and a little for what differs from run to run.
const mostIdleBytes = 8 << 10

func TestAnIdleClientCostsLittle(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector needs memory of its own")
	}
	const n = 2000
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t)
		for range 100 { // what is made once is made now
			r.connect(version, "first").Disconnect()
		}
		r.awaitServed(100)
		before := memory()
		release := connectFromOutside(t, r.addr, version, n)
		for r.metric("beeline_gateway_clients") < n { // the last CONNACK is written a moment after it is counted
			runtime.Gosched()
		}
		after := memory()
		t.Logf("%d bytes for each idle client: %d heap, %d stack; %d resident", after.total(before)/n,
			(after.heap-before.heap)/n, (after.stack-before.stack)/n, (after.resident-before.resident)/n)
		if each := after.total(before) / n; each > mostIdleBytes {
			t.Errorf("%d bytes for each idle client, want %d at most", each, mostIdleBytes)
		}
		release()
		r.awaitServed(n)
	})
}

func TestAClientThatHasBeenBusyCostsNoMoreThanAnIdleOne(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector needs memory of its own")
	}
	const n = 200
	r := newRig(t)
	before := memory()
	clients := make([]*rawmqtt.Client, n)
	for i := range clients {
		clients[i] = r.connect(v5, fmt.Sprint("c", i))
	}
	idle := memory()
	payload := string(make([]byte, 20_000))
	for _, c := range clients {
		c.MustSubscribe("t", 1)
		for range 5 {
			c.Publish("held", payload, 0)
		}
		c.Unsubscribe("t")
	}
	for i, c := range clients {
		c.MustSubscribe("own/"+strconv.Itoa(i), 0)
		c.Publish("own/"+strconv.Itoa(i), payload, 0)
		c.Receive()
		c.Unsubscribe("own/" + strconv.Itoa(i))
	}
	for len(r.broker.published) > 0 {
		<-r.broker.published
	}
	busy := memory()
	if extra := (busy.total(before) - idle.total(before)) / n; extra > 4<<10 {
		t.Errorf("%d bytes more for each client that has been busy", extra)
	}
}

// usage is the memory in use, in bytes.
type usage struct{ heap, stack, resident int64 }

func (u usage) total(before usage) int64 { return u.heap + u.stack - before.heap - before.stack }

func memory() usage {
	for range 3 { // stacks shrink by half with each, and pools give up what they hold
		runtime.GC()
	}
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	var size, resident int64
	if f, err := os.Open("/proc/self/statm"); err == nil {
		_, _ = fmt.Fscan(f, &size, &resident)
		_ = f.Close()
	}
	return usage{heap: int64(m.HeapAlloc), stack: int64(m.StackInuse), resident: resident * int64(os.Getpagesize())}
}

// connectFromOutside has another process connect n clients, so that only our side is measured.
func connectFromOutside(t *testing.T, addr string, version byte, n int) (release func()) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHelperIdleClients$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %d", idleClients, addr, version, n))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the other process says %q, %v", line, err)
	}
	return func() {
		_ = in.Close()
		_, _ = io.Copy(io.Discard, out)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}

// TestHelperIdleClients is the other process: not a test unless it is told where to connect.
func TestHelperIdleClients(t *testing.T) {
	var addr string
	var version byte
	var n int
	if _, err := fmt.Sscan(os.Getenv(idleClients), &addr, &version, &n); err != nil {
		t.Skip("only runs within another test")
	}
	for i := range n {
		nc, err := net.DialTimeout("tcp", addr, rawmqtt.Patience)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		p := rawmqtt.ConnectPacket(version, fmt.Sprint("idle", i))
		if _, err := nc.Write(rawmqtt.Bytes(t, p)); err != nil {
			t.Fatal(err)
		}
		_ = nc.SetReadDeadline(time.Now().Add(rawmqtt.Patience))
		first := make([]byte, 4)
		if _, err := io.ReadFull(nc, first); err != nil || first[0]>>4 != packets.Connack || first[3] != 0 {
			t.Fatalf("% x, %v", first, err)
		}
	}
	fmt.Println("ready") //nolint:forbidigo // to the process that has started us
	_, _ = io.Copy(io.Discard, os.Stdin)
}
