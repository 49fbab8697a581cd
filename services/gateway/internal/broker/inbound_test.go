package broker

import (
	"reflect"
	"testing"

	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/message"
)

func TestWhatAPeerIsAnsweredAtOnce(t *testing.T) {
	g := start(t, 1, options{})[0]
	g.connect(v5, "x")      // epoch 1
	x := g.connect(v5, "x") // epoch 2
	x.MustSubscribe("a", 1)
	client := func(id string, epoch uint64) mesh.Target {
		return mesh.Target{Kind: mesh.TargetClient, ClientID: id, Epoch: epoch}
	}
	gone := func(id string) mesh.Receipt { return mesh.Receipt{Outcome: mesh.NotHolder, ClientID: id} }
	queued := mesh.Receipt{Outcome: mesh.Queued}
	tests := []struct {
		name   string
		target mesh.Target
		topic  string
		want   mesh.Receipt
	}{
		{"subscribers", mesh.Target{}, "a", queued},
		{"no subscriber any more", mesh.Target{}, "b", queued},
		{"its client", client("x", 2), "p2p/x/n", queued},
		{"its client, found under an earlier connection", client("x", 1), "p2p/x/n", queued},
		{"its client, found here before it came back from elsewhere", client("x", 0), "p2p/x/n", gone("x")},
		{"its client, found at an epoch that it does not know of", client("x", 3), "p2p/x/n", gone("x")},
		{"another client", client("y", 1), "p2p/y/n", gone("y")},
		{"a group without members here", mesh.Target{Kind: mesh.TargetShare, Group: "g", Filter: "a"}, "a", mesh.Receipt{Outcome: mesh.NoMember}},
		{"a target of a later protocol", mesh.Target{Kind: 99}, "a", mesh.Receipt{Outcome: mesh.Refused}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for qos := range byte(3) {
				in := g.Accept("peer")
				m := &message.Message{Topic: tt.topic, QoS: qos, Payload: []byte("m")}
				got := in.Deliver(mesh.Delivery{Target: tt.target, Message: m}, mesh.Later{})
				in.Flush()
				in.Close()
				if !reflect.DeepEqual(got, tt.want) {
					t.Errorf("QoS %d: %+v, want %+v", qos, got, tt.want)
				}
				if tt.want.Outcome == mesh.Queued && tt.topic != "b" {
					x.ReceivePayload("m")
				}
			}
			x.ExpectNothing()
		})
	}
}
