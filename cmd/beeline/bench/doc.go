// Package bench puts load on an MQTT broker, checks everything that comes back, and measures: delays, and what
// processes of this machine use meanwhile. It owns the scenarios, a small MQTT client that is cheap enough to share
// the machine with what it measures, and the result; flags and output streams are its caller's. It knows nothing
// about Beeline: any broker will do.
//
// Each connection has one goroutine that reads it. Publishers have none that writes: a pacer writes for all of them
// when their messages are due, and the reader of a publisher when an acknowledgement lets it go on. Whoever starts a
// goroutine waits for it before Run returns.
package bench
