package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWhatIsPublishedOnOneGatewayIsPrintedOnTheOther(t *testing.T) {
	ca := shared.CAFile()
	for _, transport := range []struct {
		name  string
		flags []string
	}{
		{"TCP", []string{"-u", at("mqtt", 0, "mqtt")}},
		{"TLS", []string{"-u", at("mqtts", 0, "mqtts"), "--ca-file", ca}},
		{"TLS with a client certificate", []string{
			"-u", at("mqtts", 0, "mutual"), "--ca-file", ca, "--cert-file", shared.client.Cert, "--key-file", shared.client.Key,
		}},
		{"WebSocket", []string{"-u", at("ws", 0, "ws")}},
		{"WebSocket with path", []string{"-u", at("ws", 0, "ws") + "/mqtt"}},
		{"WebSocket over TLS", []string{"-u", at("wss", 0, "wss"), "--ca-file", ca}},
	} {
		t.Run(transport.name, func(t *testing.T) {
			both(t, func(t *testing.T, version string) {
				for qos := range 3 {
					q := strconv.Itoa(qos)
					flags := append([]string{"-V", version, "-t", "news/" + q, "-q", q}, transport.flags...)
					here := beginSub(t, append(flags, "-n", "1")...)
					there := beginSub(t, "-u", at("mqtt", 1, "mqtt"), "-t", "news/+", "-q", "2", "-n", "1")
					succeeds(t, append(append([]string{"pub"}, flags...), "-m", "hello")...)
					want := "news/" + q + " hello\n"
					if out := here.done() + there.done(); out != want+want {
						t.Errorf("QoS %d: printed %q", qos, out)
					}
				}
			})
		})
	}
}

func TestALargeMessageComesWholeOverEveryTransport(t *testing.T) {
	big := strings.Repeat("0123456789", 100_000)
	both(t, func(t *testing.T, version string) {
		for _, flags := range [][]string{
			{"-u", at("mqtt", 0, "mqtt")}, {"-u", at("ws", 0, "ws")}, {"-u", at("mqtts", 0, "mqtts"), "--ca-file", shared.CAFile()},
		} {
			sub := beginSub(t, append(flags, "-V", version, "-t", "big", "-n", "1", "-o", "payload")...)
			succeeds(t, append([]string{"pub", "-V", version, "-t", "big", "-q", "1", "-m", big}, flags...)...)
			if out := sub.done(); out != big+"\n" {
				t.Errorf("%v: %d bytes", flags, len(out))
			}
		}
	})
}

func TestAllPropertiesArePrintedAsJSON(t *testing.T) {
	u := []string{"-u", at("mqtt", 0, "mqtt")}
	sub := beginSub(t, append(u, "-t", "props", "-q", "2", "-n", "1", "-o", "json")...)
	succeeds(t, append(u, "pub", "-t", "props", "-q", "2", "-m", "hello",
		"--expiry", "1h", "--content-type", "text/plain", "--response-topic", "answers/1", "--correlation", "c-1",
		"-P", "colour=red", "-P", "size=", "-P", "colour=a=b")...)
	var got map[string]any
	if err := json.Unmarshal([]byte(sub.done()), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"topic": "props", "payload": "hello", "qos": 2.0, "message_expiry_interval": 3600.0, "content_type": "text/plain",
		"response_topic": "answers/1", "correlation_data": "c-1", "user_properties": []any{"colour=red", "size=", "colour=a=b"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSubAnswersWhatAsksForAnAnswer(t *testing.T) {
	u := []string{"-u", at("mqtt", 0, "mqtt")}
	answers := beginSub(t, append(u, "-t", "answers/#", "-q", "1", "-n", "1", "-o", "json")...)
	device := beginSub(t, append(u, "-i", "answering", "--answer", "42 kWh", "-n", "2")...)
	succeeds(t, append(u, "pub", "-t", "p2p/answering/note", "-q", "1", "-m", "asks nothing")...)
	succeeds(t, append(u, "pub", "-t", "p2p/answering/read", "-q", "1", "--response-topic", "answers/1", "--correlation", "c-1")...)
	if out := device.done(); out != "p2p/answering/note asks nothing\np2p/answering/read \n" {
		t.Errorf("the device has printed %q", out)
	}
	want := `{"topic":"answers/1","payload":"42 kWh","qos":1,"correlation_data":"c-1"}` + "\n"
	if got := answers.done(); got != want {
		t.Errorf("answered %s", got)
	}
	fails(t, "--answer needs --mqtt-version 5", "sub", "-i", "answering", "--answer", "", "-V", "3.1.1")
}

func TestAPlainMessageIsAShortLineOfJSON(t *testing.T) {
	both(t, func(t *testing.T, version string) {
		u := []string{"-u", at("mqtt", 0, "mqtt"), "-V", version}
		sub := beginSub(t, append(u, "-t", "plain", "-n", "1", "-o", "json")...)
		succeeds(t, append(u, "pub", "-t", "plain", "-m", "hello")...)
		if out, want := sub.done(), `{"topic":"plain","payload":"hello","qos":0}`+"\n"; out != want {
			t.Errorf("printed %q, want %q", out, want)
		}
	})
}

func TestAPayloadThatIsNoTextIsNotGarbled(t *testing.T) {
	u := []string{"-u", at("mqtt", 0, "mqtt")}
	asJSON := beginSub(t, append(u, "-t", "bytes", "-n", "1", "-o", "json")...)
	asBytes := beginSub(t, append(u, "-t", "bytes", "-n", "1", "-o", "payload")...)
	succeeds(t, append(u, "pub", "-t", "bytes", "-m", "\xff\x00\xfe")...)
	if out, want := asJSON.done(), `{"topic":"bytes","payload":{"base64":"/wD+"},"qos":0}`+"\n"; out != want {
		t.Errorf("printed %q, want %q", out, want)
	}
	if out, want := asBytes.done(), "\xff\x00\xfe\n"; out != want {
		t.Errorf("printed %q, want %q", out, want)
	}
}

func TestEachLineOfStandardInputIsAMessage(t *testing.T) {
	both(t, func(t *testing.T, version string) {
		u := []string{"-u", at("mqtt", 0, "mqtt"), "-V", version}
		for qos := range 3 {
			sub := beginSub(t, append(u, "-t", "lines", "-q", "2", "-n", "4", "-o", "payload")...)
			in := strings.NewReader("one\n\nthree\nfour, without an end")
			begin(t, in, append(u, "pub", "-t", "lines", "-q", strconv.Itoa(qos), "--stdin")...).done()
			if out, want := sub.done(), "one\n\nthree\nfour, without an end\n"; out != want {
				t.Errorf("printed %q, want %q", out, want)
			}
		}
	})
}

func TestALineThatIsTooLongIsAnError(t *testing.T) {
	in := strings.NewReader(strings.Repeat("x", 3<<20))
	_, err := begin(t, in, "pub", "-u", at("mqtt", 0, "mqtt"), "-t", "lines", "--stdin").wait()
	if err == nil || !strings.Contains(err.Error(), "read standard input: ") {
		t.Errorf("error %v", err)
	}
}

// Whoever types lines may take longer over it than a broker may take to answer.
func TestTheTimeoutIsTheBrokersNotTheUsers(t *testing.T) {
	sub := beginSub(t, "-u", at("mqtt", 0, "mqtt"), "-t", "typed", "-q", "1", "-o", "payload")
	in, typing := io.Pipe()
	defer typing.Close()
	pub := begin(t, in, "pub", "-u", at("mqtt", 0, "mqtt"), "-t", "typed", "-q", "1", "--stdin", "--timeout", "2s")
	for i := range 3 {
		fmt.Fprintln(typing, i)
		sub.await(strconv.Itoa(i)+"\n", &sub.stdout)
	}
	typing.Close()
	pub.done()
	sub.stop()
	if out := sub.done(); out != "0\n1\n2\n" {
		t.Errorf("printed %q", out)
	}
}

func TestPubStopsWhileItWaitsForInput(t *testing.T) {
	both(t, func(t *testing.T, version string) {
		u := []string{"-u", at("mqtt", 0, "mqtt"), "-V", version}
		t.Run("interrupted", func(t *testing.T) {
			in, typing := io.Pipe()
			defer typing.Close()
			sub := beginSub(t, append(u, "-t", "waiting", "-n", "1")...)
			pub := begin(t, in, append(u, "pub", "-t", "waiting", "--stdin")...)
			fmt.Fprintln(typing, "hello")
			sub.done()
			pub.stop()
			if _, err := pub.wait(); err != nil && !errors.Is(err, context.Canceled) { // it may have been publishing still
				t.Errorf("error: %v", err)
			}
		})
		t.Run("connection lost", func(t *testing.T) {
			in, typing := io.Pipe()
			defer typing.Close()
			sub := beginSub(t, append(u, "-t", "waiting", "-n", "1")...)
			pub := begin(t, in, append(u, "pub", "-t", "waiting", "-i", "typist", "--stdin")...)
			fmt.Fprintln(typing, "hello")
			sub.done()
			succeeds(t, append(u, "pub", "-t", "other", "-i", "typist")...) // takes it over
			if _, err := pub.wait(); err == nil {
				t.Error("no error")
			}
		})
	})
}

func TestAMessageIsPublishedSoManyTimes(t *testing.T) {
	both(t, func(t *testing.T, version string) {
		u := []string{"-u", at("mqtt", 0, "mqtt"), "-V", version}
		sub := beginSub(t, append(u, "-t", "often", "-q", "1", "-n", "20", "-o", "payload")...)
		succeeds(t, append(u, "pub", "-t", "often", "-q", "1", "-m", "x", "-n", "20")...)
		if out := sub.done(); out != strings.Repeat("x\n", 20) {
			t.Errorf("printed %q", out)
		}
	})
}

// It has seen enough, and more is on its way to it.
func TestSubEndsAfterItsCountWhateverElseComes(t *testing.T) {
	both(t, func(t *testing.T, version string) {
		u := []string{"-u", at("mqtt", 0, "mqtt"), "-V", version}
		sub := beginSub(t, append(u, "-t", "flood", "-n", "3", "-o", "payload")...)
		pub := begin(t, nil, append(u, "pub", "-t", "flood", "-m", "x", "-n", "5000")...)
		if out := sub.done(); out != "x\nx\nx\n" {
			t.Errorf("printed %q", out)
		}
		pub.done()
	})
}

func TestAClientIsReachedByItsName(t *testing.T) {
	both(t, func(t *testing.T, version string) {
		ann := beginSub(t, "-u", at("mqtt", 1, "mqtt"), "-V", version, "-i", "ann", "-n", "1")
		succeeds(t, "pub", "-u", at("mqtt", 0, "mqtt"), "-V", version, "-t", "p2p/ann/note", "-m", "for Ann alone", "-q", "1")
		if out := ann.done(); out != "p2p/ann/note for Ann alone\n" {
			t.Errorf("printed %q", out)
		}
	})
}

func TestSharedSubscriptions(t *testing.T) {
	u := []string{"-u", at("mqtt", 0, "mqtt"), "-t", "$share/workers/jobs/+", "-q", "1", "-n", "2", "-o", "payload"}
	a, b := beginSub(t, u...), beginSub(t, u...)
	begin(t, strings.NewReader("1\n2\n3\n4\n"), "pub", "-u", at("mqtt", 1, "mqtt"), "-t", "jobs/x", "-q", "1", "--stdin").done()
	if out := a.done() + b.done(); len(out) != len("1\n2\n3\n4\n") {
		t.Errorf("printed %q", out)
	}
}

func TestSeveralFilters(t *testing.T) {
	both(t, func(t *testing.T, version string) {
		u := []string{"-u", at("mqtt", 0, "mqtt"), "-V", version}
		sub := beginSub(t, append(u, "-t", "a/1", "-t", "b/+", "-n", "2", "-o", "payload")...)
		succeeds(t, append(u, "pub", "-t", "a/1", "-m", "1")...)
		succeeds(t, append(u, "pub", "-t", "b/2", "-m", "2")...)
		if out := sub.done(); len(out) != 4 {
			t.Errorf("printed %q", out)
		}
	})
}

func TestWhatTheBrokerRefusesIsAnError(t *testing.T) {
	long := strings.Repeat("x", 300)
	u := at("mqtt", 0, "mqtt")
	tests := []struct {
		name      string
		want5     string
		want3     string
		arguments []string
	}{
		{"a client id that is too long", "connect: refused with reason 0x85", "connect: ", []string{"sub", "-i", long, "-u", u}},
		{"the same when publishing", "connect: refused with reason 0x85", "connect: ", []string{"pub", "-i", long, "-u", u, "-t", "a"}},
		{"a filter", `subscribe: "p2p/x/#" was refused with reason 0x8f`, `subscribe: "p2p/x/#" was refused`, []string{"sub", "-t", "p2p/x/#", "-u", u}},
		{"one of two filters", `subscribe: "p2p/x/#" was refused with reason 0x8f`, `subscribe: "p2p/x/#" was refused`, []string{"sub", "-t", "a", "-t", "p2p/x/#", "-u", u}},
		{"a topic with a wildcard", "publish: ", "publish: ", []string{"pub", "-t", "a/+", "-q", "1", "-u", u}},
		{"no client certificate", "connect: ", "connect: ", []string{"pub", "-t", "a", "-u", at("mqtts", 0, "mutual"), "--ca-file", shared.CAFile()}},
		{"nobody listens", "connect: dial tcp 127.0.0.1:1: ", "connection refused", []string{"pub", "-t", "a", "-u", "mqtt://127.0.0.1:1"}},
		{"no WebSocket there", "connect: ", "connect: ", []string{"pub", "-t", "a", "-u", at("ws", 0, "ws") + "/elsewhere"}},
		{"a certificate of an authority that is not known", "x509: ", "x509: ", []string{"pub", "-t", "a", "-u", at("mqtts", 0, "mqtts")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fails(t, tt.want5, tt.arguments...)
			if tt.want3 != "" {
				fails(t, tt.want3, append(tt.arguments, "-V", "3.1.1")...)
			}
		})
	}
}

func TestATakeoverIsReported(t *testing.T) {
	u := at("mqtt", 0, "mqtt")
	for version, want := range map[string]string{"5": "the broker ended the connection (reason 0x8e: connected elsewhere)", "3.1.1": "connection lost: "} {
		sub := beginSub(t, "-u", u, "-V", version, "-i", "twin")
		newer := beginSub(t, "-u", at("mqtt", 1, "mqtt"), "-V", version, "-i", "twin")
		if _, err := sub.wait(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q in it", version, err, want)
		}
		newer.stop()
		newer.done()
	}
}

func TestABrokerThatDoesNotAnswer(t *testing.T) {
	for version, accepted := range map[string][]byte{"5": connack5, "3.1.1": connack3} {
		silent, _ := fake(t)
		deaf, _ := fake(t, accepted...)
		// Those who are to connect first have the time for it.
		const soon, later = "50ms", "3s"
		for _, tt := range []struct {
			want string
			args []string
		}{
			{"connect: no answer from the broker within " + soon, []string{"pub", "-u", silent, "--timeout", soon}},
			{"publish: no answer from the broker within " + later, []string{"pub", "-u", deaf, "-q", "1", "--timeout", later}},
			{"publish: no answer from the broker within " + later, []string{"pub", "-u", deaf, "-q", "2", "--timeout", later}},
			{"connect: not done within " + soon, []string{"sub", "-u", silent, "--timeout", soon}},
			{"subscribe: not done within " + later, []string{"sub", "-u", deaf, "--timeout", later}},
		} {
			t.Run(version+" "+tt.want, func(t *testing.T) {
				t.Parallel()
				fails(t, tt.want, append(tt.args, "-V", version, "-t", "a")...)
			})
		}
		t.Run(version+" QoS 0 waits for nothing", func(t *testing.T) {
			t.Parallel()
			succeeds(t, "pub", "-V", version, "-u", deaf, "-t", "a", "--timeout", "0")
		})
	}
}

func TestSubGivesUpAfterItsTimeout(t *testing.T) {
	both(t, func(t *testing.T, version string) {
		fails(t, "not done within 100ms", "sub", "-V", version, "-u", at("mqtt", 0, "mqtt"), "-t", "nothing/comes", "--timeout", "100ms")
	})
}

func TestSubStopsWhenItIsTold(t *testing.T) {
	both(t, func(t *testing.T, version string) {
		sub := beginSub(t, "-u", at("mqtt", 0, "mqtt"), "-V", version, "-t", "a")
		sub.stop()
		if out := sub.done(); out != "" {
			t.Errorf("printed %q", out)
		}
	})
}

func TestTheCredentialsAreThoseOfTheFlags(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("secret \r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for version, accepted := range map[string][]byte{"5": connack5, "3.1.1": connack3} {
		u, connects := fake(t, accepted...)
		succeeds(t, "pub", "-V", version, "-u", u, "-t", "a", "-i", "me", "--username", "ann", "--password-file", file, "--keep-alive", "258")
		got := string(<-connects)
		if !strings.HasSuffix(got, "\x00\x02me\x00\x03ann\x00\x07secret ") {
			t.Errorf("CONNECT %q: want client id, user name and password, without the end of the line", got)
		}
		if !strings.Contains(got, "\x00\x04MQTT") || !strings.Contains(got, "\x01\x02") {
			t.Errorf("CONNECT %q: want a keep alive of 258 s", got)
		}
	}
}

func TestWrongFlagsOfPubAndSub(t *testing.T) {
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ want, arguments string }{
		{"give a --topic", "pub"},
		{"--qos: 0, 1 or 2", "pub -t a -q 3"},
		{"--qos: 0, 1 or 2", "sub -t a -q 3"},
		{"--qos", "pub -t a -q 300"},
		{"--count: at least 1", "pub -t a -n 0"},
		{"--count: not negative", "sub -t a -n -1"},
		{"--timeout: not negative", "pub -t a --timeout -1s"},
		{"--timeout: not negative", "sub -t a --timeout -1s"},
		{"--expiry: whole seconds", "pub -t a --expiry 500ms"},
		{"--expiry: whole seconds", "pub -t a --expiry -1s"},
		{"--expiry: whole seconds", "pub -t a --expiry 2000000h"},
		{`--property "colour": want name=value`, "pub -t a -P colour"},
		{"need --mqtt-version 5", "pub -V 3.1.1 -t a -P colour=red"},
		{"need --mqtt-version 5", "pub -V 3.1.1 -t a --expiry 1s"},
		{`--mqtt-version "4.2": 5 or 3.1.1`, "pub -V 4.2 -t a"},
		{`--mqtt-version "4.2": 5 or 3.1.1`, "sub -V 4.2 -t a"},
		{"[stdin message]", "pub -t a --stdin -m x"},
		{"[stdin count]", "pub -t a --stdin -n 2"},
		{"give a --topic, or an --id", "sub"},
		{"--session-expiry: whole seconds", "sub -i a --session-expiry 500ms"},
		{"--session-expiry: whole seconds", "sub -i a --session-expiry -1s"},
		{"--session-expiry needs --mqtt-version 5", "sub -V 3.1.1 -i a --session-expiry 1h"},
		{"give an --id, by which the session is found again", "sub -t a --clean=false"},
		{"give an --id, by which the session is found again", "sub -t a --session-expiry 1h"},
		{`--output "xml": text, payload or json`, "sub -t a -o xml"},
		{`--url "http://x": the scheme has to be mqtt, mqtts, ws or wss`, "pub -t a -u http://x"},
		{"--url: parse", "sub -t a -u 127.0.0.1:1883"},
		{"--ca-file: open /no/such", "pub -t a --ca-file /no/such"},
		{"--ca-file " + garbage + ": no certificate in it", "pub -V 3.1.1 -t a --ca-file " + garbage},
		{"--cert-file, --key-file: ", "sub -t a --cert-file " + garbage},
		{"--password-file: open /no/such", "pub -t a --password-file /no/such"},
		{"unknown flag: --colour", "pub --colour"},
		{`unknown command "news" for "beeline sub"`, "sub news"},
		{`unknown command "serve"`, "serve"},
	}
	for _, tt := range tests {
		t.Run(tt.arguments, func(t *testing.T) {
			fails(t, tt.want, strings.Fields(tt.arguments)...)
		})
	}
}

func TestHelpSaysWhatThereIs(t *testing.T) {
	out := begin(t, nil, "--help").done()
	for _, want := range []string{"up", "pub", "sub"} {
		if !strings.Contains(out, "  "+want+" ") {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
	for _, sub := range []string{"up", "pub", "sub"} {
		if out := begin(t, nil, sub, "--help").done(); !strings.Contains(out, "Usage:\n  beeline "+sub) {
			t.Errorf("help of %s:\n%s", sub, out)
		}
	}
}
