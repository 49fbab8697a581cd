// Package engine is the MQTT session as a pure state machine: what the server owes a client, and what it owes
// that client's own messages.
//
// Outbound, it owns the queue, the window of deliveries in flight, their packet identifiers and the QoS 1 and
// QoS 2 handshakes. Inbound, it owns the identifiers of the messages that the client has published, and the
// order of their acknowledgements. It does not own subscriptions, wills, bytes or sockets; nothing in it knows
// the time except by the now that it is given.
//
// Calls go in, effects are fetched:
//
//	Offer, Acked             may make packets due           ->  Next
//	Published, Forwarded     may make acknowledgements due  ->  NextAck
//	Offer, Next, Acked, End  may settle tickets             ->  Settled
//
// After a call its caller fetches what can have become due. Packets must be written in the order in which they are
// fetched: that is the order of delivery (MQTT-4.6.0-5) and of acknowledgements (MQTT-4.6.0-2, MQTT-4.6.0-3).
//
// A durable session, which comes from Resume, goes on over the next connection. What must survive is written down
// elsewhere, in the words of internal/journal: the engine says what and when, and its caller writes it. A client
// that acknowledges promptly costs no write: see Resume.
//
// A Session is not safe for concurrent use: its caller holds one lock per session around every call. There is
// no goroutine, no clock, no input or output and no logging in here.
package engine
