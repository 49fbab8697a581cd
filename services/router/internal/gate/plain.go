package gate

import (
	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

// Bounds of the contract.
const (
	mostMessages   = 1000
	mostText       = 65535
	mostProperties = 100
)

// plain reports whether a request is right by the rules of its proto, at a fraction of what it costs to interpret these. It
// may say no of one that is right, and never yes of one that is not: a test has both judge the same requests.
func plain(r *messagingv1.PublishStreamRequest) bool {
	n := len(r.GetMessages())
	if n == 0 || n > mostMessages {
		return false
	}
	for _, m := range r.GetMessages() {
		if t := len(m.GetTopic()); t == 0 || t > mostText {
			return false
		}
		if _, defined := messagev1.Qos_name[int32(m.GetQos())]; !defined {
			return false
		}
		if _, defined := messagev1.PayloadFormat_name[int32(m.GetPayloadFormat())]; !defined {
			return false
		}
		if len(m.GetContentType()) > mostText || len(m.GetResponseTopic()) > mostText ||
			len(m.GetCorrelationData()) > mostText || len(m.GetUserProperties()) > mostProperties {
			return false
		}
	}
	return true
}
