package config

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"reflect"
	"strconv"
	"strings"
)

// Secret is a text that is never shown: not by --print-config, not in logs, not by fmt.
type Secret string

const masked = "********"

// String returns a mask, or nothing when the secret is empty.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return masked
}

// GoString is String.
func (s Secret) GoString() string { return s.String() }

// MarshalText is String: a Secret does not survive being written.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText takes the secret as it is.
func (s *Secret) UnmarshalText(b []byte) error {
	*s = Secret(b)
	return nil
}

// LogValue keeps the secret out of logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Bytes is a number of bytes, never negative. Its text is a whole number with an optional unit: B, KiB, MiB,
// GiB, TiB (powers of 1,024) or kB, MB, GB, TB (powers of 1,000).
type Bytes int64

// Units of Bytes.
const (
	KiB Bytes = 1 << 10
	MiB Bytes = 1 << 20
	GiB Bytes = 1 << 30
)

// units are in the order in which String prefers them.
var units = []struct { //nolint:gochecknoglobals // a table that nobody changes
	suffix string
	size   Bytes
}{
	{"TiB", 1 << 40},
	{"GiB", GiB},
	{"MiB", MiB},
	{"KiB", KiB},
	{"TB", 1e12},
	{"GB", 1e9},
	{"MB", 1e6},
	{"kB", 1e3},
	{"B", 1},
}

// String writes the size with the largest unit of powers of 1,024 that divides it.
func (b Bytes) String() string {
	for _, u := range units {
		if strings.HasSuffix(u.suffix, "iB") && b >= u.size && b%u.size == 0 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(b), 10) + "B"
}

// MarshalText is String.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText reads what String writes, and the other units.
func (b *Bytes) UnmarshalText(text []byte) error {
	number, unit := string(text), Bytes(1)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(number, u.suffix); ok {
			number, unit = strings.TrimSpace(rest), u.size
			break
		}
	}
	n, err := strconv.ParseUint(number, 10, 63)
	if err != nil || n > uint64(math.MaxInt64/unit) {
		return fmt.Errorf("%q is not a size: write a whole number with its unit, like 64KiB", text)
	}
	*b = Bytes(n) * unit
	return nil
}

// parse reads a bool, number or string of the kind of to.
func parse(s string, to reflect.Value) (any, error) {
	v := reflect.New(to.Type()).Elem()
	var err error
	switch {
	case to.Kind() == reflect.Bool:
		var b bool
		b, err = strconv.ParseBool(s)
		v.SetBool(b)
	case to.CanInt():
		var n int64
		n, err = strconv.ParseInt(s, 10, to.Type().Bits())
		v.SetInt(n)
	case to.CanUint():
		var n uint64
		n, err = strconv.ParseUint(s, 10, to.Type().Bits())
		v.SetUint(n)
	case to.CanFloat():
		var n float64
		n, err = strconv.ParseFloat(s, to.Type().Bits())
		v.SetFloat(n)
	default:
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%q is not a %s: %w", s, to.Type(), errors.Unwrap(err))
	}
	return v.Interface(), nil
}
