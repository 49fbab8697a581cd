package auth

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"
)

func TestFailuresAreCountedByAddress(t *testing.T) {
	now := time.Now()
	f := newFailures(2, func() time.Time { return now })
	at := func(text string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(text)) }
	for range 2 {
		f.count(at("192.0.2.1:1"))
		f.count(at("[2001:db8::1]:1"))
		f.count(&net.UnixAddr{Name: "x"})
		f.count(nil)
	}
	for text, want := range map[string]bool{
		"192.0.2.1:2": true, "[::ffff:192.0.2.1]:3": true, "192.0.2.2:1": false,
		"[2001:db8::ffff]:1": true, "[2001:db8:0:1::1]:1": false, "[fe80::1%eth0]:1": false,
	} {
		if got := f.tooMany(at(text)); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
	if f.tooMany(&net.UnixAddr{Name: "x"}) || f.tooMany(nil) {
		t.Error("what has no address is counted")
	}
	now = now.Add(29 * time.Second)
	if !f.tooMany(at("192.0.2.1:1")) {
		t.Error("an attempt came back too early")
	}
	now = now.Add(2 * time.Second)
	if f.tooMany(at("192.0.2.1:1")) {
		t.Error("an attempt did not come back")
	}
	f.most = 0
	f.count(at("192.0.2.3:1"))
	if f.tooMany(at("192.0.2.3:1")) || len(f.counted) != 2 {
		t.Error("they are counted though they do not count")
	}
}

func TestNoMoreAddressesAreRememberedThanThereIsRoomFor(t *testing.T) {
	now := time.Now()
	f := newFailures(10, func() time.Time { return now })
	address := func(i int) net.Addr {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(i))
		return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom4(b), 1))
	}
	for i := range mostAddresses + 100 {
		f.count(address(i))
	}
	if n := len(f.counted); n > mostAddresses || n < mostAddresses*7/8 {
		t.Errorf("%d addresses", n)
	}
	now = now.Add(time.Minute)
	const others = mostAddresses/8 + 1
	for i := range others {
		f.count(address(-1 - i))
	}
	if n := len(f.counted); n > others {
		t.Errorf("%d addresses after all but %d had their attempts again", n, others)
	}
}
