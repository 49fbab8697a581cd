package beeline_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/beeline-mqtt/beeline/api/beeline"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

func ExampleDial() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := beeline.Dial(ctx, "router.example.com:7950", beeline.Options{CAFile: "ca.crt", TokenFile: "token"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	r, err := c.Send(ctx, beeline.ToUser("ann"), &messagingv1.Message{Topic: "note", Payload: []byte("hello")}, beeline.SendOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, receipt := range r.GetReceipts() {
		fmt.Println(receipt.GetClientId(), receipt.GetOutcome())
	}
}

func ExampleClient_Publisher() {
	var c *beeline.Client // of Dial
	ctx := context.Background()
	p := c.Publisher(beeline.PublisherOptions{})
	var all []*beeline.Pending
	for i := range 1000 {
		x, err := p.Publish(ctx, &messagingv1.Message{Topic: fmt.Sprintf("meters/%d/set", i), Payload: []byte("on")})
		if err != nil {
			fmt.Println(err)
			continue
		}
		all = append(all, x)
	}
	for i, x := range all {
		var refused *beeline.PublishError
		switch matched, err := x.Wait(ctx); {
		case errors.Is(err, beeline.ErrUnknownOutcome):
			fmt.Println(i, "may have been published: publish it again if a second copy does no harm")
		case errors.As(err, &refused):
			fmt.Println(i, "was refused:", refused.Reason)
		case err == nil && !matched:
			fmt.Println(i, "went to nobody")
		}
	}
	if err := p.Close(ctx); err != nil {
		fmt.Println(err)
	}
}

func ExampleClient_Subscribe() {
	var c *beeline.Client // of Dial
	ctx := context.Background()
	s := beeline.Subscription{Filters: []string{"meters/+/reading"}, DurableName: "billing", Concurrency: 8}
	err := c.Subscribe(ctx, s, func(_ context.Context, m *messagingv1.ReceivedMessage) error {
		fmt.Printf("%s: %s\n", m.GetMessage().GetTopic(), m.GetMessage().GetPayload())
		return nil // it is acknowledged now
	})
	if err != nil {
		fmt.Println(err)
	}
}

func ExampleClient_WatchPresence() {
	var c *beeline.Client // of Dial
	ctx := context.Background()
	err := c.WatchPresence(ctx, beeline.PresenceOptions{ClientIDPrefix: "meter-"}, func(events []*messagingv1.PresenceEvent, _ string) error {
		for _, e := range events {
			fmt.Println(e.GetClientId(), e.GetKind(), e.GetReason())
		}
		return nil
	})
	if errors.Is(err, beeline.ErrMissedEvents) {
		fmt.Println("list the clients, and watch from now on")
	}
}
