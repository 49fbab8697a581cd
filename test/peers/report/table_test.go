package report

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRatiosComeFirstAndReferToOneSystem(t *testing.T) {
	loads := []Load{{
		Name: "l", Group: "Pairs", Title: "QoS 0", Scenario: "pairs", Rate: 3000,
		Systems: []string{"theirs", "ours", "nobody's"}, One: "ours",
	}}
	figures := Figures{
		{"l", "ours"}:     row(Figure{CPU: 20, P50: 0.05, P99: 0.4, Generator: 8, Rate: 2999, Mesh: &Mesh{PerMessage: 1, Bystanders: 7}}),
		{"l", "theirs"}:   row(Figure{CPU: 30, P50: 0.1, P99: 1, Generator: 9, Rate: 2000, Lost: 1234, OutOfOrder: 5}),
		{"l", "nobody's"}: {Failure: "not installed"},
	}
	want := Table{
		Title: "Pairs",
		Head:  []string{"load", "system", "CPU ratio", "p99 ratio", "CPU, us", "p50, ms", "p99, ms", "generator, us", "rate", "remarks"},
		Rows: [][]string{
			{"QoS 0", "theirs", "1.50", "2.50", "30", "0.10", "1", "9", "2,000 of 3,000", "1,234 lost; 5 out of order"},
			{"QoS 0", "ours", "1.00", "1.00", "20", "0.05", "0.40", "8", "2,999", "mesh: 1 for each message; mesh at 7 others: 0 messages, 0 B"},
			{"QoS 0", "nobody's", "", "", "", "", "", "", "", "not installed"},
		},
	}
	if diff := cmp.Diff(want, Tables(loads, figures)[0]); diff != "" {
		t.Error(diff)
	}
}

func TestConnectingAndMovingHaveFiguresOfTheirOwn(t *testing.T) {
	loads := []Load{
		{Name: "c", Group: "Connecting", Title: "1,000/s", Scenario: "connect", Rate: 1000, Systems: []string{"ours", "theirs"}, One: "ours"},
		{Name: "m", Group: "Moving", Title: "500/s", Scenario: "move", Rate: 500, Systems: []string{"ours"}, One: "ours"},
	}
	figures := Figures{
		{"c", "ours"}:   row(Figure{CPU: 200, P50: 0.5, P99: 2, Rate: 1000, Memory: 10240, Front: 9216}),
		{"c", "theirs"}: row(Figure{CPU: 700, P50: 1, P99: 3, Rate: 900, Memory: 46080, Front: 46080, Refused: 2}),
		{"m", "ours"}:   row(Figure{CPU: 300, P50: 1, P99: 4, ClosedP99: 5, TwoOwners: 1, Failure: "it hung"}),
	}
	want := []Table{
		{
			Title: "Connecting",
			Head: []string{
				"load", "system", "CPU ratio", "memory ratio", "CPU, us each", "memory, KiB each", "in gateways",
				"p50, ms", "p99, ms", "rate", "remarks",
			},
			Rows: [][]string{
				{"1,000/s", "ours", "1.00", "1.00", "200", "10", "9", "0.50", "2", "1,000", ""},
				{"1,000/s", "theirs", "3.50", "4.50", "700", "45", "45", "1", "3", "900 of 1,000", "2 refused"},
			},
		},
		{
			Title: "Moving",
			Head:  []string{"load", "system", "p50 ratio", "p99 ratio", "p50, ms", "p99, ms", "old one closed p99, ms", "CPU, us each", "remarks"},
			Rows:  [][]string{{"500/s", "ours", "1.00", "1.00", "1", "4", "5", "300", "1 with two owners; a round is missing: it hung"}},
		},
		{Title: "Targets", Head: []string{"", "what", "target", "figure", "of the target", ""}},
	}
	if diff := cmp.Diff(want, Tables(loads, figures)); diff != "" {
		t.Error(diff)
	}
}

func TestWhatIsBehindAProxyHasItsFiguresBesideTheWhole(t *testing.T) {
	loads := []Load{
		{Name: "p", Group: "Pairs", Title: "QoS 0", Scenario: "pairs", Rate: 3000, Systems: []string{"ours", "none"}, One: "ours", Proxied: true},
		{Name: "c", Group: "Connecting", Title: "1,000/s", Scenario: "connect", Rate: 1000, Systems: []string{"theirs"}, One: "ours", Proxied: true},
	}
	figures := Figures{
		{"p", "ours"}:   row(Figure{CPU: 20, ProxyCPU: 12, P50: 0.05, P99: 0.4, Generator: 8, Rate: 3000}),
		{"p", "none"}:   row(Figure{CPU: 10, P50: 0.04, P99: 0.3, Generator: 8, Rate: 3000}),
		{"c", "ours"}:   row(Figure{ProxyCPU: 100, Front: 10240}),
		{"c", "theirs"}: row(Figure{CPU: 300, ProxyCPU: 50, StoreCPU: 30, Front: 5120, P50: 1, P99: 3, Rate: 1000}),
	}
	want := []Table{
		{
			Title: "Pairs",
			Head: []string{
				"load", "system", "proxy CPU ratio", "CPU ratio", "proxy CPU, us", "all CPU, us", "p50, ms", "p99, ms", "generator, us",
				"rate", "remarks",
			},
			Rows: [][]string{
				{"QoS 0", "ours", "1.00", "1.00", "12", "20", "0.05", "0.40", "8", "3,000", ""},
				{"QoS 0", "none", "0.00", "0.50", "0", "10", "0.04", "0.30", "8", "3,000", ""},
			},
		},
		{
			Title: "Connecting",
			Head: []string{
				"load", "system", "proxy CPU ratio", "front memory ratio", "proxy CPU, us each", "etcd CPU, us", "all CPU, us",
				"front memory, KiB each", "p50, ms", "p99, ms", "rate", "remarks",
			},
			Rows: [][]string{{"1,000/s", "theirs", "0.50", "0.50", "50", "30", "300", "5", "1", "3", "1,000", ""}},
		},
	}
	if diff := cmp.Diff(want, Tables(loads, figures)[:2]); diff != "" {
		t.Error(diff)
	}
}

func TestEachGroupOfLoadsIsATableAndTheTargetsAreTheLast(t *testing.T) {
	load := func(name, group string) Load {
		return Load{Name: name, Group: group, Title: name, Scenario: "pairs", Systems: []string{"ours", "theirs"}, One: "ours"}
	}
	var got []string
	for _, table := range Tables([]Load{load("a", "first"), load("b", "first"), load(Move, "second")}, nil) {
		rows := ""
		for _, r := range table.Rows {
			rows += " " + r[0]
		}
		got = append(got, table.Title+":"+rows)
	}
	want := []string{"first: a a b b", "second: " + Move + " " + Move, "Targets: P9 P9 P9"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestARatioToNothingIsNone(t *testing.T) {
	loads := []Load{{Name: "l", Group: "g", Title: "t", Scenario: "pairs", Systems: []string{"theirs"}, One: "ours"}}
	table := Tables(loads, Figures{{"l", "theirs"}: row(Figure{CPU: 30, P99: 1})})[0]
	if diff := cmp.Diff([]string{"-", "-"}, table.Rows[0][2:4]); diff != "" {
		t.Error(diff)
	}
}

func TestNumbersHaveThreeDigitsThatCount(t *testing.T) {
	for x, want := range map[float64]string{
		0: "0", 0.004: "0.00", 0.05: "0.05", 1: "1", 1.5: "1.50", 9.99: "9.99", 9.996: "10.0", 18.44: "18.4", 99.94: "99.9", 99.96: "100",
		163.2: "163", 999.6: "1,000", 1587: "1,587", 14980.4: "14,980", 1234567: "1,234,567", -1500: "-1,500", -2.5: "-2.50",
		math.Inf(1): "unknown",
	} {
		if got := number(x); got != want {
			t.Errorf("number(%v) = %q, want %q", x, got, want)
		}
	}
}

func TestARateIsNamed(t *testing.T) {
	for rate, want := range map[int]string{0: "pipelined", 500: "500/s", 15000: "15,000/s"} {
		if got := RateTitle(rate); got != want {
			t.Errorf("RateTitle(%d) = %q, want %q", rate, got, want)
		}
	}
	for rate, want := range map[int]string{0: "same-qos2-full", 3000: "same-qos2-3000"} {
		if got := PairsName(Same, 2, rate); got != want {
			t.Errorf("PairsName of %d = %q, want %q", rate, got, want)
		}
	}
}

func TestARateThatIsReachedIsNotHeldAgainstItsTarget(t *testing.T) {
	tests := []struct {
		asked, got float64
		want       string
	}{
		{0, 583534, "583,534"},
		{3000, 3000.4, "3,000"},
		{15000, 14600, "14,600"},
		{15000, 14500, "14,500 of 15,000"},
	}
	for _, tt := range tests {
		if got := rateOf(tt.asked, tt.got); got != tt.want {
			t.Errorf("rateOf(%v, %v) = %q, want %q", tt.asked, tt.got, got, tt.want)
		}
	}
}

func TestATableIsAlignedAsText(t *testing.T) {
	table := Table{Title: "T", Head: []string{"a", "long head", ""}, Rows: [][]string{{"longer", "1", "x"}, {"µµ", "2", ""}}}
	want := strings.Join([]string{
		"T",
		"  a       long head",
		"  longer  1          x",
		"  µµ      2",
		"",
	}, "\n")
	if diff := cmp.Diff(want, table.Text()); diff != "" {
		t.Error(diff)
	}
}

func TestATableIsMarkdownWhateverIsInIt(t *testing.T) {
	table := Table{Title: "T", Head: []string{"a", "b"}, Rows: [][]string{{"1|2", "two\nlines"}}}
	want := "### T\n\n| a | b |\n| --- | --- |\n| 1\\|2 | two lines |\n"
	if diff := cmp.Diff(want, table.Markdown()); diff != "" {
		t.Error(diff)
	}
}

func TestOnlyWhatIsBetweenTheMarksOfADocumentIsReplaced(t *testing.T) {
	document := []byte("# Title\n\n" + begin + "old\n" + end + "\nrest\n")
	want := "# Title\n\n" + begin + "\nnew\n\n" + end + "\nrest\n"
	for range 2 { // again makes no difference
		var err error
		if document, err = Insert(document, "new\n"); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, string(document)); diff != "" {
			t.Fatal(diff)
		}
	}
	for _, without := range []string{"", begin, end, end + begin} {
		if got, err := Insert([]byte(without), "new"); err == nil {
			t.Errorf("a document without both marks became %q", got)
		}
	}
}
