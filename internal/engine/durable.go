package engine

import (
	"time"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
)

// durable is the outbound half of a durable session.
type durable[T comparable] struct {
	outbound[T]
	spilled, paging, away bool
	taken                 map[uint16]taking
	seen                  seen
}

type taking struct{ id message.ID }

type seen struct{ off bool }

func newDurable[T comparable](l Limits, _ journal.State) *durable[T] {
	return &durable[T]{outbound: outbound[T]{limits: l}}
}

func (d *durable[T]) changes(_, _ time.Time, dst []journal.Change) []journal.Change { return dst }

func (d *durable[T]) unsafe() (oldest time.Time, ok bool) { return time.Time{}, false }

func (d *durable[T]) written(int, *inbound) {}

func (d *durable[T]) wanted() (journal.Position, bool) { return 0, false }

func (d *durable[T]) page([]journal.Entry) {}

func (d *durable[T]) took(uint16, message.ID, *inbound) {}

func (d *durable[T]) drainReady(dst []uint16) []uint16 { return dst }

func (d *durable[T]) release(uint16, *inbound) (packet.Ack, bool) { return packet.Ack{}, false }

func (d *durable[T]) suspend(_ time.Time, dst []journal.Change) []journal.Change { return dst }

func (d *durable[T]) finish(Outcome) {}
