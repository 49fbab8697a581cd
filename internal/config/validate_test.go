package config

import (
	"errors"
	"fmt"
	"testing"
)

func TestErrorsOfValidateNameTheFullKey(t *testing.T) {
	tests := []struct {
		name string
		args []string
		yaml string
		want []string
	}{
		{"one key", []string{"--mqtt.keep_alive=1ms"}, "", []string{"mqtt.keep_alive: must be at least 1s, is 1ms"}},
		{
			"all keys that are wrong",
			[]string{"--mqtt.keep_alive=1ms", "--mqtt.max_packet=0"},
			"",
			[]string{"mqtt.keep_alive: must", "mqtt.max_packet: must not be 0"},
		},
		{"a key in a list", nil, "listeners: [{address: x}, {secure: true}]", []string{"listeners[1].address: is missing"}},
		{"the struct as a whole", []string{"--zone=nowhere"}, "", []string{"no node can be nowhere"}},
		{
			"inner and outer structs",
			[]string{"--zone=nowhere", "--mqtt.max_packet=0"},
			"",
			[]string{"mqtt.max_packet: must not be 0\nno node can be nowhere"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := load(t, tt.yaml, nil, tt.args...)
			wantError(t, err, tt.want...)
		})
	}
}

type strict struct{ Err error }

func (s strict) Validate() error { return s.Err }

type outer struct {
	Inner struct {
		strict `koanf:"-"`
		Value  int `koanf:"value"`
	} `koanf:"inner"`
}

func TestTheKindOfAnErrorOfValidateIsKept(t *testing.T) {
	errPort := errors.New("port is taken")
	tests := []struct {
		name, want string
		err        error
	}{
		{"plain error", "configuration: inner: port is taken", errPort},
		{"error of a key", "configuration: inner.value: port is taken", Invalid("value", "%w", errPort)},
		{"wrapped error of a key", "configuration: inner.value: port is taken", fmt.Errorf("check: %w", Invalid("value", "%w", errPort))},
		{
			"joined errors", "configuration: inner.value: port is taken\ninner: port is taken",
			errors.Join(Invalid("value", "%w", errPort), errPort),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var cfg outer
			cfg.Inner.Err = tt.err
			_, err := Load(cfg, Source{})
			if !errors.Is(err, errPort) || err.Error() != tt.want {
				t.Errorf("Load = %v, want %s", err, tt.want)
			}
		})
	}
	var bad *KeyError
	cfg := outer{}
	cfg.Inner.Err = Invalid("value", "is odd")
	if _, err := Load(cfg, Source{}); !errors.As(err, &bad) || bad.Key != "inner.value" {
		t.Errorf("Load = %v, want a KeyError of inner.value", err)
	}
}
