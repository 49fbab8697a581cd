package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// fail answers a call that was refused, with the headers that HTTP has for some of it.
func fail(ctx context.Context, mux *runtime.ServeMux, m runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
	s := status.Convert(err)
	for _, d := range s.Details() {
		if again, ok := d.(*errdetails.RetryInfo); ok {
			w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(again.GetRetryDelay().AsDuration().Seconds()))))
		}
	}
	runtime.DefaultHTTPErrorHandler(ctx, mux, m, challenge{w, s.Code()}, r, err)
}

// challenge says how to prove who one is; what the gateway says there is no scheme.
type challenge struct {
	http.ResponseWriter

	code codes.Code
}

// WriteHeader implements http.ResponseWriter.
func (c challenge) WriteHeader(code int) {
	if c.code == codes.Unauthenticated {
		c.Header().Set("WWW-Authenticate", "Bearer")
	}
	c.ResponseWriter.WriteHeader(code)
}

// strictQuery refuses parameters that the method does not have: a filter that is misspelt would be none.
type strictQuery struct{ runtime.DefaultQueryParser }

// Parse implements runtime.QueryParameterParser.
func (p strictQuery) Parse(target proto.Message, values url.Values, filter *utilities.DoubleArray) error {
	fields := target.ProtoReflect().Descriptor().Fields()
	for name := range values {
		first, _, _ := strings.Cut(name, ".")
		if fields.ByName(protoreflect.Name(first)) == nil && fields.ByJSONName(first) == nil {
			return fmt.Errorf("there is no parameter %q", name)
		}
	}
	return p.DefaultQueryParser.Parse(target, values, filter)
}

// tooLarge answers a body that is longer than may be, before it is read.
func tooLarge(w http.ResponseWriter, most int64) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusRequestEntityTooLarge)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"code": codes.ResourceExhausted, "message": fmt.Sprintf("the body has more than %d bytes", most), "details": []any{},
	})
}
