// Command chat is the backend of a small chat. People write over MQTT and get over MQTT what others write, also what was written
// while they were away; the backend knows who is in which room, keeps what was said, and says it to the others.
//
//	bin/beeline up &
//	go run ./examples/chat
//	curl -X PUT http://127.0.0.1:8090/rooms/tea/members/ann
//	curl -X PUT http://127.0.0.1:8090/rooms/tea/members/bob
//	bin/beeline sub -i bob-phone --username bob --clean=false -q 1 &
//	bin/beeline pub -i ann-phone --username ann -t chat/tea/say -m 'hello' -q 1
//	curl http://127.0.0.1:8090/rooms/tea/messages
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/beeline-mqtt/beeline/examples/internal/dial"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	router := dial.New(flag.CommandLine)
	address := flag.String("http", "127.0.0.1:8090", "host:port of the HTTP API")
	flag.Parse()
	if err := run(ctx, router, *address, slog.Default()); err != nil {
		fmt.Fprintln(os.Stderr, "chat:", err)
		os.Exit(1)
	}
}

// run serves the chat until ctx is over.
func run(ctx context.Context, router *dial.Flags, address string, log *slog.Logger) error {
	b, err := router.Dial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }() // nothing is on its way any more
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	c := newChat(b, log)
	server := &http.Server{Handler: c.http(), ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	log.LogAttrs(ctx, slog.LevelInfo, "chat is up", slog.String("http", "http://"+l.Addr().String()))
	err = c.listen(ctx)
	leave, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err = errors.Join(err, server.Shutdown(leave))
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}
