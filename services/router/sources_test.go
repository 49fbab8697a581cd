package router

import (
	"net"
	"testing"
)

func TestConnectionsOfOneSourceAreBounded(t *testing.T) {
	s := newSources(2)
	at := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1} }
	first, ok1 := s.enter(at("10.0.0.1"))
	_, ok2 := s.enter(at("::ffff:10.0.0.1"))
	if !ok1 || !ok2 {
		t.Fatal("two are refused")
	}
	if _, ok := s.enter(at("10.0.0.1")); ok {
		t.Error("a third is let in")
	}
	if _, ok := s.enter(at("10.0.0.2")); !ok {
		t.Error("somebody else is refused")
	}
	first()
	leave, ok := s.enter(at("10.0.0.1"))
	if !ok {
		t.Fatal("refused though one has left")
	}
	leave()
	if n := s.open[at("10.0.0.1").(*net.TCPAddr).AddrPort().Addr().Unmap()]; n != 1 {
		t.Errorf("%d are counted, want 1", n)
	}
}

func TestSourcesWithoutABoundAreNotCounted(t *testing.T) {
	s := newSources(0)
	for range 3 {
		if _, ok := s.enter(&net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)}); !ok {
			t.Error("refused")
		}
	}
	if len(s.open) > 0 {
		t.Errorf("counted: %v", s.open)
	}
	if _, ok := newSources(1).enter(&net.UnixAddr{}); !ok {
		t.Error("one without an IP address is refused")
	}
}
