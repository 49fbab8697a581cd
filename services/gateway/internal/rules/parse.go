package rules

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// entry is a rule as it is written.
type entry struct {
	Permission string       `yaml:"permission"`
	Action     string       `yaml:"action"`
	Topic      some[string] `yaml:"topic"`
	QoS        some[int]    `yaml:"qos"`
	Retain     *bool        `yaml:"retain"`
	Username   some[string] `yaml:"username"`
	ClientID   some[string] `yaml:"client_id"`
}

// some is one value, or a list of them. It is nil when nothing is written.
type some[T any] []T

// UnmarshalYAML implements yaml.Unmarshaler.
func (s *some[T]) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.SequenceNode {
		if len(node.Content) == 0 {
			return fmt.Errorf("line %d: an empty list would mean all", node.Line)
		}
		return node.Decode((*[]T)(s))
	}
	var one T
	if err := node.Decode(&one); err != nil {
		return err
	}
	*s = some[T]{one}
	return nil
}

// ParseFile reads a file of rules, YAML or JSON: a list with the name "rules".
func ParseFile(text []byte) (*Set, error) {
	var file struct {
		Rules []entry `yaml:"rules"`
	}
	if err := decode(text, &file); err != nil {
		return nil, err
	}
	return newSet(file.Rules)
}

// ParseList reads the list alone.
func ParseList(text []byte) (*Set, error) {
	var list []entry
	if err := decode(text, &list); err != nil {
		return nil, err
	}
	return newSet(list)
}

// decode reads one document. What is not there would mean all: a key without a value is an error.
func decode(text []byte, to any) error {
	var all yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&all); errors.Is(err, io.EOF) {
		return nil
	} else if err != nil {
		return err
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return errors.New("there is more than one document")
	}
	if n := emptyIn(&all); n != nil {
		return fmt.Errorf("line %d: a key has no value (# begins a comment in YAML: put quotes around topics)", n.Line)
	}
	d = yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	return d.Decode(to)
}

// emptyIn finds a node without a value.
func emptyIn(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return n
	}
	for _, inner := range n.Content {
		if empty := emptyIn(inner); empty != nil {
			return empty
		}
	}
	return nil
}

func newSet(entries []entry) (*Set, error) {
	s := &Set{rules: make([]rule, len(entries))}
	for i, e := range entries {
		r, err := e.rule()
		if err != nil {
			return nil, fmt.Errorf("rules[%d]: %w", i, err)
		}
		s.rules[i] = r
	}
	return s, nil
}

func (e *entry) rule() (rule, error) {
	r := rule{qos: 0b111, retain: 0b11, usernames: namesOf(e.Username), clientIDs: namesOf(e.ClientID)}
	switch e.Permission {
	case "allow":
		r.decision = Allowed
	case "deny":
		r.decision = Denied
	default:
		return r, fmt.Errorf("permission %q: there are allow and deny", e.Permission)
	}
	switch e.Action {
	case "publish":
		r.actions = Publish
	case "subscribe":
		r.actions = Subscribe
	case "all":
		r.actions = Publish | Subscribe
	default:
		return r, fmt.Errorf("action %q: there are publish, subscribe and all", e.Action)
	}
	if e.QoS != nil {
		r.qos = 0
	}
	for _, q := range e.QoS {
		if q < 0 || q > 2 {
			return r, fmt.Errorf("qos %d: there are 0, 1 and 2", q)
		}
		r.qos |= 1 << q
	}
	if e.Retain != nil {
		r.retain = 0b01
		if *e.Retain {
			r.retain = 0b10
		}
	}
	if len(e.Topic) == 0 {
		return r, errors.New("topic is missing")
	}
	for _, t := range e.Topic {
		p, err := parsePattern(t)
		if err != nil {
			return r, err
		}
		r.topics = append(r.topics, p)
	}
	return r, nil
}

// namesOf reads names: with a * at its end one is the beginning of names.
func namesOf(texts []string) []name {
	var names []name
	for _, t := range texts {
		n := name{text: t}
		n.text, n.prefix = strings.CutSuffix(t, "*")
		names = append(names, n)
	}
	return names
}
