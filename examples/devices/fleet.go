package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/beeline-mqtt/beeline/api/beeline"
	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

// fleet is all devices whose ids begin with prefix.
type fleet struct {
	beeline *beeline.Client
	prefix  string

	mu  sync.Mutex
	out io.Writer // guarded by mu
}

func (f *fleet) printf(format string, a ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fmt.Fprintf(f.out, format, a...)
}

// watch says who comes and goes until ctx is over.
func (f *fleet) watch(ctx context.Context) error {
	for {
		err := f.beeline.WatchPresence(ctx, beeline.PresenceOptions{ClientIDPrefix: f.prefix}, f.changed)
		if !errors.Is(err, beeline.ErrMissedEvents) {
			return err
		}
		f.printf("some have come or gone unseen\n") // ask does not rely on events: it lists
	}
}

func (f *fleet) changed(events []*messagingv1.PresenceEvent, _ string) error {
	for _, e := range events {
		switch e.GetKind() {
		case messagingv1.PresenceEvent_KIND_CONNECTED:
			f.printf("%s has come\n", e.GetClientId())
		case messagingv1.PresenceEvent_KIND_DISCONNECTED:
			f.printf("%s has gone: %s\n", e.GetClientId(), e.GetReason())
		}
	}
	return nil
}

// connected lists the devices that are connected.
func (f *fleet) connected(ctx context.Context) (ids []string, err error) {
	r := &adminv1.ListClientsRequest{ClientIdPrefix: f.prefix, Presence: adminv1.Presence_PRESENCE_CONNECTED, PageSize: 1000}
	for {
		l, err := f.beeline.Admin().ListClients(ctx, r)
		if err != nil {
			return nil, fmt.Errorf("list devices: %w", err)
		}
		for _, c := range l.GetClients() {
			ids = append(ids, c.GetClientId())
		}
		if r.PageToken = l.GetNextPageToken(); r.GetPageToken() == "" {
			return ids, nil
		}
	}
}

// Bounds of asking: how many are asked at once, and how long one may take.
const (
	atOnce  = 100
	timeout = 3 * time.Second
)

// ask sends a command to each device that is connected and prints the answers.
func (f *fleet) ask(ctx context.Context, command string) error {
	ids, err := f.connected(ctx)
	if err != nil {
		return err
	}
	var asking sync.WaitGroup
	var mu sync.Mutex
	answers := 0
	slots := make(chan struct{}, atOnce)
	for _, id := range ids {
		slots <- struct{}{}
		asking.Go(func() {
			defer func() { <-slots }()
			if f.askOne(ctx, id, command) {
				mu.Lock()
				answers++
				mu.Unlock()
			}
		})
	}
	asking.Wait()
	f.printf("%d devices, %d answers\n", len(ids), answers)
	return nil
}

// askOne sends one command, and reports whether it was answered.
func (f *fleet) askOne(ctx context.Context, id, command string) bool {
	r, err := f.beeline.Command(ctx, id, &messagingv1.Message{Topic: command}, beeline.CommandOptions{Timeout: timeout})
	switch status.Code(err) {
	case codes.OK:
		f.printf("%s: %s (%d µs)\n", id, r.GetMessage().GetPayload(), r.GetRoundTripUs())
	case codes.NotFound, codes.FailedPrecondition:
		f.printf("%s: gone meanwhile\n", id)
	case codes.DeadlineExceeded:
		f.printf("%s: no answer in time; it may have done it all the same\n", id)
	default:
		f.printf("%s: %v\n", id, err)
	}
	return err == nil
}
