package router

import (
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

// messaging is the MessagingService, of its parts.
type messaging struct {
	messagingv1.UnsafeMessagingServiceServer
	unserved
	*subscribing
	*commanding
}

// unserved refuses what no part serves.
type unserved struct {
	messagingv1.UnimplementedMessagingServiceServer
}
