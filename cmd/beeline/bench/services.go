package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/beeline-mqtt/beeline/api/beeline"
	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

// Services is what a service asks of a router, with devices at the gateways: messages published on a stream, messages sent to
// a group, commands, and messages that devices publish.
type Services struct {
	Config

	Client *beeline.Client
	// Devices are spread over the brokers.
	Devices int
	// Parallel is how many commands are under way at once, and how many messages of a publisher have no result.
	Parallel int
	// Size is that of payloads, in bytes.
	Size int
}

func (s *Services) check(devices int) error {
	switch {
	case s.Devices < devices:
		return fmt.Errorf("devices: at least %d", devices)
	case s.Parallel < 1:
		return errors.New("parallel: at least 1")
	case s.Size < 1:
		return errors.New("size: at least 1")
	}
	return s.Config.check(s.Devices)
}

// measure charges what f has done, as so many operations, to the processes.
func (s *Services) measure(scenario string, h *histogram, f func() (sent, delivered int64, err error)) (*Result, error) {
	before, err := takeAccount(s.Processes)
	if err != nil {
		return nil, err
	}
	sent, delivered, err := f()
	if err != nil {
		return nil, err
	}
	after, err := takeAccount(s.Processes)
	if err != nil {
		return nil, err
	}
	seconds := after.at.Sub(before.at).Seconds()
	r := &Result{
		Scenario: scenario, Seconds: math.Round(seconds*1000) / 1000, Sent: uint64(sent), Delivered: uint64(delivered),
		DeliveryRate: tenths(float64(delivered) / seconds), Latency: latencies(h),
	}
	r.Lost = r.Sent - min(r.Sent, r.Delivered)
	r.charge(s.Processes, before, before, after, delivered)
	return r, nil
}

// Publish has one stream publish at QoS 1 for the duration; one device, if there is any, gets the messages. Latency is that of
// results.
func (s Services) Publish(ctx context.Context) (*Result, error) {
	if err := s.check(0); err != nil {
		return nil, err
	}
	topic := "bench/" + s.Prefix
	d, err := s.connect(ctx, func(c *conn, _ int) error { return c.subscribe(topic, 1) }, nil)
	if err != nil {
		return nil, err
	}
	defer d.close()
	var h histogram
	return s.measure("publish", &h, func() (sent, delivered int64, err error) {
		p := s.Client.Publisher(beeline.PublisherOptions{MaxInFlight: s.Parallel})
		var waiting sync.WaitGroup
		var answered atomic.Int64
		results := make(chan *pendingMessage, s.Parallel)
		waiting.Go(func() {
			for x := range results {
				if _, err := x.result.Wait(ctx); err == nil {
					answered.Add(1)
					h.add(time.Since(x.began))
				}
			}
		})
		payload, end := make([]byte, s.Size), time.Now().Add(s.Duration)
		for ; ctx.Err() == nil && time.Now().Before(end) && err == nil; sent++ {
			x := &pendingMessage{began: time.Now()}
			m := &messagingv1.Message{Topic: topic, Payload: payload, Qos: messagev1.Qos_QOS_AT_LEAST_ONCE}
			if x.result, err = p.Publish(ctx, m); err == nil {
				results <- x
			}
		}
		close(results)
		waiting.Wait()
		return sent, answered.Load(), errors.Join(err, p.Close(ctx))
	})
}

type pendingMessage struct {
	began  time.Time
	result *beeline.Pending
}

// Send has messages sent to a group of all devices for the duration, one after the other, each until all devices have acknowledged it. An
// operation is one delivery; latency is that of a whole Send.
func (s Services) Send(ctx context.Context) (*Result, error) {
	if err := s.check(1); err != nil {
		return nil, err
	}
	d, err := s.connect(ctx, nil, nil)
	if err != nil {
		return nil, err
	}
	defer d.close()
	group := "bench-" + s.Prefix
	if err := s.group(ctx, group); err != nil {
		return nil, err
	}
	defer func() {
		_, _ = s.Client.Groups().DeleteGroup(context.WithoutCancel(ctx), &messagingv1.DeleteGroupRequest{Name: group})
	}()
	var h histogram
	return s.measure("send", &h, func() (sent, delivered int64, err error) {
		for end := time.Now().Add(s.Duration); time.Now().Before(end); {
			began := time.Now()
			r, err := s.Client.Send(ctx, beeline.ToGroup(group), &messagingv1.Message{Topic: "x", Payload: make([]byte, s.Size)},
				beeline.SendOptions{Wait: messagingv1.Wait_WAIT_ACKNOWLEDGED, Timeout: patience, SummaryOnly: true})
			if err != nil {
				return sent, delivered, err
			}
			h.add(time.Since(began))
			sent += int64(s.Devices)
			for _, c := range r.GetCounts() {
				if c.GetOutcome() == messagingv1.Outcome_OUTCOME_ACKNOWLEDGED {
					delivered += int64(c.GetReceivers())
				}
			}
		}
		return sent, delivered, nil
	})
}

// membersTogether is how many members are added at once.
const membersTogether = 5000

// group makes a group of all devices.
func (s *Services) group(ctx context.Context, name string) error {
	if _, err := s.Client.Groups().CreateGroup(ctx, &messagingv1.CreateGroupRequest{Name: name}); err != nil {
		return fmt.Errorf("create group: %w", err)
	}
	for first := 0; first < s.Devices; first += membersTogether {
		r := &messagingv1.AddMembersRequest{Group: name}
		for i := first; i < min(first+membersTogether, s.Devices); i++ {
			r.Members = append(r.Members, &messagingv1.Member{Member: &messagingv1.Member_ClientId{ClientId: s.device(i)}})
		}
		if _, err := s.Client.Groups().AddMembers(ctx, r); err != nil {
			return fmt.Errorf("add members: %w", err)
		}
	}
	return nil
}

// Command has devices of MQTT 5 answer commands for the duration.
func (s Services) Command(ctx context.Context) (*Result, error) {
	s.Login.V5 = true
	if err := s.check(1); err != nil {
		return nil, err
	}
	d, err := s.connect(ctx, nil, reply)
	if err != nil {
		return nil, err
	}
	defer d.close()
	var h histogram
	return s.measure("command", &h, func() (int64, int64, error) {
		var sent, answered atomic.Int64
		end := time.Now().Add(s.Duration)
		err := forEach(ctx, s.Parallel, make(slots, s.Parallel), func(ctx context.Context, worker int) error {
			for i := worker; time.Now().Before(end) && ctx.Err() == nil; i += s.Parallel {
				began := time.Now()
				sent.Add(1)
				m := &messagingv1.Message{Topic: "read", Payload: make([]byte, s.Size)}
				if _, err := s.Client.Command(ctx, s.device(i%s.Devices), m, beeline.CommandOptions{}); err != nil {
					return err
				}
				h.add(time.Since(began))
				answered.Add(1)
			}
			return nil
		})
		return sent.Load(), answered.Load(), err
	})
}

// Subscribe has devices publish at QoS 1, Parallel messages each without an acknowledgement, to one subscription of the service,
// which acknowledges each. Latency is from a message's publication to the service.
func (s Services) Subscribe(ctx context.Context) (*Result, error) {
	s.Size = max(s.Size, MinSize)
	if err := s.check(1); err != nil {
		return nil, err
	}
	topic := "bench/" + s.Prefix
	began := time.Now()
	var h histogram
	var delivered atomic.Int64
	subscribed, opened := make(chan error, 1), make(chan struct{})
	listening, stop := context.WithCancel(ctx)
	defer stop()
	var running sync.WaitGroup
	running.Go(func() {
		subscribed <- s.Client.Subscribe(listening, beeline.Subscription{
			Filters: []string{topic}, MaxUnacknowledged: 5000, Concurrency: 1, OnOpen: func(bool) { close(opened) },
		}, func(_ context.Context, m *messagingv1.ReceivedMessage) error {
			if x, ok := readStamp(m.GetMessage().GetPayload()); ok {
				h.add(time.Since(began) - x.due)
			}
			delivered.Add(1)
			return nil
		})
	})
	defer running.Wait()
	defer stop()
	select {
	case <-opened:
	case err := <-subscribed:
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	return s.measure("subscribe", &h, func() (int64, int64, error) {
		sent, err := s.publish(ctx, topic, began)
		for quiet := time.Now().Add(defaultQuiet); err == nil && delivered.Load() < sent && time.Now().Before(quiet); {
			time.Sleep(time.Millisecond)
		}
		return sent, delivered.Load(), err
	})
}
