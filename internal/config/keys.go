package config

import (
	"encoding"
	"fmt"
	"maps"
	"reflect"
	"strings"
)

// tag is the struct tag that names a key.
const tag = "koanf"

// key is one key of a configuration struct: a field that holds a value.
type key struct {
	path     string // "mqtt.keep_alive"
	help     string
	value    reflect.Value // the field; addressable
	fileOnly bool          // a slice of structs: only a file can say it
}

// field is one field of a struct that has a key.
type field struct {
	name     string // the last part of the path; empty for a squashed struct
	help     string
	value    reflect.Value
	squashed bool
}

// fieldsOf lists the fields of a struct in their order.
func fieldsOf(v reflect.Value) ([]field, error) {
	var fields []field
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name, option, _ := strings.Cut(f.Tag.Get(tag), ",")
		switch {
		case !f.IsExported() || name == "-":
		case option == "squash" && f.Type.Kind() == reflect.Struct:
			fields = append(fields, field{value: v.Field(i), squashed: true})
		case name == "" || option != "":
			return nil, fmt.Errorf("field %s has no usable %s tag", f.Name, tag)
		default:
			fields = append(fields, field{name: name, help: f.Tag.Get("help"), value: v.Field(i)})
		}
	}
	return fields, nil
}

// typesOf maps the names of the fields of a struct to their types.
func typesOf(t reflect.Type) (map[string]reflect.Type, error) {
	fields, err := fieldsOf(reflect.Zero(t))
	if err != nil {
		return nil, err
	}
	types := map[string]reflect.Type{}
	for _, f := range fields {
		if !f.squashed {
			types[f.name] = f.value.Type()
			continue
		}
		inner, err := typesOf(f.value.Type())
		if err != nil {
			return nil, err
		}
		maps.Copy(types, inner)
	}
	return types, nil
}

// keysOf lists the keys of a struct, those of nested structs among them, in the order of the fields.
func keysOf(v reflect.Value) ([]key, error) {
	return appendKeys(nil, "", v)
}

func appendKeys(keys []key, prefix string, v reflect.Value) ([]key, error) {
	fields, err := fieldsOf(v)
	if err != nil {
		return nil, err
	}
	for _, f := range fields {
		path := prefix
		if !f.squashed {
			path = join(prefix, f.name)
		}
		if isSection(f.value.Type()) {
			if keys, err = appendKeys(keys, path, f.value); err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			continue
		}
		if !isValue(f.value.Type()) {
			return nil, fmt.Errorf("%s: a %s cannot be configured", path, f.value.Type())
		}
		keys = append(keys, key{path: path, help: f.help, value: f.value, fileOnly: isList(f.value.Type())})
	}
	return keys, nil
}

func join(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return prefix + "." + name
}

// isSection says whether t is a struct with keys of its own.
func isSection(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !readsText(t)
}

// isList says whether t is a slice of structs.
func isList(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && isSection(t.Elem())
}

// isValue says whether a field of type t can hold the value of a key.
func isValue(t reflect.Type) bool {
	if readsText(t) {
		return true
	}
	switch t.Kind() {
	case reflect.Bool, reflect.String, reflect.Float32, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return true
	case reflect.Slice:
		return isSection(t.Elem()) || t.Elem().Kind() != reflect.Slice && isValue(t.Elem())
	default:
		return false
	}
}

func readsText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}
