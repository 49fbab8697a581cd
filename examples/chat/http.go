package main

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// http is the API for those who manage rooms: it asks nobody who they are.
func (c *chat) http() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f func(w http.ResponseWriter, r *http.Request, room string) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := f(w, r, r.PathValue("room")); err != nil {
				http.Error(w, err.Error(), httpStatus(err))
			}
		})
	}
	handle("PUT /rooms/{room}/members/{user}", func(_ http.ResponseWriter, r *http.Request, room string) error {
		return c.join(r.Context(), room, r.PathValue("user"))
	})
	handle("DELETE /rooms/{room}/members/{user}", func(_ http.ResponseWriter, r *http.Request, room string) error {
		return c.leave(r.Context(), room, r.PathValue("user"))
	})
	// An announcement, from nobody: curl -d 'the shop closes at six' .../rooms/tea/messages
	handle("POST /rooms/{room}/messages", func(w http.ResponseWriter, r *http.Request, room string) error {
		text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<10))
		if err != nil {
			return err
		}
		return c.say(r.Context(), room, said{Text: string(text), Time: time.Now().UTC()})
	})
	handle("GET /rooms/{room}/messages", func(w http.ResponseWriter, r *http.Request, room string) error {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(c.history(room)); err != nil {
			c.log.LogAttrs(r.Context(), slog.LevelWarn, "write answer", slog.Any("error", err))
		}
		return nil
	})
	return mux
}

// httpStatus is the status of HTTP for an error of Beeline.
func httpStatus(err error) int {
	switch status.Code(err) {
	case codes.NotFound:
		return http.StatusNotFound
	case codes.InvalidArgument:
		return http.StatusBadRequest
	case codes.Unavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
