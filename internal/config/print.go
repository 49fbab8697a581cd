package config

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"text/tabwriter"
	"time"

	"go.yaml.in/yaml/v3"
)

// writeYAML writes cfg, a struct, as a file that --config would read, in the order of its fields, with secrets
// masked.
func writeYAML(w io.Writer, cfg any) error {
	v := reflect.New(reflect.TypeOf(cfg)).Elem()
	v.Set(reflect.ValueOf(cfg))
	node, err := section(v)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	enc := yaml.NewEncoder(&text)
	enc.SetIndent(2)
	if err := errors.Join(enc.Encode(node), enc.Close()); err != nil {
		return err
	}
	_, err = text.WriteTo(w)
	return err
}

func section(v reflect.Value) (*yaml.Node, error) {
	node := &yaml.Node{Kind: yaml.MappingNode}
	return node, appendSection(node, v)
}

func appendSection(node *yaml.Node, v reflect.Value) error {
	fields, err := fieldsOf(v)
	if err != nil {
		return err
	}
	for _, f := range fields {
		if f.squashed {
			if err := appendSection(node, f.value); err != nil {
				return err
			}
			continue
		}
		value, err := valueNode(f.value)
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		node.Content = append(node.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: f.name}, value)
	}
	return nil
}

func valueNode(v reflect.Value) (*yaml.Node, error) {
	switch {
	case isSection(v.Type()):
		return section(v)
	case v.Kind() == reflect.Slice && !readsText(v.Type()):
		list := &yaml.Node{Kind: yaml.SequenceNode}
		for i := range v.Len() {
			element, err := valueNode(v.Index(i))
			if err != nil {
				return nil, err
			}
			list.Content = append(list.Content, element)
		}
		if v.Len() == 0 {
			list.Style = yaml.FlowStyle
		}
		return list, nil
	default:
		node := new(yaml.Node)
		return node, node.Encode(plain(v))
	}
}

// plain turns durations, sizes and other types that write themselves into their text. v is addressable.
func plain(v reflect.Value) any {
	if d, ok := v.Interface().(time.Duration); ok {
		return d.String()
	}
	if m, ok := v.Addr().Interface().(encoding.TextMarshaler); ok {
		text, err := m.MarshalText()
		if err != nil {
			return err.Error()
		}
		return string(text)
	}
	return v.Interface()
}

// help is the text before the list of keys.
const help = `Usage: %s [flags]

Values come from the defaults, then the YAML file, then the environment, then flags; the later wins.
A key a.b.some_key is --a.b.some_key=value as a flag and %sA__B__SOME_KEY=value in the environment.

  --config file    the YAML file (also %s)
  --check-config   validate the configuration and stop
  --print-config   print the effective configuration with secrets masked, and stop
  --help           print this text and stop
%s
Keys and defaults:

`

// writeHelp lists the flags and keys with their defaults.
func writeHelp(src Source, keys []key) error {
	var text bytes.Buffer
	commands := ""
	if src.Commands != "" {
		commands = "\nIn place of running, with the same flags:\n\n" + src.Commands
	}
	fmt.Fprintf(&text, help, src.Program, EnvPrefix, EnvFile, commands)
	var rows strings.Builder
	for _, k := range keys {
		rows.WriteString("  " + k.path + "\t" + defaultText(k))
		if k.help != "" {
			rows.WriteString("\t" + k.help)
		}
		rows.WriteString("\n")
	}
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	_, err := io.WriteString(w, rows.String())
	if err := errors.Join(err, w.Flush()); err != nil {
		return err
	}
	_, err = text.WriteTo(src.Output)
	return err
}

// defaultText writes the default of a key on one line.
func defaultText(k key) string {
	if k.fileOnly {
		return fmt.Sprintf("(list of sections, %d by default; file only)", k.value.Len())
	}
	if k.value.Kind() != reflect.Slice || readsText(k.value.Type()) {
		if s := fmt.Sprint(plain(k.value)); s != "" {
			return s
		}
		return `""`
	}
	elements := make([]string, k.value.Len())
	for i := range elements {
		elements[i] = fmt.Sprint(plain(k.value.Index(i)))
	}
	return "[" + strings.Join(elements, ", ") + "]"
}
