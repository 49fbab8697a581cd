// Package rest serves the public services over HTTP with JSON: the paths are in api.yaml, the handlers and the OpenAPI document
// are generated of them. It decides nothing: each request becomes a call to the gRPC server of the process, with the caller's
// bearer token or certificate.
package rest

import (
	"context"
	"crypto/tls"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/beeline-mqtt/beeline/internal/config"
	"github.com/beeline-mqtt/beeline/internal/pki"
	"github.com/beeline-mqtt/beeline/internal/rpc"
	admingw "github.com/beeline-mqtt/beeline/services/router/internal/rest/gen/beeline/admin/v1"
	messaginggw "github.com/beeline-mqtt/beeline/services/router/internal/rest/gen/beeline/messaging/v1"
)

const (
	headerTimeout = 5 * time.Second
	// stopTimeout is how long requests under way may take when the server stops; streams are ended then.
	stopTimeout = 2 * time.Second
)

// Config says where REST is served.
type Config struct {
	// Address is host:port; empty: it is not served.
	Address string `koanf:"address" help:"host:port of the REST API; empty for none"`
	// CertFile and KeyFile make it HTTPS, with the certificate of a public server. ClientCAFile signs those of callers who
	// have no token.
	CertFile     string `koanf:"cert_file" help:"certificate of the REST API (PEM)"`
	KeyFile      string `koanf:"key_file" help:"key of the certificate (PEM)"`
	ClientCAFile string `koanf:"client_ca_file" help:"authorities that sign the certificates of callers (PEM); empty: tokens only"`
	// Insecure serves plain HTTP to other machines: tokens can be read on the way.
	Insecure bool `koanf:"insecure" help:"serve other machines without TLS, as behind a proxy that ends it"`
}

// Validate reports the first setting that cannot work.
func (c Config) Validate() error {
	if c.Address == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(c.Address)
	switch {
	case err != nil:
		return config.Invalid("address", "is not host:port: %w", err)
	case (c.CertFile == "") != (c.KeyFile == ""):
		return config.Invalid("cert_file", "and key_file: give both or none")
	case c.Insecure && c.CertFile != "":
		return config.Invalid("insecure", "must not be set together with cert_file")
	case c.ClientCAFile != "" && c.CertFile == "":
		return config.Invalid("client_ca_file", "is of no use without cert_file and key_file")
	}
	ip := net.ParseIP(host)
	if local := host == "localhost" || ip != nil && ip.IsLoopback(); !local && c.CertFile == "" && !c.Insecure {
		return config.Invalid("cert_file", "is missing: %s is not of this machine alone, and tokens need TLS, or insecure: true to go without", c.Address)
	}
	return nil
}

// Server serves REST.
type Server struct {
	cfg    Config
	logger *slog.Logger
	l      net.Listener
	mux    *runtime.ServeMux
	body   int64
}

// Listen binds the address. Nobody is served before Run.
func Listen(ctx context.Context, cfg Config, logger *slog.Logger) (*Server, error) {
	l, err := rpc.Listen(ctx, cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("rest: %w", err)
	}
	if cfg.CertFile != "" {
		t, err := serverTLS(cfg)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("rest: %w", err), l.Close())
		}
		l = tls.NewListener(l, t)
	}
	return &Server{cfg: cfg, logger: logger, l: l}, nil
}

func serverTLS(cfg Config) (*tls.Config, error) {
	files := pki.Files{Cert: cfg.CertFile, Key: cfg.KeyFile, CA: cfg.ClientCAFile}
	t, err := files.Server()
	if err == nil && cfg.ClientCAFile != "" {
		t, err = files.Public()
	}
	if err != nil {
		return nil, err
	}
	t.NextProtos = []string{"http/1.1"}
	return t, nil
}

// Addr is where it listens.
func (s *Server) Addr() net.Addr { return s.l.Addr() }

// Close gives up the address of a server that does not run.
func (s *Server) Close() error { return s.l.Close() }

// Connect has requests become calls on conn, with bodies of at most so many bytes, before Run.
func (s *Server) Connect(ctx context.Context, conn *grpc.ClientConn, maxBody int64) error {
	s.body = maxBody
	s.mux = runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.JSONPb{
			MarshalOptions:   protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true},
			UnmarshalOptions: protojson.UnmarshalOptions{},
		}),
		// The Authorization header always goes along; nothing else does.
		runtime.WithIncomingHeaderMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithOutgoingHeaderMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithMetadata(onBehalf),
		runtime.WithErrorHandler(fail),
		// What is in the path is taken apart at slashes, %2F among them, and then decoded.
		runtime.WithUnescapingMode(runtime.UnescapingModeAllCharacters),
		runtime.SetQueryParameterParser(strictQuery{}),
	)
	for _, register := range []func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error{
		messaginggw.RegisterMessagingServiceHandler, messaginggw.RegisterGroupServiceHandler,
		admingw.RegisterAdminServiceHandler, admingw.RegisterPlacementServiceHandler, admingw.RegisterGatewayServiceHandler,
	} {
		if err := register(ctx, s.mux, conn); err != nil {
			return fmt.Errorf("rest: %w", err)
		}
	}
	return nil
}

// onBehalf passes on who has shown a certificate.
func onBehalf(_ context.Context, r *http.Request) metadata.MD {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return nil
	}
	id, err := pki.IdentityOf(r.TLS.PeerCertificates[0])
	if err != nil {
		return nil
	}
	return rpc.OnBehalfOf(id)
}

// Run serves until ctx ends. Requests under way may end then, streams are cut off.
func (s *Server) Run(ctx context.Context) error {
	if s.cfg.Insecure {
		s.logger.WarnContext(ctx, "REST without TLS: tokens can be read on the way", slog.String("address", s.Addr().String()))
	}
	requests, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	server := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: headerTimeout,
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return requests },
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(s.l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve rest: %w", err)
	case <-ctx.Done():
	}
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	// What is left then are streams.
	if server.Shutdown(stopCtx) != nil {
		end()
		_ = server.Close()
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve rest: %w", err)
	}
	return nil
}

//go:embed gen/openapi.swagger.json
var document []byte

//go:embed index.html
var index []byte

// handler is the services' with the documents beside them. Web pages of other origins cannot call it.
func (s *Server) handler() http.Handler {
	return http.NewCrossOriginProtection().Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/openapi.json" && r.Method == http.MethodGet:
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(document)
		case r.URL.Path == "/" && r.Method == http.MethodGet:
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = w.Write(index)
		case r.ContentLength > s.body:
			tooLarge(w, s.body)
		default:
			r.Body = http.MaxBytesReader(w, r.Body, s.body)
			s.mux.ServeHTTP(w, r)
		}
	}))
}
