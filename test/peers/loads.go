//go:build linux

package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/beeline-mqtt/beeline/test/peers/report"
	"github.com/beeline-mqtt/beeline/test/peers/systems"
)

// load is one load and the systems that are put under it, in the order of their rows.
type load struct {
	report.Load

	systems []systems.System
	// args are those of beeline bench, but for what all have in common.
	args []string
	// directed has all publishers on the first node and all subscribers on the second.
	directed bool
}

// loads are all of them, in the order in which they run.
func loads() []load {
	all := crossNode()
	all = append(all, sameNode()...)
	all = append(all, byGateways()...)
	all = append(all, fanOut()...)
	all = append(all, connecting()...)
	all = append(all, proxied()...)
	return append(all, moving())
}

// crossNode are pairs of which each has its clients on two nodes. NATS acknowledges QoS 1 when three nodes have
// stored it, and the broadcast sends all to all: neither takes 15,000 a second of that here.
func crossNode() []load {
	ours, tls, nats, broadcast := systems.Beeline(3, false), systems.Beeline(3, true), systems.NATS(3), systems.Broadcast(3)
	const group = "Pairs of clients on different nodes"
	return []load{
		pairs(group, report.Cross, 0, 3000, ours, tls, nats, broadcast),
		pairs(group, report.Cross, 0, 15000, ours, tls, nats),
		pairs(group, report.Cross, 1, 3000, ours, tls, nats, broadcast),
		pairs(group, report.Cross, 1, 15000, ours, tls),
		pairs(group, report.Cross, 2, 3000, ours, tls, broadcast),
	}
}

func sameNode() []load {
	var list []load
	for _, rate := range []int{3000, 15000, 0} {
		for qos := range 3 {
			list = append(list, pairs("Pairs of clients on one node", report.Same, qos, rate, systems.Beeline(1, false), systems.Mosquitto()))
		}
	}
	return list
}

// byGateways are the same messages with more and more nodes, which ought to cost the same.
func byGateways() []load {
	ours := []systems.System{systems.Beeline(2, false), systems.Beeline(3, false), systems.Beeline(6, false), systems.Beeline(9, false)}
	beside := append(ours[:len(ours):len(ours)], systems.Broadcast(3), systems.Broadcast(6))
	const directed, spread = "All pairs from the first node to the second", "The same number of pairs over all nodes"
	list := []load{
		pairs(directed, report.Directed, 0, 3000, beside...),
		pairs(directed, report.Directed, 0, 15000, ours...),
		pairs(spread, report.Spread, 0, 15000, ours...),
	}
	for i := range list {
		list[i].One = report.Ours
	}
	return list
}

func fanOut() []load {
	list := []systems.System{systems.Beeline(3, false), systems.NATS(3), systems.Broadcast(3), systems.Mosquitto()}
	const subscribers = 1000
	at := func(name string, rate int) load {
		l := newLoad(name, "One publisher, 1,000 subscribers over all nodes", fmt.Sprintf("QoS 0, %d messages/s", rate), list...)
		l.Scenario, l.Rate = "fanout", float64(rate*subscribers)
		l.args = []string{"--subscribers", strconv.Itoa(subscribers), "--rate", strconv.Itoa(rate), "--qos", "0", "--size", "64"}
		return l
	}
	return []load{at(report.FanOut, 10), at(report.FanOutFast, 100), at(report.FanOutMost, 300)}
}

func connecting() []load {
	at := func(name string, rate int) load {
		l := newLoad(name, "Connecting 6,000 clients, each with one subscription", report.RateTitle(rate),
			systems.Beeline(3, false), systems.NATS(3), systems.Mosquitto())
		l.Scenario, l.Rate = "connect", float64(rate)
		l.args = []string{"--clients", "6000", "--rate", strconv.Itoa(rate), "--hold", "5s"}
		return l
	}
	return []load{at(report.Connect, 1000), at(report.ConnectFast, 4000)}
}

// proxied are clients that know a proxy only. The node behind is one for pairs, which mosquitto would not connect over
// several.
func proxied() []load {
	const messages, clients = "Pairs of clients behind a proxy", "Connecting 6,000 clients behind a proxy, each with one subscription"
	beside := []systems.System{systems.Router(1), systems.HAProxy(1), systems.Mosquitto(), systems.BeelineBehindRouter(1), systems.Beeline(1, false)}
	connect := newLoad(report.ConnectProxied, clients, report.RateTitle(1000), systems.Router(3), systems.HAProxy(3),
		systems.Mosquitto(), systems.BeelineBehindRouter(3), systems.Beeline(3, false))
	connect.Scenario, connect.Rate = "connect", 1000
	connect.args = []string{"--clients", "6000", "--rate", "1000", "--hold", "5s"}
	list := []load{pairs(messages, report.Proxied, 0, 3000, beside...), pairs(messages, report.Proxied, 0, 15000, beside...), connect}
	for i := range list {
		list[i].Proxied = true
	}
	return list
}

func moving() load {
	l := newLoad(report.Move, "Moving 1,000 connected clients to the next node", "500/s", systems.Beeline(3, false), systems.NATS(3))
	l.Scenario, l.Rate = "move", 500
	l.args = []string{"--clients", "1000", "--rate", "500"}
	return l
}

// pairs are 60 publishers with a subscriber each. With a rate of 0 each sends as fast as its window lets it.
func pairs(group, where string, qos, rate int, list ...systems.System) load {
	title := fmt.Sprintf("QoS %d, %s", qos, report.RateTitle(rate))
	l := newLoad(report.PairsName(where, qos, rate), group, title, list...)
	l.Scenario, l.Rate, l.directed = "pairs", float64(rate), where == report.Directed
	shift := "1"
	if where == report.Same || where == report.Proxied {
		shift = "0"
	}
	l.args = []string{"--pairs", "60", "--size", "64", "--window", "64", "--qos", strconv.Itoa(qos), "--rate", strconv.Itoa(rate)}
	if !l.directed {
		l.args = append(l.args, "--shift", shift)
	}
	return l
}

// newLoad is a load of which the first system's figures are 1.
func newLoad(name, group, title string, list ...systems.System) load {
	l := load{Load: report.Load{Name: name, Group: group, Title: title, One: list[0].Name}, systems: list}
	for _, s := range list {
		l.Systems = append(l.Systems, s.Name)
	}
	return l
}

// brokers are the flags that say who connects where.
func (l load) brokers(urls []string) []string {
	if l.directed {
		return []string{"--broker", urls[0], "--to", urls[1]}
	}
	return []string{"--broker", strings.Join(urls, ",")}
}
