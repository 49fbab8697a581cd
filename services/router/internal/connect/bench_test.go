package connect

import (
	"fmt"
	"testing"
)

// normal is what most devices send.
func normal(level byte) []byte {
	return connect(level, 0xc2, "sensor-00c0ffee", "tenant-1/sensor", "correct horse battery staple")
}

// replay is a connection that says the same again, without memory of its own.
type replay struct{ b []byte }

func (r *replay) Read(p []byte) (int, error) { return copy(p, r.b), nil }

func TestReadingANormalConnectAllocatesThrice(t *testing.T) { // its bytes, the Client Identifier, the User Name
	for _, level := range levels {
		src := &replay{normal(level)}
		if n := testing.AllocsPerRun(100, func() {
			if _, err := Read(src, 64<<10); err != nil {
				t.Error(err)
			}
		}); n > 3 {
			t.Errorf("level %d: %v allocations", level, n)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	for name, build := range map[string]func(byte) []byte{"normal": normal, "full": full} {
		for _, level := range levels {
			b.Run(fmt.Sprintf("%s/level %d", name, level), func(b *testing.B) {
				src := &replay{build(level)}
				b.ReportAllocs()
				for b.Loop() {
					if _, err := Read(src, 64<<10); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkReadConnack(b *testing.B) {
	src := &replay{accepts5(0)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ReadConnack(src, Level5, 64<<10); err != nil {
			b.Fatal(err)
		}
	}
}
