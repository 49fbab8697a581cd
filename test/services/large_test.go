package services

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

// More is kept than a stream reads ahead: what the gateway answers while it opens comes behind it.
func TestADurableStreamOpensOnALargeBacklog(t *testing.T) {
	r := start(t, 1)
	c := r.open(&messagingv1.SubscribeRequest_Open{Filters: filters("t", "u"), DurableName: "billing"})
	_ = c.CloseSend()
	c.ends(codes.OK)
	d := r.connect("device", 0, nil)
	const many = 40
	for range many {
		d.publish("t", strings.Repeat("x", 1<<20), 1, nil)
	}
	c = r.open(&messagingv1.SubscribeRequest_Open{Filters: filters("t"), DurableName: "billing"})
	for i := range many {
		m, err := c.next()
		if err != nil {
			t.Fatalf("after %d: %v", i, err)
		}
		c.acknowledge(m.GetDeliveryId())
	}
}
