package report

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// everything are loads of all names that targets refer to.
func everything() []Load {
	var list []Load
	for _, t := range targets() {
		list = append(list, Load{Name: t.row.Load})
	}
	return list
}

// verdicts are those of one target, told by its number and the beginning of what it is about.
func verdicts(figures Figures, id, what string) []Verdict {
	return slices.DeleteFunc(Judge(everything(), figures), func(v Verdict) bool {
		return v.ID != id || len(v.What) < len(what) || v.What[:len(what)] != what
	})
}

// row is a row of one round.
func row(f Figure) Figure {
	f.Rounds = 1
	return f
}

func TestTargetsAreJudgedByTheirFigures(t *testing.T) {
	cpu := func(us float64) Figure { return row(Figure{CPU: us}) }
	fast, slow := PairsName(Cross, 0, 15000), PairsName(Cross, 0, 3000)
	confirmed := PairsName(Cross, 1, 15000)
	directed := PairsName(Directed, 0, 15000)
	tests := []struct {
		name     string
		figures  Figures
		id, what string
		want     Verdict
	}{
		{
			"less than NATS",
			Figures{{fast, Ours}: cpu(18), {fast, NATS}: cpu(20)},
			"P1", "cross-node QoS 0, 15,000/s",
			Verdict{Want: "20 us", Got: "18 us", Ratio: "0.90", Met: "met"},
		},
		{
			"as much as NATS",
			Figures{{slow, Ours}: cpu(20), {slow, NATS}: cpu(20)},
			"P1", "cross-node QoS 0, 3,000/s",
			Verdict{Want: "20 us", Got: "20 us", Ratio: "1", Met: "met"},
		},
		{
			"more than NATS",
			Figures{{fast, Ours}: cpu(25), {fast, NATS}: cpu(20)},
			"P1", "cross-node QoS 0, 15,000/s",
			Verdict{Want: "20 us", Got: "25 us", Ratio: "1.25", Met: "not met"},
		},
		{
			"no NATS",
			Figures{{fast, Ours}: cpu(25), {fast, NATS}: {Failure: "it hung"}},
			"P1", "cross-node QoS 0, 15,000/s",
			Verdict{Want: "-", Got: "25 us", Ratio: "-", Met: "not measured"},
		},
		{
			"nothing of ours",
			Figures{{fast, NATS}: cpu(20)},
			"P1", "cross-node QoS 0, 15,000/s",
			Verdict{Want: "20 us", Got: "-", Ratio: "-", Met: "not measured"},
		},
		{
			"QoS 1 within the larger of two bounds: that of our QoS 0",
			Figures{{confirmed, Ours}: cpu(31), {fast, Ours}: cpu(20), {fast, NATS}: cpu(10)},
			"P2", "cross-node QoS 1",
			Verdict{Want: "32 us", Got: "31 us", Ratio: "0.97", Met: "met"},
		},
		{
			"QoS 1 within the larger of two bounds: that of NATS",
			Figures{{confirmed, Ours}: cpu(34), {fast, Ours}: cpu(10), {fast, NATS}: cpu(20)},
			"P2", "cross-node QoS 1",
			Verdict{Want: "35 us", Got: "34 us", Ratio: "0.97", Met: "met"},
		},
		{
			"QoS 1 beside the only bound that is known",
			Figures{{confirmed, Ours}: cpu(34), {fast, Ours}: cpu(20)},
			"P2", "cross-node QoS 1",
			Verdict{Want: "32 us", Got: "34 us", Ratio: "1.06", Met: "not met"},
		},
		{
			"late",
			Figures{{confirmed, Ours}: row(Figure{P99: 6})},
			"P2", "the same: p99",
			Verdict{Want: "5 ms", Got: "6 ms", Ratio: "1.20", Met: "not met"},
		},
		{
			"nothing lost",
			Figures{{confirmed, Ours}: row(Figure{})},
			"P2", "the same: lost",
			Verdict{Want: "0", Got: "0", Ratio: "-", Met: "met"},
		},
		{
			"one of each",
			Figures{{confirmed, Ours}: row(Figure{Lost: 1, Doubled: 1, OutOfOrder: 1, Corrupt: 1})},
			"P2", "the same: lost",
			Verdict{Want: "0", Got: "4", Ratio: "-", Met: "not met"},
		},
		{
			"flat",
			Figures{{directed, OursMany}: cpu(21), {directed, Ours}: cpu(20)},
			"P4", "from one gateway to another, 15,000/s",
			Verdict{Want: "22 us", Got: "21 us", Ratio: "0.95", Met: "met"},
		},
		{
			"slow fan-out",
			Figures{{FanOut, Ours}: cpu(4.5)},
			"P6", "fan-out to 1,000, 10,000",
			Verdict{Want: "3 us", Got: "4.50 us", Ratio: "1.50", Met: "not met"},
		},
		{
			"memory",
			Figures{{Connect, Ours}: row(Figure{Memory: 12 * 1024, Front: 1})},
			"P7", "memory",
			Verdict{Want: "10 KiB", Got: "12 KiB", Ratio: "1.20", Met: "not met"},
		},
		{
			"a router that takes little more than HAProxy",
			Figures{{PairsName(Proxied, 0, 3000), RouterAlone}: row(Figure{ProxyCPU: 22, CPU: 99}), {PairsName(Proxied, 0, 3000), HAProxyAlone}: row(Figure{ProxyCPU: 20})},
			"P11", "router, QoS 0, 3,000/s",
			Verdict{Want: "24 us", Got: "22 us", Ratio: "0.92", Met: "met"},
		},
		{
			"a router whose etcd takes too much",
			Figures{{ConnectProxied, RouterMany}: row(Figure{ProxyCPU: 120, StoreCPU: 60})},
			"P11", "router, connecting",
			Verdict{Want: "150 us", Got: "180 us", Ratio: "1.20", Met: "not met"},
		},
		{
			"memory of a router",
			Figures{{ConnectProxied, RouterMany}: row(Figure{Memory: 20 * 1024, Front: 8 * 1024})},
			"P11", "router: memory",
			Verdict{Want: "10 KiB", Got: "8 KiB", Ratio: "0.80", Met: "met"},
		},
		{
			"as many as are asked for",
			Figures{{ConnectFast, Ours}: row(Figure{Rate: 4000})},
			"P8", "the same: rate",
			Verdict{Want: "3,880 /s", Got: "4,000 /s", Ratio: "0.97", Met: "met"},
		},
		{
			"fewer than are asked for",
			Figures{{ConnectFast, Ours}: row(Figure{Rate: 1940})},
			"P8", "the same: rate",
			Verdict{Want: "3,880 /s", Got: "1,940 /s", Ratio: "2", Met: "not met"},
		},
		{
			"refused",
			Figures{{ConnectFast, Ours}: row(Figure{Refused: 3})},
			"P8", "the same: refused",
			Verdict{Want: "0", Got: "3", Ratio: "-", Met: "not met"},
		},
		{
			"two owners",
			Figures{{Move, Ours}: row(Figure{TwoOwners: 1})},
			"P9", "the same: ids",
			Verdict{Want: "0", Got: "1", Ratio: "-", Met: "not met"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			all := verdicts(tt.figures, tt.id, tt.what)
			if len(all) == 0 {
				t.Fatalf("no target %s %q", tt.id, tt.what)
			}
			got := all[0]
			tt.want.ID, tt.want.What = got.ID, got.What
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestOneMessageAtAGatewayThatIsNotTheTargetIsTooMany(t *testing.T) {
	load := PairsName(Directed, 0, 3000)
	tests := []struct {
		name string
		mesh *Mesh
		want []string // for messages and bytes of both rates
	}{
		{"none", &Mesh{PerMessage: 1, Bystanders: 7}, []string{"met", "met"}},
		{"one", &Mesh{PerMessage: 1, Bystanders: 7, Deliveries: 1, Bytes: 64}, []string{"not met", "not met"}},
		{"one without payload", &Mesh{PerMessage: 1, Bystanders: 7, Deliveries: 1}, []string{"not met", "met"}},
		{"unknown", nil, []string{"not met", "not met"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, v := range verdicts(Figures{{load, OursMany}: row(Figure{Mesh: tt.mesh})}, "P4", "the same") {
				if v.Met != "not measured" {
					got = append(got, v.Met)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestOneFrameAGatewayAndNoMore(t *testing.T) {
	for per, want := range map[float64]string{2: "met", 2.01: "not met"} {
		got := verdicts(Figures{{FanOutFast, Ours}: row(Figure{Mesh: &Mesh{PerMessage: per}})}, "P6", "the same")
		if len(got) != 1 || got[0].Met != want {
			t.Errorf("%v for each message: %v, want %s", per, got, want)
		}
	}
}

func TestWithoutAnyFigureNoTargetIsMet(t *testing.T) {
	all := Judge(everything(), nil)
	if len(all) != len(targets()) {
		t.Errorf("%d verdicts for %d targets", len(all), len(targets()))
	}
	for _, v := range all {
		if v.Met != "not measured" || v.Got != "-" {
			t.Errorf("%s %s: %s, %s", v.ID, v.What, v.Got, v.Met)
		}
	}
}

func TestOnlyTargetsOfTheLoadsThatRanAreJudged(t *testing.T) {
	for _, v := range Judge([]Load{{Name: Move}}, nil) {
		if v.ID != "P9" {
			t.Errorf("%s %s has nothing to do with moving", v.ID, v.What)
		}
	}
}
