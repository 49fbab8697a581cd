package dial

import "testing"

func TestWhereDevicesAreIsGivenWithTheRouter(t *testing.T) {
	const url = "mqtt://127.0.0.1:1883"
	if got, err := (&Flags{Router: "127.0.0.1:7946", Devices: url}).MQTT(); err != nil || got != url {
		t.Errorf("%q, %v", got, err)
	}
	for name, f := range map[string]Flags{"of a router": {Router: "127.0.0.1:7946"}, "of no beeline up": {Data: t.TempDir()}} {
		if got, err := f.MQTT(); err == nil {
			t.Errorf("%s nothing is known: %q", name, got)
		}
	}
}
