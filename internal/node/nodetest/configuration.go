package nodetest

import (
	"net"
	"slices"
	"strings"
	"testing"
)

// Configuration tests what every program promises about its configuration: where it comes from, what wins, and
// that whatever is wrong with it is an error at start that names the key. section is the key under which the
// program has its own settings; required are variables that it does not do without.
func Configuration(t *testing.T, section string, required ...string) {
	t.Helper()
	p := program{section: section, required: required}
	t.Run("wrong configuration names the key", p.wrong)
	t.Run("what is set later wins", p.precedence)
	t.Run("secrets are not printed", p.secrets)
	t.Run("a configuration can be checked", p.check)
	t.Run("help lists the keys", p.help)
	t.Run("what is printed can be read", func(t *testing.T) {
		printed := Run(t, p.call(Call{Args: []string{"--rpc.tls.insecure", "--print-config"}}))
		again := Run(t, p.call(Call{Args: []string{"--config", File(t, printed.Stdout), "--print-config"}})) // a secret is masked
		if printed.Code != 0 || again.Code != 0 || printed.Stdout != again.Stdout {
			t.Errorf("exit codes %d and %d, stderr %q; printed\n%s\nthen\n%s", printed.Code, again.Code, again.Stderr, printed.Stdout, again.Stdout)
		}
	})
}

// program is what is tested.
type program struct {
	section  string
	required []string
}

// call is c with what is required.
func (p program) call(c Call) Call {
	c.Env = append(slices.Clone(p.required), c.Env...)
	return c
}

func (p program) wrong(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	tests := []struct {
		name string
		file string
		call Call
		want []string
	}{
		{name: "nothing is configured", want: []string{"rpc.tls.cert_file: is missing"}},
		{name: "unknown key", file: "stop_graze: 1s", want: []string{"unknown key stop_graze", "file "}},
		{name: "unknown key of its own", file: p.section + ":\n  colour: red", want: []string{"unknown key " + p.section + ".colour"}},
		{name: "file that is none", file: "a: [", want: []string{"read file "}},
		{name: "file that is not there", call: Call{Args: []string{"--config", "/no/such.yaml"}}, want: []string{"/no/such.yaml"}},
		{name: "unknown variable", call: Call{Env: []string{"BEELINE_COLOUR=red"}}, want: []string{"environment", "BEELINE_COLOUR"}},
		{name: "variable of another type", call: Call{Env: []string{"BEELINE_STOP_GRACE=soon"}}, want: []string{"environment: stop_grace: "}},
		{name: "unknown flag", call: Call{Args: []string{"--colour=red"}}, want: []string{"unknown flag: --colour"}},
		{name: "duration without a unit", call: Call{Args: []string{"--stop_grace=5"}}, want: []string{"flags", "stop_grace"}},
		{name: "argument", call: Call{Args: []string{"now"}}, want: []string{`unexpected argument "now"`}},
		{name: "bad address", call: Call{Args: []string{"--listen=nowhere"}}, want: []string{"listen: is not host:port"}},
		{name: "bad admin address", call: Call{Args: []string{"--admin.address=nowhere"}}, want: []string{"admin.address: is not host:port"}},
		{name: "bad address of etcd", call: Call{Args: []string{"--etcd.endpoints=nowhere"}}, want: []string{"etcd.endpoints: "}},
		{name: "missing certificate", call: Call{Args: []string{
			"--rpc.tls.insecure=false", "--rpc.tls.cert_file=/no/crt", "--rpc.tls.key_file=/no/key", "--rpc.tls.ca_file=/no/ca",
		}}, want: []string{"rpc.tls.cert_file: open /no/crt"}},
		{name: "address in use", call: Call{Args: []string{"--listen=" + taken.Addr().String()}}, want: []string{"listen: ", taken.Addr().String()}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := tt.call
			if tt.name != "nothing is configured" {
				c.Args = append([]string{"--rpc.tls.insecure"}, c.Args...)
			}
			if tt.file != "" {
				c.Args = append(c.Args, "--config", File(t, tt.file))
			}
			Fails(t, p.call(c), tt.want...)
		})
	}
}

func (p program) precedence(t *testing.T) {
	file := File(t, "rpc: {tls: {insecure: true}}\nstop_grace: 11s\nlog: {level: WARN}\nadmin: {address: '127.0.0.1:1'}\n")
	named, variable, flag := "BEELINE_CONFIG="+file, "BEELINE_STOP_GRACE=12s", "--stop_grace=13s"
	tests := []struct {
		name string
		call Call
		want []string
	}{
		{"defaults", Call{Args: []string{"--rpc.tls.insecure"}}, []string{"stop_grace: 30s", "level: INFO"}},
		{"file", Call{Args: []string{"--config", file}}, []string{"stop_grace: 11s", "level: WARN"}},
		{"file that a variable names", Call{Env: []string{named}}, []string{"stop_grace: 11s", "level: WARN"}},
		{"environment over file", Call{Env: []string{variable}, Args: []string{"--config", file}}, []string{"stop_grace: 12s", "level: WARN"}},
		{"flag over both", Call{Env: []string{named, variable}, Args: []string{flag}}, []string{"stop_grace: 13s", "level: WARN"}},
		{"a nested key as a variable", Call{Env: []string{named, "BEELINE_LOG__LEVEL=error"}}, []string{"level: ERROR"}},
		{"variables of others", Call{Env: []string{named, "BEELINES=1", "PATH=/bin"}}, []string{"stop_grace: 11s"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.call.Args = append(tt.call.Args, "--print-config")
			r := Run(t, p.call(tt.call))
			if r.Code != 0 || r.Stderr != "" {
				t.Errorf("exit code %d, stderr %q", r.Code, r.Stderr)
			}
			for _, want := range tt.want {
				if !strings.Contains(r.Stdout, want+"\n") {
					t.Errorf("no %q in\n%s", want, r.Stdout)
				}
			}
		})
	}
}

func (p program) secrets(t *testing.T) {
	for _, c := range []Call{
		{Env: []string{"BEELINE_ETCD__PASSWORD=swordfish"}},
		{Args: []string{"--etcd.password=swordfish"}},
		{Args: []string{"--config", File(t, "etcd: {password: swordfish}")}},
	} {
		c.Args = append(c.Args, "--rpc.tls.insecure", "--print-config")
		r := Run(t, p.call(c))
		if r.Code != 0 || strings.Contains(r.Stdout+r.Stderr, "swordfish") || !strings.Contains(r.Stdout, "********") {
			t.Errorf("exit code %d, printed\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
	}
}

func (p program) check(t *testing.T) {
	if r := Run(t, p.call(Call{Args: []string{"--rpc.tls.insecure", "--check-config"}})); r.Code != 0 || r.Stdout != "configuration is valid\n" {
		t.Errorf("exit code %d, printed %q, %q", r.Code, r.Stdout, r.Stderr)
	}
	Fails(t, p.call(Call{Args: []string{"--rpc.tls.insecure", "--stop_grace=0s", "--check-config"}}), "stop_grace: must be positive")
	Fails(t, p.call(Call{Args: []string{
		"--rpc.tls.cert_file=/no/crt", "--rpc.tls.key_file=/no/key", "--rpc.tls.ca_file=/no/ca", "--check-config",
	}}), "rpc.tls.cert_file: open /no/crt")
}

func (p program) help(t *testing.T) {
	for _, flag := range []string{"--help", "-h"} {
		r := Run(t, Call{Args: []string{flag}})
		if r.Code != 0 || r.Stderr != "" {
			t.Errorf("exit code %d, stderr %q", r.Code, r.Stderr)
		}
		for _, want := range []string{"--check-config", "health  ", "ready  ", "rpc.tls.cert_file ", "etcd.endpoints ", p.section + ".cluster "} {
			if !strings.Contains(r.Stdout, want) {
				t.Errorf("no %q in\n%s", want, r.Stdout)
			}
		}
	}
}
