// Package beeline is for services that talk to the devices of a Beeline cluster: they publish, send, command, subscribe and
// watch who is there.
//
// [Dial] connects to a router, any router. Plain calls are methods of [Client]; what is a stream underneath, with everything
// that goes with it, is a [Publisher], [Client.Subscribe] and [Client.WatchPresence]: these connect again by themselves, and
// say what is not known when a connection breaks. Groups and everything that operators do are calls of the generated clients:
// [Client.Groups], [Client.Admin], [Client.Gateways], [Client.Placement].
//
// Errors of calls are gRPC statuses: status.Code(err) says which kind it is, also where a function here has said what it was doing.
package beeline
