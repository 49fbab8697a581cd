// Package splice passes bytes both ways between the connection of a client and the one to its node until both
// directions have ended. It owns the two connections meanwhile, knows no MQTT, and logs nothing: a Result says what
// has passed and why it ended.
//
// Between plain TCP connections few bytes, as most MQTT packets are, are read into a buffer and written from it: two
// system calls. When they fill the buffer, what follows stays in the kernel (splice(2), through a pipe) until there is
// no more: that saves the copies, but moves pages, and takes a message of some hundred bytes longer. All others, TLS and
// WebSocket, are copied always. Nothing queues in between: what one side does not take, the other is not asked for.
// Pipes and buffers are lent by a Pool, and whoever waits for bytes holds none of either. Two exceptions: below TLS and
// WebSocket there is no telling whether a read would wait, so the direction from such a connection waits with 512 bytes
// of its own, and with a buffer after a read that ended just where those did, until the next byte comes; and what is
// being written to a connection that does not take it is held until it does, which is 64 KiB in a pipe or 16 KiB in a
// buffer.
//
// What one pair costs while it is idle, taken by TestAPairCosts from 1,000 of them after a few bytes both ways, on
// Linux 6.18 with Go 1.26. Memory is the heap and stacks; it is less in fact, for the far ends, which the test holds
// too, are in it.
//
//	                       descriptors   memory
//	plain TCP                        2    9.4 kB
//	TLS from the client              2   18.8 kB
//
// The kernel's memory for sockets is not in it. Pipes do not belong to pairs: those of a Pool stay open, two
// descriptors each, and are as many as directions were busy at once, at most as many as the Pool may have. Beyond that
// bytes are copied. So 1,048,576 open files are enough for 524,288 pairs less the pipes and what else the process has
// open: 523,000 with a Pool of 1,024 pipes. (With two pipes for every pair, as package net would hold them, it would be
// 174,762.) A user without privileges gets pipes of 64 KiB for the first 1,024, and smaller ones beyond
// (fs.pipe-user-pages-soft).
//
// Each pair is on the caller's goroutine and one more, and all functions may be called by many goroutines.
package splice

import (
	"context"
	"net"
	"time"
)

// Options of a pair. Pool is required.
type Options struct {
	// Pool lends what bytes pass through. One is enough for a process.
	Pool *Pool
	// Idle ends a pair on which no byte has passed either way for so long; 0: never. It is to be longer than the
	// longest keep-alive: a peer that is gone without a word is found by it only.
	Idle time.Duration
	// Linger is for a connection that cannot be closed one way (it has no CloseWrite): how long what it sends is still
	// passed on after the other side has closed. 0: not at all.
	Linger time.Duration
}

// Result of a Join.
type Result struct {
	// ToNode and ToClient are the bytes written to each. Spliced are those among both that have not left the kernel.
	ToNode, ToClient, Spliced int64
	// Ended is what ended the pair, or began to: of several reasons the first.
	Ended Ended
	// Err says more when a side has failed, and is the cause of the context when that is done. Otherwise nil.
	Err error
}

// Ended is the reason why a pair has ended.
type Ended int

const (
	ClientClosed Ended = iota + 1 // the client has closed, at least its half
	NodeClosed                    // the node has
	ClientFailed                  // reading from the client, or writing to it, has failed: a reset mostly
	NodeFailed                    // the same with the node
	Idled                         // no byte for as long as Options.Idle
	Cancelled                     // the context was done
)

// String returns a word for metrics and logs.
func (e Ended) String() string {
	//exhaustive:enforce
	switch e {
	case ClientClosed:
		return "client_closed"
	case NodeClosed:
		return "node_closed"
	case ClientFailed:
		return "client_failed"
	case NodeFailed:
		return "node_failed"
	case Idled:
		return "idle"
	case Cancelled:
		return "cancelled"
	}
	return "unknown"
}

// New makes a pair of two connections, which are the pair's from then on. Join is to follow.
//
// Only a *net.TCPConn and a *tcp.Conn are known as plain TCP, so a type that embeds one is copied from. What the
// caller has read from a connection, it has to have passed on. Deadlines that are set are taken away.
//
// A ctx that is done ends the pair, before Join too.
func New(ctx context.Context, client, node net.Conn, o Options) *Pair {
	p := &Pair{
		opts:   o,
		client: newSide("client", client, ClientClosed, ClientFailed),
		node:   newSide("node", node, NodeClosed, NodeFailed),
		begun:  time.Now(),
	}
	p.toNode = direction{pair: p, from: &p.client, to: &p.node}
	p.toClient = direction{pair: p, from: &p.node, to: &p.client}
	p.watch(ctx)
	return p
}

// Join passes bytes both ways, and returns when both directions have ended. Both connections are closed then; no
// goroutine is left. It is called once.
//
// When one side ends what it sends, the other is told by CloseWrite, and may go on sending; without a CloseWrite it
// may for Options.Linger. That a TLS connection ends without a goodbye is no error: many devices do not say it, and
// MQTT packets have lengths. Any error, and a context that is done, closes both at once. Below TLS the socket is closed
// then (NetConn); the Close of other types must not wait.
//
// It takes little of the caller's stack, and so does what runs beside it: a pair is idle for most of its time, and two
// stacks that have once grown are what it would cost most.
func (p *Pair) Join() *Result {
	p.other.Go(p.toClient.run)
	p.toNode.run()
	p.other.Wait()
	return p.result()
}
