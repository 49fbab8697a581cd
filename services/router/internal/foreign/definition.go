package foreign

import (
	"cmp"
	"encoding/json"
	"fmt"
	"time"

	"github.com/beeline-mqtt/beeline/internal/config"
)

// Kind says where a cluster's nodes are known from.
type Kind string

// The kinds of clusters.
const (
	// KindEMQX: from EMQX's management API.
	KindEMQX Kind = "emqx"
	// KindStatic: from the definition.
	KindStatic Kind = "static"
)

// Definition says what a foreign cluster is. What is left zero has a default. It is not changed once it is in
// use. Its JSON, as package json writes it, does not tell the secret; that of Encode does.
type Definition struct {
	// Name is 1 to 64 letters, digits, dots, dashes and underscores, and begins with a letter or digit.
	Name string `json:"name"`
	Kind Kind   `json:"kind"`
	// EMQX is set for KindEMQX only, Static for KindStatic only.
	EMQX   *EMQX   `json:"emqx,omitempty"`
	Static *Static `json:"static,omitempty"`
	// Channel is how commands get to its devices; nil: they do not.
	Channel *Channel `json:"channel,omitempty"`
}

// EMQX says how EMQX's management API is asked, and how its nodes are reached.
type EMQX struct {
	// URLs are of the management API without its path, like "http://10.0.0.1:18083": 1 to 8. They are tried in turn.
	URLs []string `json:"urls"`
	// Key and the secret are an API key of EMQX 5, an application of EMQX 4.
	Key string `json:"key"`
	// Secret is the secret itself, SecretFile the file that holds it, read at every poll; one of the two.
	Secret     config.Secret `json:"secret,omitempty"`
	SecretFile string        `json:"secret_file,omitempty"`
	// API is the version of the API: 5, the default, or 4.
	API int `json:"api,omitempty"`
	// PollInterval is 1 s to 1 h; 5 s by default.
	PollInterval Duration `json:"poll_interval,omitzero"`
	// MQTTPort is that of the nodes' listeners: 1883 by default.
	MQTTPort uint16 `json:"mqtt_port,omitempty"`
	// Addresses says how nodes are reached that are not reachable by their names: from the name of a node or its host
	// to a host or host:port. The name of a node goes before its host.
	Addresses map[string]string `json:"addresses,omitempty"`
	// TLS is for URLs that begin with https; nil: verified with the certificates of the system.
	TLS *TLS `json:"tls,omitempty"`
}

// TLS says whom to trust.
type TLS struct {
	// CAFile holds PEM certificates, read at every poll; empty: those of the system.
	CAFile string `json:"ca_file,omitempty"`
	// ServerName is expected in the certificate; empty: the host of the URL.
	ServerName string `json:"server_name,omitempty"`
	// InsecureSkipVerify trusts everybody.
	InsecureSkipVerify bool `json:"insecure_skip_verify,omitempty"`
}

// Static is a list of nodes and how they are checked.
type Static struct {
	// Nodes are 1 to 1,000.
	Nodes []StaticNode `json:"nodes"`
	// CheckInterval is 1 s to 1 h; 5 s by default. Names are resolved anew as often.
	CheckInterval Duration `json:"check_interval,omitzero"`
	// CheckTimeout is 10 ms to 1 min; 2 s by default.
	CheckTimeout Duration `json:"check_timeout,omitzero"`
	// Rise is how many checks in a row an inactive node passes to be active, Fall how many an active one fails to be
	// inactive: 1 to 100; 2 and 3 by default. The first check of a node decides alone.
	Rise int `json:"rise,omitempty"`
	Fall int `json:"fall,omitempty"`
}

// StaticNode is an entry of a static list.
type StaticNode struct {
	// Address is host:port. A name with several addresses gives several nodes, 256 at most; of a name with IPv4 and
	// IPv6 addresses only the former count, since both are likely to be those of the same brokers.
	Address string `json:"address"`
	// Weight is 1 by default, and that of each node that the entry gives.
	Weight uint32 `json:"weight,omitempty"`
}

// Duration is a duration whose text carries its unit, like "5s".
type Duration time.Duration

// String writes it as time.Duration does.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText is String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what time.ParseDuration does.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration: write a number with its unit, like 5s", text)
	}
	*d = Duration(parsed)
	return nil
}

// String names the cluster and its kind, nothing else.
func (d Definition) String() string { return fmt.Sprintf("%s cluster %q", d.Kind, d.Name) }

// Encode returns a definition as JSON with its secret, for a store that keeps it from others.
func Encode(d Definition) ([]byte, error) {
	type emqx struct {
		*EMQX

		Secret string `json:"secret,omitempty"` // goes before the field of the same name within
	}
	stored := struct {
		Definition

		EMQX *emqx `json:"emqx,omitempty"`
	}{Definition: d}
	if d.EMQX != nil {
		stored.EMQX = &emqx{EMQX: d.EMQX, Secret: string(d.EMQX.Secret)}
	}
	b, err := json.Marshal(stored)
	if err != nil {
		return nil, fmt.Errorf("encode %v: %w", d, err)
	}
	return b, nil
}

// Decode reads what Encode wrote. Fields that it does not know are ignored. It does not validate.
func Decode(b []byte) (Definition, error) {
	var d Definition
	if err := json.Unmarshal(b, &d); err != nil {
		return Definition{}, fmt.Errorf("decode definition of a cluster: %w", err)
	}
	return d, nil
}

// Defaults of definitions. EMQX's nodes are checked with them while its API does not answer.
const (
	defaultInterval = Duration(5 * time.Second)
	defaultTimeout  = Duration(2 * time.Second)
	defaultRise     = 2
	defaultFall     = 3
	defaultAPI      = 5
	defaultMQTTPort = 1883
	defaultWeight   = 1
)

// withDefaults is the definition with nothing left out. It shares no struct with d.
func (d Definition) withDefaults() Definition {
	if d.EMQX != nil {
		e := *d.EMQX
		e.PollInterval = cmp.Or(e.PollInterval, defaultInterval)
		e.API = cmp.Or(e.API, defaultAPI)
		e.MQTTPort = cmp.Or(e.MQTTPort, defaultMQTTPort)
		e.TLS = cmp.Or(e.TLS, new(TLS))
		d.EMQX = &e
	}
	if d.Static != nil {
		s := *d.Static
		s.CheckInterval = cmp.Or(s.CheckInterval, defaultInterval)
		s.CheckTimeout = cmp.Or(s.CheckTimeout, defaultTimeout)
		s.Rise = cmp.Or(s.Rise, defaultRise)
		s.Fall = cmp.Or(s.Fall, defaultFall)
		d.Static = &s
	}
	return d
}
