// Package config fills the configuration struct of a process from a YAML file, the environment and flags.
//
// The struct as it is given holds the defaults. Over them come, the later winning: the file (--config, or
// BEELINE_CONFIG), the environment (BEELINE_MQTT__KEEP_ALIVE for the key mqtt.keep_alive: upper case, two
// underscores between the levels) and flags (--mqtt.keep_alive=60s). Nothing is guessed: a key that the struct
// does not have, a value of another type, a duration without its unit is an error that names the key and where
// it came from.
//
// Keys come from the tags `koanf:"snake_case"`, which every exported field has; an optional tag `help` is shown
// by --help. Fields are bools, numbers, strings, durations, Bytes, Secret, types that read themselves from text
// (encoding.TextUnmarshaler), slices of those, structs, and slices of structs (file only). An embedded struct
// with the tag `koanf:",squash"` adds its keys to those of the struct around it.
//
// The package keeps no state and starts nothing. It does not know any key: each package owns its own struct,
// its defaults and its Validate.
package config

import (
	"errors"
	"fmt"
	"io"
	"reflect"

	"github.com/spf13/pflag"
)

// ErrDone says that --help, --check-config or --print-config has been answered: the process has nothing more
// to do and has not failed.
var ErrDone = errors.New("answered; nothing to run")

// Source is where the configuration of a process comes from.
type Source struct {
	// Program is the name of the program, with its sub-command if it has any.
	Program string
	// Commands says what the program does besides, if anything, for --help: lines like those of the flags there.
	Commands string
	// Args are the arguments after the name of the program and the sub-command.
	Args []string
	// Environ is the environment, as os.Environ returns it.
	Environ []string
	// Output takes the answers to --help, --check-config and --print-config.
	Output io.Writer
}

// Load returns defaults overlaid with what src says, validated: Validate() error is called on every struct of
// it that has one, inner ones first, and the errors are joined under the full names of their keys. It returns
// ErrDone when src asked a question and Load has answered it. T is a struct.
func Load[T any](defaults T, src Source) (T, error) {
	cfg := defaults
	keys, err := keysOf(reflect.ValueOf(&cfg).Elem())
	if err != nil {
		return defaults, fmt.Errorf("configuration struct %T: %w", cfg, err)
	}
	flags, ask := newFlags(src, keys)
	if err := flags.Parse(src.Args); err != nil {
		return defaults, fmt.Errorf("read flags: %w", err)
	}
	if flags.NArg() > 0 {
		return defaults, fmt.Errorf("read flags: unexpected argument %q", flags.Arg(0))
	}
	if ask.help {
		return defaults, answer(writeHelp(src, keys))
	}
	for _, l := range layers(src, ask.file, flags) {
		if err := l.decode(&cfg); err != nil {
			return defaults, err
		}
	}
	if ask.print {
		if err := writeYAML(src.Output, cfg); err != nil {
			return defaults, answer(err)
		}
	}
	if err := validate("", reflect.ValueOf(&cfg).Elem()); err != nil {
		return defaults, fmt.Errorf("configuration: %w", err)
	}
	switch {
	case ask.print:
		return cfg, ErrDone
	case ask.check:
		_, err := fmt.Fprintln(src.Output, "configuration is valid")
		return cfg, answer(err)
	}
	return cfg, nil
}

// answer is ErrDone unless answering went wrong.
func answer(err error) error {
	if err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return ErrDone
}

// questions are the flags that are not keys.
type questions struct {
	file               string
	help, check, print bool
}

// newFlags makes a flag of every key that a flag can set. Their values are read as text and converted with
// those of the environment.
func newFlags(src Source, keys []key) (*pflag.FlagSet, *questions) {
	fs := pflag.NewFlagSet(src.Program, pflag.ContinueOnError)
	fs.SetOutput(io.Discard) // the error says it all
	fs.Usage = func() {}
	ask := &questions{file: fileFromEnviron(src.Environ)}
	fs.StringVar(&ask.file, "config", ask.file, "")
	fs.BoolVarP(&ask.help, "help", "h", false, "")
	fs.BoolVar(&ask.check, "check-config", false, "")
	fs.BoolVar(&ask.print, "print-config", false, "")
	for _, k := range keys {
		if k.fileOnly {
			continue
		}
		f := fs.VarPF(new(text), k.path, "", "")
		if k.value.Kind() == reflect.Bool {
			f.NoOptDefVal = "true"
		}
	}
	return fs, ask
}

// text is the value of a flag, as it was typed.
type text string

func (t *text) String() string     { return string(*t) }
func (t *text) Set(s string) error { *t = text(s); return nil }
func (*text) Type() string         { return "value" }
