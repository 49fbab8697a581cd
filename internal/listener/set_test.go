package listener_test

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/beeline-mqtt/beeline/internal/listener"
)

func TestNamesOfListenersTellThemApart(t *testing.T) {
	for _, tc := range []struct{ names, want string }{
		{"a", ""},
		{"a b", ""},
		{"", "doors: is missing"},
		{"a b a", "doors[2].name: "},
		{"a -", "doors[1].name: "},
	} {
		var all []listener.Config
		for name := range strings.FieldsSeq(tc.names) {
			all = append(all, listener.Config{Name: strings.Trim(name, "-")})
		}
		err := listener.ValidateNames("doors", all)
		switch {
		case tc.want == "" && err != nil:
			t.Errorf("%q: %v", tc.names, err)
		case tc.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tc.want)):
			t.Errorf("%q: %v, want %q", tc.names, err, tc.want)
		}
	}
}

func listenAll(t *testing.T, addresses ...string) (listener.Set, error) {
	t.Helper()
	var all []listener.Config
	for i, a := range addresses {
		all = append(all, listener.Config{Name: string(rune('a' + i)), Address: a})
	}
	return listener.ListenAll(all, 10, slog.New(slog.DiscardHandler))
}

func TestAllListenersAreBoundOrNone(t *testing.T) {
	s, err := listenAll(t, "127.0.0.1:0", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	first, second := s.Addr("a"), s.Addr("b")
	if first == nil || second == nil || first.String() == second.String() || s.Addr("c") != nil {
		t.Errorf("a is at %v, b at %v, c at %v", first, second, s.Addr("c"))
	}
	s.Close()
	s, err = listenAll(t, first.String(), "127.0.0.1:99999")
	if err == nil || s != nil {
		t.Fatalf("%v, bound where there is no port", s)
	}
	s, err = listenAll(t, first.String()) // it was given up with the other
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

func TestAllListenersAreServedAndEndTogether(t *testing.T) {
	ends := map[string]func(s listener.Set, end func()){
		"from outside":                 func(_ listener.Set, end func()) { end() },
		"when one has lost its socket": func(s listener.Set, _ func()) { _ = s[1].Close() },
	}
	for name, finish := range ends {
		t.Run(name, func(t *testing.T) {
			s, err := listenAll(t, "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ctx, end := context.WithCancel(t.Context())
			defer end()
			done, served := make(chan error, 1), make(chan string, 3)
			go func() {
				done <- s.Serve(ctx, func(ctx context.Context, nc net.Conn, name string) {
					served <- name
					<-ctx.Done()
					_ = nc.Close()
				})
			}()
			for _, l := range s {
				nc, err := net.Dial("tcp", l.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer nc.Close()
				if got := receive(t, served, "a connection"); got != l.Name() {
					t.Errorf("served by %q, want %q", got, l.Name())
				}
			}
			finish(s, end)
			if err := receive(t, done, "the end"); (err == nil) != (name == "from outside") {
				t.Errorf("ended with %v", err)
			}
		})
	}
}
