//go:build linux

package faults

import (
	"slices"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/beeline-mqtt/beeline/api/beeline"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// commanded is a Command that is under way.
type commanded struct {
	name     string
	began    time.Time
	done     chan struct{} // closed with the following
	took     time.Duration
	response *messagingv1.CommandResponse
	err      error
}

func (b *backend) command(clientID, payload string, o beeline.CommandOptions) *commanded {
	x := &commanded{name: payload, began: time.Now(), done: make(chan struct{})}
	ctx := b.within(o.Timeout + patience)
	go func() {
		defer close(x.done)
		x.response, x.err = b.Command(ctx, clientID, text("do", payload), o)
		x.took = time.Since(x.began)
	}()
	return x
}

// failed waits for the end of a command and fails the test unless it is this one, with a receipt of that outcome.
func (x *commanded) failed(t testing.TB, code codes.Code, says string, outcome messagingv1.Outcome) {
	t.Helper()
	<-x.done
	hasStatus(t, x.name, x.err, code, says)
	var receipt *messagingv1.Receipt
	for _, d := range status.Convert(x.err).Details() {
		if r, ok := d.(*messagingv1.Receipt); ok {
			receipt = r
		}
	}
	if receipt.GetOutcome() != outcome {
		t.Errorf("%s: %v with the receipt %v, want %v", x.name, x.err, receipt, outcome)
	}
}

// answered waits for the answer to a command, which has to be what it says.
func (x *commanded) answered(t testing.TB) {
	t.Helper()
	<-x.done
	if x.err != nil || string(x.response.GetMessage().GetPayload()) != x.name {
		t.Errorf("%s: %v, %v", x.name, x.response, x.err)
	}
}

// Devices are commanded whose gateway is killed before they answer, and after.
func TestAGatewayIsKilledBeforeItsDevicesAnswerCommands(t *testing.T) {
	b := serve(t)
	entry := b.entry()
	near := connect(t, b.c.Gateways[entry].MQTT, rawmqtt.V5, "near")
	line := b.commands(near)
	victim := slices.IndexFunc([]int{0, 1, 2}, func(i int) bool { return i != entry && i != line })
	goroutines := b.c.Router.Metric(t, "go_goroutines")

	at := b.c.Gateways[victim].MQTT
	passing := connect(t, at, rawmqtt.V5, "passing")
	returning := connect(t, at, rawmqtt.V5, "returning", rawmqtt.Durable(3600))
	given := make(chan packets.Packet, 2)
	returning.hear(func(pk packets.Packet) { given <- pk })
	connect(t, at, rawmqtt.V5, "leaving", rawmqtt.Durable(3600))
	soon, late := beeline.CommandOptions{Timeout: b.c.TTL / 2}, beeline.CommandOptions{Timeout: 3 * b.c.TTL}
	had := []*commanded{b.command("passing", "had, soon", soon), b.command("returning", "had, late", late)}
	passing.receive("p2p/passing/do", "had, soon")
	command := <-given
	// When it is known that the device has acknowledged what came later, it is known of the command.
	if r, err := b.Send(b.within(patience), beeline.ToClient("returning"), text("t", ""), beeline.SendOptions{Wait: messagingv1.Wait_WAIT_ACKNOWLEDGED}); err != nil {
		t.Fatal(r, err)
	}
	other := b.chore("Command to near", pace, func(int) error {
		_, err := b.Command(b.within(patience), "near", text("do", "now"), beeline.CommandOptions{})
		return err
	})
	other.more(5)
	b.c.Gateways[victim].Kill(t)
	killed := time.Now()

	// Nobody knows yet that the gateway is dead.
	early := b.command("passing", "early, soon", soon)
	awaiting := []*commanded{b.command("passing", "early, late", late), b.command("leaving", "early, late", late)}
	had[0].failed(t, codes.DeadlineExceeded, "has not answered in time", messagingv1.Outcome_OUTCOME_DELIVERED)
	within(t, had[0].name, had[0].took, soon.Timeout+sendGrace)
	<-early.done
	hasStatus(t, early.name, early.err, codes.DeadlineExceeded, "")
	within(t, early.name, early.took, soon.Timeout+sendGrace)
	awaiting[0].failed(t, codes.FailedPrecondition, "is away", messagingv1.Outcome_OUTCOME_OFFLINE)
	awaiting[1].failed(t, codes.FailedPrecondition, "is kept for it until it expires", messagingv1.Outcome_OUTCOME_QUEUED)
	within(t, "it is known that devices are away, after the kill", time.Since(killed), b.c.TTL+slack)
	b.command("passing", "afterwards", soon).failed(t, codes.NotFound, "is not known", messagingv1.Outcome_OUTCOME_UNKNOWN)
	other.untouched(slack)

	// What is kept comes, as long as somebody waits for the answer.
	connect(t, b.c.Gateways[entry].MQTT, rawmqtt.V5, "leaving", rawmqtt.Durable(3600)).receive("p2p/leaving/do", "early, late")

	// A device that was given a command, and has acknowledged it, answers when it is back.
	connect(t, b.c.Gateways[entry].MQTT, rawmqtt.V5, "returning", rawmqtt.Durable(3600)).answerCommand(command)
	had[1].answered(t)
	b.settled(goroutines)
}

// The gateway is killed to which answers go.
func TestTheGatewayOfAnswersIsKilled(t *testing.T) {
	b := serve(t)
	entry := b.entry()
	at := b.c.Gateways[entry].MQTT
	near := connect(t, at, rawmqtt.V5, "near")
	line := b.commands(near)
	if line == entry {
		t.Fatalf("gateway %d has both", line)
	}
	goroutines := b.c.Router.Metric(t, "go_goroutines")

	given := make(chan packets.Packet, 1)
	slow := connect(t, at, rawmqtt.V5, "slow").hear(func(pk packets.Packet) { given <- pk })
	old := connect(t, at, rawmqtt.V311, "old")
	o := beeline.CommandOptions{Timeout: 3 * b.c.TTL}
	late := b.command("slow", "late", o)
	o.ReplyTopic = "answers/of/old"
	lost := b.command("old", "lost", o)
	command := <-given
	old.receive("p2p/old/do", "lost")
	commandNear := func(int) error {
		_, err := b.Command(b.within(patience), "near", text("do", "now"), beeline.CommandOptions{Timeout: 3 * b.c.TTL})
		return err
	}
	during := b.chore("Command to near", pace, commandNear)
	during.more(5)
	b.c.Gateways[line].Kill(t)
	killed := time.Now()

	lost.failed(t, codes.Unavailable, "is lost", messagingv1.Outcome_OUTCOME_DELIVERED)
	within(t, "it is known that there will be no answer, after the kill", time.Since(killed), slack)
	slow.answerCommand(command)
	// What near has answered to the dead gateway is not acknowledged, and nothing that it answers later before that: it answers
	// less than the Receive Maximum meanwhile.
	afterwards := b.chore("Command to near, afterwards", 10*pace, commandNear)
	afterwards.more(20)
	late.answered(t)
	within(t, "there is the answer to the command from before, after the kill", time.Since(killed), b.c.TTL+slack)
	afterwards.untouched(slack)
	during.untouched(b.c.TTL + slack) // the device had one of them when the gateway died
	b.settled(goroutines)
}
