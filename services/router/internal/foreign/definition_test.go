package foreign_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-mqtt/beeline/internal/config"
	"github.com/beeline-mqtt/beeline/services/router/internal/foreign"
)

func TestAWrongDefinitionSaysWhichFieldIsWrong(t *testing.T) {
	emqx := func(change func(*foreign.EMQX)) foreign.Definition {
		d := onEMQX("http://10.0.0.1:18083")
		change(d.EMQX)
		return d
	}
	static := func(change func(*foreign.Static)) foreign.Definition {
		d := onStatic("10.0.0.1:1883")
		change(d.Static)
		return d
	}
	at := func(address string) foreign.Definition { return onStatic(address) }
	url := func(u string) foreign.Definition { return onEMQX("https://ok", u) }
	named := func(name string) foreign.Definition {
		d := onStatic("a:1")
		d.Name = name
		return d
	}
	both := onEMQX("http://a")
	both.Static = onStatic("a:1").Static
	unlike := onStatic("a:1")
	unlike.EMQX = onEMQX("http://a").EMQX
	for name, tc := range map[string]struct {
		d    foreign.Definition
		want []string // keys
	}{
		"emqx":                     {onEMQX("http://10.0.0.1:18083", "https://emqx.example/"), nil},
		"static":                   {onStatic("10.0.0.1:1883", "a.example:1883", "[::1]:1883"), nil},
		"nothing":                  {foreign.Definition{}, []string{"name", "kind"}},
		"no name":                  {named(""), []string{"name"}},
		"a name with a slash":      {named("a/b"), []string{"name"}},
		"a name that begins oddly": {named("-a"), []string{"name"}},
		"a long name":              {named(strings.Repeat("a", 65)), []string{"name"}},
		"a name of all there is":   {named("Az09._-"), nil},
		"kind without its part":    {foreign.Definition{Name: "a", Kind: foreign.KindEMQX}, []string{"emqx"}},
		"static without its part":  {foreign.Definition{Name: "a", Kind: foreign.KindStatic}, []string{"static"}},
		"emqx with a list":         {both, []string{"static"}},
		"static with an API":       {unlike, []string{"emqx"}},
		"no URL":                   {onEMQX(), []string{"emqx.urls"}},
		"nine URLs":                {onEMQX(strings.Fields(strings.Repeat("http://a ", 9))...), []string{"emqx.urls"}},
		"no scheme":                {url("10.0.0.1:18083"), []string{"emqx.urls[1]"}},
		"another scheme":           {url("ftp://a"), []string{"emqx.urls[1]"}},
		"no host":                  {url("http://:18083"), []string{"emqx.urls[1]"}},
		"a password in the URL":    {url("http://u:" + secret + "@a"), []string{"emqx.urls[1]"}},
		"a URL that is none":       {url("http://u:" + secret + "@%"), []string{"emqx.urls[1]"}},
		"a path":                   {url("http://a/api/v5"), []string{"emqx.urls[1]"}},
		"a query":                  {url("http://a?b"), []string{"emqx.urls[1]"}},
		"no key":                   {emqx(func(e *foreign.EMQX) { e.Key = "" }), []string{"emqx.key"}},
		"a key with a colon":       {emqx(func(e *foreign.EMQX) { e.Key = "a:b" }), []string{"emqx.key"}},
		"no secret":                {emqx(func(e *foreign.EMQX) { e.Secret = "" }), []string{"emqx.secret"}},
		"two secrets":              {emqx(func(e *foreign.EMQX) { e.SecretFile = "x" }), []string{"emqx.secret"}},
		"what is shown of one":     {emqx(func(e *foreign.EMQX) { e.Secret = "********" }), []string{"emqx.secret"}},
		"version 3":                {emqx(func(e *foreign.EMQX) { e.API = 3 }), []string{"emqx.api"}},
		"too often":                {emqx(func(e *foreign.EMQX) { e.PollInterval = 999_999_999 }), []string{"emqx.poll_interval"}},
		"a negative interval":      {emqx(func(e *foreign.EMQX) { e.PollInterval = -1 }), []string{"emqx.poll_interval"}},
		"mapped to nowhere": {emqx(func(e *foreign.EMQX) {
			e.Addresses = map[string]string{"a": "", "b": "b", "c": "::1", "d": "d:0", "e": "[::1]:1", "f": "a b"}
		}), []string{`emqx.addresses["a"]`, `emqx.addresses["d"]`, `emqx.addresses["f"]`}},
		"an empty list":    {onStatic(), []string{"static.nodes"}},
		"no port":          {at("a"), []string{"static.nodes[0].address"}},
		"port 0":           {at("a:0"), []string{"static.nodes[0].address"}},
		"port 65536":       {at("a:65536"), []string{"static.nodes[0].address"}},
		"a port by name":   {at("a:mqtt"), []string{"static.nodes[0].address"}},
		"only a port":      {at(":1883"), []string{"static.nodes[0].address"}},
		"IPv6 without []":  {at("::1"), []string{"static.nodes[0].address"}},
		"a URL":            {at("mqtt://a:1883"), []string{"static.nodes[0].address"}},
		"the same twice":   {onStatic("a:1", "b:1", "a:1"), []string{"static.nodes[2].address"}},
		"a heavy node":     {static(func(s *foreign.Static) { s.Nodes[0].Weight = 1<<20 + 1 }), []string{"static.nodes[0].weight"}},
		"checks too often": {static(func(s *foreign.Static) { s.CheckInterval = 1 }), []string{"static.check_interval"}},
		"checks without end": {
			static(func(s *foreign.Static) { s.CheckTimeout = foreign.Duration(time.Hour) }), []string{"static.check_timeout"},
		},
		"rise and fall": {
			static(func(s *foreign.Static) { s.Rise, s.Fall = -1, 101 }), []string{"static.rise", "static.fall"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := tc.d.Validate()
			if diff := cmp.Diff(tc.want, keysOf(err)); diff != "" {
				t.Errorf("%v\n%s", err, diff)
			}
			if err == nil {
				return
			}
			if strings.Contains(err.Error(), secret) {
				t.Errorf("the secret is told: %v", err)
			}
			if got := foreign.Watch(t.Context(), tc.d, foreign.Deps{}, nil); keysOf(got) == nil {
				t.Errorf("Watch returns %v", got)
			}
		})
	}
}

// keysOf are the keys that an error names.
func keysOf(err error) []string {
	switch e := err.(type) { //nolint:errorlint // each is looked at by itself
	case *config.KeyError:
		return []string{e.Key}
	case interface{ Unwrap() []error }:
		var keys []string
		for _, inner := range e.Unwrap() {
			keys = append(keys, keysOf(inner)...)
		}
		return keys
	case interface{ Unwrap() error }:
		return keysOf(e.Unwrap())
	}
	return nil
}

func TestADefinitionIsStoredWithItsSecret(t *testing.T) {
	d := onEMQX("http://10.0.0.1:18083")
	d.EMQX.API, d.EMQX.MQTTPort, d.EMQX.PollInterval = 4, 2883, foreign.Duration(90*time.Second)
	d.EMQX.Addresses = map[string]string{"emqx@a": "b:1"}
	d.EMQX.TLS = &foreign.TLS{CAFile: "/ca.pem", InsecureSkipVerify: true}
	s := onStatic("a:1")
	s.Static.Rise, s.Static.CheckTimeout = 7, foreign.Duration(time.Second)
	for _, d := range []foreign.Definition{d, s} {
		b, err := foreign.Encode(d)
		if err != nil {
			t.Fatal(err)
		}
		got, err := foreign.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(d, got); diff != "" {
			t.Errorf("from %s: %s", b, diff)
		}
	}
	if d.EMQX.Secret != secret {
		t.Error("Encode has changed the definition")
	}
}

func TestAStoredDefinitionReadsWell(t *testing.T) {
	d := onEMQX("http://a")
	d.EMQX.PollInterval = foreign.Duration(90 * time.Second)
	b, err := foreign.Encode(d)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"name":"plant","kind":"emqx","emqx":{"urls":["http://a"],"key":"` + key + `","poll_interval":"1m30s","secret":"` + secret + `"}}`
	if string(b) != want {
		t.Errorf("%s\nwant\n%s", b, want)
	}
}

func TestADefinitionOfALaterReleaseCanBeRead(t *testing.T) {
	got, err := foreign.Decode([]byte(`{"name":"a","kind":"static","static":{"nodes":[{"address":"a:1","zone":"z"}],"new":1},"newer":{}}`))
	want := foreign.Definition{
		Name: "a", Kind: "static", Static: &foreign.Static{Nodes: []foreign.StaticNode{{Address: "a:1"}}},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	for _, bad := range []string{"", "{", `{"name":1}`, `{"static":{"check_interval":"5"}}`, `{"static":{"check_interval":5}}`} {
		if _, err := foreign.Decode([]byte(bad)); err == nil {
			t.Errorf("%s is read", bad)
		}
	}
}

func TestASecretIsShownNowhere(t *testing.T) {
	d := onEMQX("http://a")
	var shown bytes.Buffer
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		fmt.Fprintf(&shown, format+format+format, d, &d, *d.EMQX)
	}
	b, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	shown.Write(b)
	for _, h := range []slog.Handler{slog.NewJSONHandler(&shown, nil), slog.NewTextHandler(&shown, nil)} {
		slog.New(h).InfoContext(context.Background(), "", slog.Any("a", d), slog.Any("b", d.EMQX), slog.Any("c", struct{ D foreign.Definition }{d}))
	}
	if strings.Contains(shown.String(), secret) {
		t.Errorf("the secret is told: %s", &shown)
	}
	if got, want := d.String(), `emqx cluster "plant"`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
