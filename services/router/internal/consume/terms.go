package consume

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/services/router/internal/envelope"
)

// terms are what a stream asks for, as MQTT has it.
type terms struct {
	clientID       string
	durable        bool
	expiry         uint32
	unacknowledged int
	filters        []packet.Filter
	asked          *topic.Map[struct{}] // filters without their groups
}

// Retain Handling (3.8.3.1).
const (
	retainedAlways = 0
	retainedIfNew  = 1
	retainedNever  = 2
)

// termsOf checks what a stream of a caller asks for. Errors name the field.
func termsOf(o *messagingv1.SubscribeRequest_Open, caller string) (terms, error) {
	t := terms{unacknowledged: defaultUnacknowledged, clientID: transientID(), asked: new(topic.Map[struct{}])}
	if n := o.GetMaxUnacknowledged(); n > 0 {
		t.unacknowledged = int(min(n, mostUnacknowledged))
	}
	for key, name := range map[string]string{"consumer_group": o.GetConsumerGroup(), "durable_name": o.GetDurableName()} {
		if len(name) > 256 || strings.ContainsAny(name, "/+#\x00") {
			return t, fmt.Errorf("open.%s: must be at most 256 bytes, without / + # and NUL", key)
		}
	}
	if name := o.GetDurableName(); name != "" {
		// The name is the caller's own: nobody else goes on where it has stopped. It has no slash.
		t.durable, t.clientID = true, message.ServicePrefix+"durable-"+name+"/"+caller
		t.expiry = cmp.Or(o.GetDurableExpirySeconds(), defaultExpiry)
	}
	if n := len(o.GetFilters()); n < 1 || n > mostFilters {
		return t, fmt.Errorf("open.filters: must be 1 to %d, are %d", mostFilters, n)
	}
	handling := byte(retainedNever)
	switch {
	case o.GetWithRetained() && t.durable:
		handling = retainedIfNew
	case o.GetWithRetained():
		handling = retainedAlways
	}
	for i, f := range o.GetFilters() {
		x, err := filterOf(f, o.GetConsumerGroup())
		if err != nil {
			return t, fmt.Errorf("open.filters[%d].%w", i, err)
		}
		x.Options.RetainHandling = handling
		t.filters = append(t.filters, x)
		t.asked.Add(f.GetFilter())
	}
	return t, nil
}

// errShared: $share where it is not written.
var errShared = errors.New("filter: begins with $share: use consumer_group")

// anyLength are limits that no filter is beyond: the gateway has its own.
var anyLength = topic.Limits{Bytes: 65535, Levels: 65535, LevelBytes: 65535} //nolint:gochecknoglobals // nobody changes it

func filterOf(f *messagingv1.SubscribeRequest_Filter, group string) (packet.Filter, error) {
	qos, err := envelope.QoS(f.GetQos())
	if err != nil {
		return packet.Filter{}, err
	}
	if err := topic.ValidateFilter(f.GetFilter(), anyLength); err != nil {
		return packet.Filter{}, fmt.Errorf("filter: %w", err)
	}
	if strings.HasPrefix(f.GetFilter(), "$share/") {
		return packet.Filter{}, errShared
	}
	x := packet.Filter{Filter: f.GetFilter(), Options: subscriptions.Options{QoS: qos, RetainAsPublished: true}}
	if group != "" {
		x.Filter = topic.Shared{Group: group, Filter: x.Filter}.String()
	}
	return x, nil
}

// leftovers are those of the subscriptions of a session that its stream does not ask for, and whether shared ones are among
// them. One of the same filter in another group, or in none, is another one.
func (t terms) leftovers(subscriptions []string) (left []string, shared bool) {
	for _, f := range subscriptions {
		if slices.ContainsFunc(t.filters, func(x packet.Filter) bool { return x.Filter == f }) {
			continue
		}
		_, isShared, _ := topic.ParseShared(f) // valid: the session has it
		left, shared = append(left, f), shared || isShared
	}
	return left, shared
}

// connect is the CONNECT of the session.
func (t terms) connect() packet.Connect {
	return packet.Connect{
		ClientID: t.clientID, CleanStart: !t.durable, SessionExpiry: t.expiry, HasSessionExpiry: t.durable,
		ReceiveMaximum: uint16(t.unacknowledged),
	}
}
