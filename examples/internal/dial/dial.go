// Package dial connects the examples to a router: that of a beeline up on this machine, or any other.
package dial

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/beeline-mqtt/beeline/api/beeline"
)

// Flags say which router, and how. The zero value is of no use: make one with New.
type Flags struct {
	// Data is the directory of a beeline up; it counts if Router is empty.
	Data string
	// Router is host:port of a router's gRPC server.
	Router string
	// Devices is the URL at which devices reach the router; if it is empty, that of the beeline up.
	Devices string
	// CAFile is the authority of its certificate, TokenFile has a token.
	CAFile, TokenFile string
}

// New adds the flags to f.
func New(f *flag.FlagSet) *Flags {
	o := &Flags{}
	f.StringVar(&o.Data, "data", "beeline-data", "directory of the beeline up whose router is used, unless -router is given")
	f.StringVar(&o.Router, "router", "", "host:port of a router's gRPC server")
	f.StringVar(&o.Devices, "mqtt", "", "URL at which devices reach that router, like mqtt://127.0.0.1:1883")
	f.StringVar(&o.CAFile, "ca-file", "", "authority of the router's certificate (PEM)")
	f.StringVar(&o.TokenFile, "token-file", "", "file with a token")
	return o
}

// endpoints is what is needed of endpoints.json.
type endpoints struct {
	CAFile string `json:"ca_file"`
	Router struct {
		GRPC string `json:"grpc"`
		MQTT string `json:"mqtt"`
	} `json:"router"`
	Operator struct {
		TokenFile string `json:"token_file"`
	} `json:"operator"`
}

func (o *Flags) endpoints() (e endpoints, err error) {
	text, err := os.ReadFile(filepath.Join(o.Data, "endpoints.json"))
	if err != nil {
		return e, fmt.Errorf("is there a beeline up? Give its -data, or -router: %w", err)
	}
	if err := json.Unmarshal(text, &e); err != nil {
		return e, fmt.Errorf("endpoints.json: %w", err)
	}
	return e, nil
}

// Dial connects to the router, and waits for it until ctx is over.
func (o *Flags) Dial(ctx context.Context) (*beeline.Client, error) {
	if o.Router != "" {
		return beeline.Dial(ctx, o.Router, beeline.Options{CAFile: o.CAFile, TokenFile: o.TokenFile})
	}
	e, err := o.endpoints()
	if err != nil {
		return nil, err
	}
	return beeline.Dial(ctx, e.Router.GRPC, beeline.Options{CAFile: e.CAFile, TokenFile: e.Operator.TokenFile})
}

// MQTT is the URL at which devices reach the router.
func (o *Flags) MQTT() (string, error) {
	switch {
	case o.Devices != "":
		return o.Devices, nil
	case o.Router != "":
		return "", errors.New("with -router, give -mqtt: the URL at which devices reach it")
	}
	e, err := o.endpoints()
	return e.Router.MQTT, err
}
