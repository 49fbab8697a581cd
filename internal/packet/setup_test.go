package packet

import (
	"errors"
	"testing"
)

// decode sends a packet to the function for its type.
func decode(v Version, first byte, body []byte) error {
	var err error
	switch Type(first >> 4) {
	case CONNECT:
		if bad := checkFirst(first); bad != nil {
			return bad // what the Reader does
		}
		_, err = DecodeConnect(body)
	case PUBLISH:
		_, err = DecodePublish(v, first, body, false)
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		_, err = DecodeAck(v, first, body)
	case SUBSCRIBE:
		_, err = DecodeSubscribe(v, first, body)
	case UNSUBSCRIBE:
		_, err = DecodeUnsubscribe(v, first, body)
	case PINGREQ:
		err = DecodeEmpty(first, body)
	case DISCONNECT:
		_, err = DecodeDisconnect(v, first, body)
	case AUTH:
		_, err = DecodeAuth(v, first, body)
	default:
		panic("no decoder for " + Type(first>>4).String())
	}
	return err
}

// wantCode fails the test unless err is an *Error with the code.
func wantCode(t *testing.T, err error, want Code) {
	t.Helper()
	var refused *Error
	if !errors.As(err, &refused) {
		t.Fatalf("error is %v, want an *Error: %v", err, want)
	}
	if refused.Code != want {
		t.Fatalf("refused with %q, want %v", refused, want)
	}
	if refused.Detail == "" {
		t.Error("the error has no detail")
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func ptr[T any](v T) *T { return &v }
