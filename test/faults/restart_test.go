//go:build linux

package faults

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/test/faults/processes"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestAWholeClusterIsStartedAgainOnItsData(t *testing.T) {
	ends := map[string]func(t *testing.T, c *processes.Cluster){
		"after all was killed": func(t *testing.T, c *processes.Cluster) {
			var wg sync.WaitGroup
			for _, p := range c.All() {
				wg.Go(func() { p.Kill(t) })
			}
			wg.Wait()
		},
		"after all was told to stop": func(t *testing.T, c *processes.Cluster) {
			all := c.All()
			for i := range all {
				p := all[len(all)-1-i] // etcd last
				if code, took := p.Terminate(t, 20*time.Second); code != 0 || took > 5*time.Second {
					t.Errorf("%s ended with %d after %v", p.Name, code, took)
				}
			}
		},
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			c := start(t, processes.Config{Sessions: 2})
			var ids []string
			for i, g := range c.Gateways {
				_, some := numbered(t, 5, g.MQTT, fmt.Sprintf("client-%d", i))
				ids = append(ids, some...)
			}
			before := incarnations(t, c)
			former := leases(t, c, ids...)
			if len(former) != len(ids) {
				t.Fatalf("%d leases, want %d", len(former), len(ids))
			}
			end(t, c)

			began := time.Now()
			c.Boot(t)
			within(t, "the cluster takes clients", time.Since(began), c.TTL+6*slack)
			for i, id := range incarnations(t, c) {
				if id == before[i] {
					t.Errorf("%s is incarnation %s again", c.Gateways[i].Name, id)
				}
			}
			// All clients come back, each elsewhere, and everything works.
			var back []*client
			for i, id := range ids {
				x := connect(t, c.Gateways[(i+1)%3].MQTT, version(i), id)
				back = append(back, x.subscribe("news/#", 1))
			}
			now := leases(t, c, ids...)
			for _, id := range ids {
				if now[id].Epoch <= former[id].Epoch {
					t.Errorf("%q has epoch %d after %d", id, now[id].Epoch, former[id].Epoch)
				}
			}
			p := publish(connect(t, c.Gateways[0].MQTT, rawmqtt.V5, "newsman"), "news/x", 1, pace)
			waitForAcks(t, 10, p)
			p.finish(patience)
			for _, x := range back {
				checkReceived(t, p, x)
			}
			p = publish(connect(t, c.Gateways[1].MQTT, rawmqtt.V5, "friend"), "p2p/"+ids[0]+"/x", 1, pace)
			waitForAcks(t, 10, p)
			p.finish(patience)
			checkReceived(t, p, back[0])
		})
	}
}
