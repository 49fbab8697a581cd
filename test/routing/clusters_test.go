//go:build linux

package routing

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/eclipse/paho.mqtt.golang/packets"

	adminv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/admin/v1"
	"github.com/beeline-mqtt/beeline/test/clustertest"
)

// live has two devices talk with each other through the router, and one come back to its session.
func live(t *testing.T, f *front, prefix, username string, versions []int) {
	t.Helper()
	for i, version := range versions {
		for j, transport := range []string{"TCP", "TLS", "WebSocket"} {
			name := fmt.Sprintf("%s%d-%s", prefix, version, transport)
			login := func(role string) login { return login{id: name + "-" + role, username: username, transport: transport} }
			c := f.connect(version, login("subscriber"))
			// Another version, by another way.
			p := f.connect(versions[(i+1)%len(versions)], login("publisher"))
			for qos := range byte(3) {
				topic := fmt.Sprintf("%s/%d", name, qos)
				c.subscribe(topic, qos)
				for _, payload := range []string{"", "x", strings.Repeat("y", 100_000+j)} {
					p.publish(topic, payload, qos)
					c.receive(topic, payload, qos)
				}
			}
			stays := login("returns")
			stays.stays = true
			away := f.connect(version, stays).subscribe(name+"/kept", 1)
			away.leave()
			p.publish(name+"/kept", "meanwhile", 1)
			back := f.connect(version, stays)
			if !back.present && version != v31 { // MQTT 3.1 has no word for it
				t.Errorf("%s: no session is there", name)
			}
			back.receive(name+"/kept", "meanwhile", 1)
			for _, d := range []*device{c, p, back} {
				d.leave()
			}
		}
	}
}

func TestClientsGoThroughTheRouterToAClusterOfOurs(t *testing.T) {
	f := open(t, 2)
	live(t, f, "device-", "", []int{v311, v5})
	// The gateways do not speak the oldest version, and it is their answer that comes.
	err := (&device{t: t}).connect3(f, v31, login{id: "old"})
	if !errors.Is(err, packets.ErrorRefusedBadProtocolVersion) {
		t.Errorf("MQTT 3.1: %v", err)
	}
}

func TestClientsGoThroughTheRouterToMosquitto(t *testing.T) {
	broker := mosquitto(t)
	f := open(t, 1)
	f.add("old", broker)
	f.assign("old", adminv1.Rule_RULE_CLIENT_ID_PREFIX, "meter-")
	live(t, f, "meter-", "", []int{v31, v311, v5})
}

// Three clusters behind one router: whoever belongs to one hears nothing of the others, by whatever rule it belongs there.
func TestClientsOfOneClusterReachNobodyInAnother(t *testing.T) {
	f, beside := open(t, 2), clustertest.Start(t, 2, nil)
	f.add("beside", beside.MQTT(0), beside.MQTT(1))
	f.assign("beside", adminv1.Rule_RULE_CLIENT_ID_PREFIX, "beside-")
	f.assign("beside", adminv1.Rule_RULE_USERNAME, "tenant")
	live(t, f, "beside-", "", []int{v311, v5})
	live(t, f, "any-", "tenant", []int{v311, v5})

	type side struct {
		name    string
		devices []*device
	}
	sides := []*side{{name: "ours"}, {name: "beside"}}
	for i := range 12 {
		version := []int{v311, v5}[i%2]
		sides[0].devices = append(sides[0].devices, f.connect(version, login{id: fmt.Sprint("device-", i), username: "joe"}))
		l := login{id: fmt.Sprint("beside-", i), username: "joe"}
		if i%4 < 2 {
			l = login{id: fmt.Sprint("stranger-", i), username: "tenant"}
		}
		sides[1].devices = append(sides[1].devices, f.connect(version, l))
	}
	for _, s := range sides {
		for _, d := range s.devices {
			d.subscribe("same/+", 1)
		}
	}
	for _, s := range sides {
		for i, d := range s.devices {
			d.publish("same/topic", fmt.Sprint(s.name, i), 1)
			for _, to := range s.devices { // and the next one is not from the other side
				to.receive("same/topic", fmt.Sprint(s.name, i), 1)
			}
		}
	}
	// A direct message knows its own cluster only: the client ids are the same in both.
	for _, s := range sides {
		username := map[string]string{"ours": "joe", "beside": "tenant"}[s.name]
		s.devices = append(s.devices, f.connect(v5, login{id: "twin", username: username}))
	}
	for _, s := range sides {
		s.devices[0].publish("p2p/twin/greeting", s.name, 1)
		s.devices[len(s.devices)-1].receive("p2p/twin/greeting", s.name, 1)
	}
	// Each cluster has its own, and nobody else.
	for i, c := range []*clustertest.Cluster{f.Cluster, beside} {
		want := float64(len(sides[i].devices))
		clustertest.Eventually(t, fmt.Sprintf("there are %v clients %s", want, sides[i].name), func() bool {
			sum := 0.0
			for i := range c.Gateways() {
				sum += c.Metric(t, i, "beeline_gateway_clients")
			}
			return sum == want
		})
	}
}
