package config

import (
	"encoding"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"
)

const (
	// EnvPrefix begins the names of the environment variables that are read.
	EnvPrefix = "BEELINE_"
	// EnvFile names the configuration file, as --config does, which wins.
	EnvFile = EnvPrefix + "CONFIG"
	// EnvTestPrefix begins the names of variables that belong to tests and are not read.
	EnvTestPrefix = EnvPrefix + "TEST_"
)

// layer is one source of values; later layers win.
type layer struct {
	name     string // for errors
	provider koanf.Provider
	parser   koanf.Parser
	// asText says that all values are text and are converted to the type of their key.
	asText bool
}

func layers(src Source, path string, flags *pflag.FlagSet) []layer {
	set := map[string]any{}
	flags.Visit(func(f *pflag.Flag) {
		if v, ok := f.Value.(*text); ok {
			set[f.Name] = v.String()
		}
	})
	ls := []layer{
		{name: "environment", provider: environ(src.Environ), asText: true},
		{name: "flags", provider: confmap.Provider(set, "."), asText: true},
	}
	if path != "" {
		ls = slices.Insert(ls, 0, layer{name: "file " + path, provider: file.Provider(path), parser: yaml.Parser()})
	}
	return ls
}

func environ(environ []string) koanf.Provider {
	return env.Provider(".", env.Opt{
		Prefix:      EnvPrefix,
		EnvironFunc: func() []string { return environ },
		TransformFunc: func(name, value string) (string, any) {
			if name == EnvFile || strings.HasPrefix(name, EnvTestPrefix) || isServiceLink(name, value) {
				return "", nil
			}
			return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(name, EnvPrefix)), "__", "."), value
		},
	})
}

// serviceLink matches the variables that Kubernetes sets for each service of the namespace. Those of a service
// called beeline-something begin like ours and are not for us.
var serviceLink = regexp.MustCompile(`_SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)$|_PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$`)

func isServiceLink(name, value string) bool {
	return serviceLink.MatchString(name) || strings.HasSuffix(name, "_PORT") && strings.Contains(value, "://")
}

func fileFromEnviron(environ []string) string {
	path := ""
	for _, v := range environ {
		if name, value, _ := strings.Cut(v, "="); name == EnvFile {
			path = value
		}
	}
	return path
}

// decode lays the values of l over those that cfg, a pointer to the struct, has. The error says all that is wrong.
func (l layer) decode(cfg any) error {
	k := koanf.New(".")
	if err := k.Load(l.provider, l.parser); err != nil {
		return fmt.Errorf("read %s: %w", l.name, err)
	}
	known, errs := l.known("", k.Raw(), reflect.TypeOf(cfg).Elem())
	decoder, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		Result:      cfg,
		TagName:     tag,
		DecodeHook:  l.convert,
		ErrorUnused: true,
		ZeroFields:  true, // a list replaces the list before it
		MatchName:   func(key, field string) bool { return key == field },
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", l.name, err)
	}
	err = decoder.Decode(known)
	if inner := errors.Unwrap(err); inner != nil {
		err = inner // without the decoder's headline
	}
	errs = append(errs, splitErrors(err)...)
	for i, err := range errs {
		errs[i] = fmt.Errorf("%s: %w", l.name, err)
	}
	return errors.Join(errs...)
}

// known returns what of m, the section at path, can be decoded into a struct of type t, and what is wrong with
// the rest. A section of which all keys are commented out has no value: the defaults stay as they are. Any other
// key without a value is an error, where the decoder would take it for zero.
func (l layer) known(path string, m map[string]any, t reflect.Type) (map[string]any, []error) {
	types, err := typesOf(t)
	if err != nil {
		return nil, []error{err}
	}
	var errs []error
	known := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		value, full := m[name], join(path, name)
		t, ok := types[name]
		switch {
		case !ok:
			errs = append(errs, fmt.Errorf("unknown key %s", l.keyName(full)))
		case value == nil && isSection(t):
		default:
			v, inner := l.knownValue(full, value, t)
			if errs = append(errs, inner...); v != nil {
				known[name] = v
			}
		}
	}
	return known, errs
}

// knownValue is known for what a key or an element of a list holds.
func (l layer) knownValue(path string, value any, t reflect.Type) (any, []error) {
	switch value := value.(type) {
	case nil:
		return nil, []error{fmt.Errorf("%s: has no value", path)}
	case map[string]any:
		if isSection(t) {
			return l.known(path, value, t)
		}
	case []any:
		if t.Kind() != reflect.Slice {
			break
		}
		var errs []error
		list := make([]any, len(value))
		for i, element := range value {
			var inner []error
			list[i], inner = l.knownValue(fmt.Sprintf("%s[%d]", path, i), element, t.Elem())
			errs = append(errs, inner...)
		}
		return list, errs
	}
	return value, nil
}

// keyName writes a key as the reader of an error will look for it.
func (l layer) keyName(key string) string {
	if l.name == "environment" {
		return fmt.Sprintf("%s (variable %s%s)", key, EnvPrefix, strings.ToUpper(strings.ReplaceAll(key, ".", "__")))
	}
	return key
}

// splitErrors takes the decoder's error apart into one for each key, which it begins with.
func splitErrors(err error) []error {
	switch e := err.(type) { //nolint:errorlint // takes apart one level at a time
	case nil:
		return nil
	case interface{ Unwrap() []error }:
		var errs []error
		for _, inner := range e.Unwrap() {
			errs = append(errs, splitErrors(inner)...)
		}
		return errs
	case *mapstructure.DecodeError:
		return splitErrors(under(e.Name(), e.Unwrap()))
	default:
		return []error{err}
	}
}

// convert is the decode hook: it turns what a layer holds into the type of the field, exactly or not at all.
func (l layer) convert(from, to reflect.Value) (any, error) {
	data := from.Interface()
	if s, ok := data.(string); ok {
		return l.convertText(s, to)
	}
	if to.Type() == reflect.TypeFor[time.Duration]() && (!from.CanInt() || from.Int() != 0) {
		return nil, fmt.Errorf("%v is not a duration: write a number with its unit, like 10s", data)
	}
	return data, fits(from, to)
}

func (l layer) convertText(s string, to reflect.Value) (any, error) {
	t := to.Type()
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return time.ParseDuration(s)
	case readsText(t):
		return readText(s, t)
	case !l.asText:
		return s, nil
	case isList(t):
		return nil, errors.New("is a list of sections: only the file can set it")
	case t.Kind() == reflect.Slice && s == "":
		return []string{}, nil
	case t.Kind() == reflect.Slice:
		return strings.Split(s, ","), nil
	default:
		return parse(s, to)
	}
}

// readText makes a value of t, which reads itself from text.
func readText(s string, t reflect.Type) (any, error) {
	v := reflect.New(t)
	reader, ok := v.Interface().(encoding.TextUnmarshaler)
	if !ok {
		return nil, fmt.Errorf("%s does not read text", t)
	}
	if err := reader.UnmarshalText([]byte(s)); err != nil {
		return nil, err
	}
	return v.Elem().Interface(), nil
}

// fits refuses numbers that the field cannot hold; the decoder would cut them to size.
func fits(from, to reflect.Value) error {
	ok := true
	switch {
	case from.CanFloat():
		ok = !to.CanInt() && !to.CanUint()
	case from.CanInt() && to.CanInt():
		ok = !to.OverflowInt(from.Int()) && (from.Int() >= 0 || to.Type() != reflect.TypeFor[Bytes]())
	case from.CanInt() && to.CanUint():
		ok = from.Int() >= 0 && !to.OverflowUint(uint64(from.Int()))
	case from.CanUint() && to.CanUint():
		ok = !to.OverflowUint(from.Uint())
	case from.CanUint() && to.CanInt():
		ok = from.Uint() <= math.MaxInt64 && !to.OverflowInt(int64(from.Uint()))
	}
	if !ok {
		return fmt.Errorf("%v does not fit into %s", from, to.Type())
	}
	return nil
}
