package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
)

// KeyError says what is wrong with the value of a key.
type KeyError struct {
	// Key is the key as the struct that reports the error knows it; Load completes it to the full path.
	Key string
	// Err is what is wrong with the value.
	Err error
}

// Invalid makes the error that a Validate method returns about one of its keys. Several can be joined.
func Invalid(key, format string, args ...any) error {
	return &KeyError{Key: key, Err: fmt.Errorf(format, args...)}
}

// Error names the key.
func (e *KeyError) Error() string { return e.Key + ": " + e.Err.Error() }

// Unwrap returns the error without the key.
func (e *KeyError) Unwrap() error { return e.Err }

// validate calls Validate on the structs in v and on v, which is addressable, and joins the errors under their
// full keys.
func validate(path string, v reflect.Value) error {
	fields, err := fieldsOf(v)
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range fields {
		inner := path
		if !f.squashed {
			inner = join(path, f.name)
		}
		switch {
		case isSection(f.value.Type()):
			errs = append(errs, validate(inner, f.value))
		case isList(f.value.Type()):
			for i := range f.value.Len() {
				errs = append(errs, validate(fmt.Sprintf("%s[%d]", inner, i), f.value.Index(i)))
			}
		}
	}
	if own, ok := v.Addr().Interface().(interface{ Validate() error }); ok {
		errs = append(errs, under(path, own.Validate()))
	}
	return errors.Join(errs...)
}

// under puts path before the keys that err names, and names path where it names none.
func under(path string, err error) error {
	if err == nil || path == "" {
		return err
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		errs := slices.Clone(joined.Unwrap())
		for i, inner := range errs {
			errs[i] = under(path, inner)
		}
		return errors.Join(errs...)
	}
	var bad *KeyError
	if errors.As(err, &bad) {
		return &KeyError{Key: join(path, bad.Key), Err: bad.Err}
	}
	return &KeyError{Key: path, Err: err}
}
