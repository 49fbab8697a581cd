// Package services has the tests of what a cluster does for backends: they call a router over gRPC, with devices at several
// gateways, each speaking MQTT with a library that is not ours.
package services
