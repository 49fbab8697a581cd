package book

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/beeline-mqtt/beeline/internal/cluster"
)

// The rules by which a client can be assigned, in the order in which they stand in Assignments' keys.
const (
	ClientID = "client_id" // Value is a client id
	Default  = "default"   // Value is the name of the cluster: there is one for each that takes its share
	Exact    = "exact"     // Value is the text of the keyed hash of client id, user name and password
	Prefix   = "prefix"    // Value begins a client id
	Username = "username"  // Value is a user name
)

const (
	// version is that of all values here. A change that an older router would misread raises it: one that finds a
	// higher version than its own takes the entry for unreadable. Added fields do not raise it.
	version = 1

	mostValue      = 65_535 // bytes of an MQTT string
	mostName       = 255
	mostDefinition = 64 << 10

	kindAssignment = "assignment"
	kindCluster    = "cluster"
)

// Assignment says that the clients that Rule and Value mean belong to Cluster.
type Assignment struct {
	Rule, Value string
	// Cluster is the name of a cluster, which need not be there.
	Cluster string
	// Weight is the share of this one among several with Default; others do not have one.
	Weight uint32
	// Revision is that of the etcd that changed it last. Put and Delete ignore it.
	Revision int64
}

// Cluster is where clients can be assigned to.
type Cluster struct {
	Name string
	// Definition is a JSON value that this package does not look into. Nobody changes its bytes.
	Definition json.RawMessage
	// Revision is that of the etcd that changed it last. Put and Delete ignore it.
	Revision int64
}

// The parts of the store, as they stand in keys.
const (
	assignments = "assignments"
	clusters    = "clusters"
	nodeRecords = "nodes"
)

// prefixOf begins all keys of a part.
func prefixOf(k cluster.Keys, part string) string { return k.Prefix() + "router/" + part + "/" }

// sweptKey names the day of the last complete sweep.
func sweptKey(k cluster.Keys) string { return k.Prefix() + "router/swept" }

// escape makes a part of a key of any bytes.
func escape(s string) string { return url.PathEscape(s) }

// unescape accepts what escape makes and nothing else, so that no two keys mean the same.
func unescape(s string) (string, error) {
	value, err := url.PathUnescape(s)
	if err != nil {
		return "", fmt.Errorf("unescape: %w", err)
	}
	if escape(value) != s {
		return "", fmt.Errorf("unescape %q: is written in another way", s)
	}
	return value, nil
}

// assignmentID is what comes after the prefix in the key of an assignment.
func assignmentID(rule, value string) string { return rule + "/" + escape(value) }

// nodeID is what comes after the prefix in the key of the recorded node of a client in a cluster.
func nodeID(name, key string) string { return escape(name) + "/" + escape(key) }

// assignmentValue, clusterValue and nodeValue are JSON in etcd; unknown fields are ignored.
type assignmentValue struct {
	Version int    `json:"v"`
	Cluster string `json:"cluster"`
	Weight  uint32 `json:"weight,omitempty"`
}

type clusterValue struct {
	Version    int             `json:"v"`
	Definition json.RawMessage `json:"definition"`
}

// nodeValue has the day, counted from the first of January 1970 in UTC, on which it was written.
type nodeValue struct {
	Version int    `json:"v"`
	Node    string `json:"node"`
	Day     int64  `json:"day"`
}

func (a Assignment) validate() error {
	switch a.Rule {
	case Default:
		if a.Value != a.Cluster {
			return fmt.Errorf("the value of a default is the cluster's name: %w", ErrInvalid)
		}
	case ClientID, Exact, Prefix, Username:
		if a.Value == "" || len(a.Value) > mostValue {
			return fmt.Errorf("a value has 1 to %d bytes: %w", mostValue, ErrInvalid)
		}
	default:
		return fmt.Errorf("rule %q is none: %w", a.Rule, ErrInvalid)
	}
	return validateName(a.Cluster)
}

func (c Cluster) validate() error {
	if len(c.Definition) > mostDefinition || !json.Valid(c.Definition) {
		return fmt.Errorf("a definition is JSON of up to %d bytes: %w", mostDefinition, ErrInvalid)
	}
	return validateName(c.Name)
}

func validateName(name string) error {
	if name == "" || len(name) > mostName || !utf8.ValidString(name) {
		return fmt.Errorf("the name of a cluster has 1 to %d bytes of UTF-8: %w", mostName, ErrInvalid)
	}
	return nil
}

func decodeAssignment(id string, kv *mvccpb.KeyValue) (Assignment, error) {
	var v assignmentValue
	if err := json.Unmarshal(kv.Value, &v); err != nil {
		return Assignment{}, fmt.Errorf("decode assignment: %w", err)
	}
	if err := checkVersion(v.Version); err != nil {
		return Assignment{}, err
	}
	rule, escaped, ok := strings.Cut(id, "/")
	if !ok {
		return Assignment{}, errors.New("decode assignment: its key has no value")
	}
	value, err := unescape(escaped)
	if err != nil {
		return Assignment{}, err
	}
	a := Assignment{Rule: rule, Value: value, Cluster: v.Cluster, Weight: v.Weight, Revision: kv.ModRevision}
	return a, a.validate()
}

func decodeCluster(id string, kv *mvccpb.KeyValue) (Cluster, error) {
	var v clusterValue
	if err := json.Unmarshal(kv.Value, &v); err != nil {
		return Cluster{}, fmt.Errorf("decode cluster: %w", err)
	}
	if err := checkVersion(v.Version); err != nil {
		return Cluster{}, err
	}
	name, err := unescape(id)
	if err != nil {
		return Cluster{}, err
	}
	c := Cluster{Name: name, Definition: v.Definition, Revision: kv.ModRevision}
	return c, c.validate()
}

func decodeNode(value []byte) (nodeValue, error) {
	var v nodeValue
	if err := json.Unmarshal(value, &v); err != nil {
		return nodeValue{}, fmt.Errorf("decode recorded node: %w", err)
	}
	if v.Node == "" {
		return nodeValue{}, errors.New("decode recorded node: there is none")
	}
	return v, checkVersion(v.Version)
}

func checkVersion(v int) error {
	if v < 1 || v > version {
		return fmt.Errorf("version %d is not known here", v)
	}
	return nil
}

// encode makes the value of a key.
func encode(value any) (string, error) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	// It would make a definition longer than it may be.
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		return "", fmt.Errorf("encode: %w", err)
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}
