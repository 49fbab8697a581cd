package foreign

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/beeline-mqtt/beeline/internal/config"
)

const (
	maxName        = 64
	maxURLs        = 8
	maxStaticNodes = 1000
	maxHost        = 253
	maxWeight      = 1 << 20
	maxRise        = 100

	leastInterval, mostInterval = Duration(time.Second), Duration(time.Hour)
	leastTimeout, mostTimeout   = Duration(10 * time.Millisecond), Duration(time.Minute)
)

// Validate says which fields are wrong, as config.KeyErrors that are joined. Zero stands for a default everywhere but
// where there is none. No error holds a secret.
func (d Definition) Validate() error {
	var errs []error
	if !isName(d.Name) {
		errs = append(errs, config.Invalid("name",
			"must be 1 to %d letters, digits, dots, dashes and underscores, the first a letter or digit", maxName))
	}
	switch d.Kind {
	case KindEMQX:
		errs = append(errs, d.EMQX.validate(), absent("static", d.Static != nil, d.Kind))
	case KindStatic:
		errs = append(errs, d.Static.validate(), absent("emqx", d.EMQX != nil, d.Kind))
	default:
		errs = append(errs, config.Invalid("kind", "must be %s or %s, is %q", KindEMQX, KindStatic, string(d.Kind)))
	}
	return errors.Join(append(errs, d.Channel.validate())...)
}

func absent(field string, there bool, kind Kind) error {
	if there {
		return config.Invalid(field, "means nothing to a cluster of kind %s", kind)
	}
	return nil
}

func (e *EMQX) validate() error {
	if e == nil {
		return config.Invalid("emqx", "must be given")
	}
	var errs []error
	if n := len(e.URLs); n < 1 || n > maxURLs {
		errs = append(errs, config.Invalid("emqx.urls", "must be 1 to %d, are %d", maxURLs, n))
	}
	for i, u := range e.URLs {
		if err := validateURL(u); err != nil {
			errs = append(errs, config.Invalid(fmt.Sprintf("emqx.urls[%d]", i), "%w", err))
		}
	}
	if e.Key == "" || strings.Contains(e.Key, ":") {
		errs = append(errs, config.Invalid("emqx.key", "must be given, without a colon"))
	}
	switch {
	case (e.Secret == "") == (e.SecretFile == ""):
		errs = append(errs, config.Invalid("emqx.secret", "either this or secret_file must be given"))
	case e.Secret != "" && string(e.Secret) == e.Secret.String():
		errs = append(errs, config.Invalid("emqx.secret", "is what is shown instead of a secret: give the secret itself"))
	}
	if e.API != 0 && e.API != 4 && e.API != 5 {
		errs = append(errs, config.Invalid("emqx.api", "must be 4 or 5, is %d", e.API))
	}
	errs = append(errs, within("emqx.poll_interval", e.PollInterval, leastInterval, mostInterval))
	if len(e.Addresses) > maxNodes {
		errs = append(errs, config.Invalid("emqx.addresses", "must be at most %d, are %d", maxNodes, len(e.Addresses)))
	}
	for _, from := range slices.Sorted(maps.Keys(e.Addresses)) {
		if _, _, err := hostPort(e.Addresses[from], defaultMQTTPort); err != nil {
			errs = append(errs, config.Invalid(fmt.Sprintf("emqx.addresses[%q]", from), "%w", err))
		}
	}
	return errors.Join(errs...)
}

func (s *Static) validate() error {
	if s == nil {
		return config.Invalid("static", "must be given")
	}
	var errs []error
	if n := len(s.Nodes); n < 1 || n > maxStaticNodes {
		errs = append(errs, config.Invalid("static.nodes", "must be 1 to %d, are %d", maxStaticNodes, n))
	}
	seen := map[string]bool{}
	for i, n := range s.Nodes {
		field := fmt.Sprintf("static.nodes[%d]", i)
		if _, _, err := hostPort(n.Address, 0); err != nil {
			errs = append(errs, config.Invalid(field+".address", "%w", err))
		}
		if seen[n.Address] {
			errs = append(errs, config.Invalid(field+".address", "%q is there twice", n.Address))
		}
		seen[n.Address] = true
		if n.Weight > maxWeight {
			errs = append(errs, config.Invalid(field+".weight", "must be at most %d, is %d", maxWeight, n.Weight))
		}
	}
	errs = append(errs,
		within("static.check_interval", s.CheckInterval, leastInterval, mostInterval),
		within("static.check_timeout", s.CheckTimeout, leastTimeout, mostTimeout),
		within("static.rise", s.Rise, 1, maxRise),
		within("static.fall", s.Fall, 1, maxRise))
	return errors.Join(errs...)
}

func within[T int | Duration](field string, v, least, most T) error {
	if v != 0 && (v < least || v > most) {
		return config.Invalid(field, "must be %v to %v, is %v", least, most, v)
	}
	return nil
}

func isName(s string) bool {
	for i, r := range s {
		word := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !word && (i == 0 || !strings.ContainsRune("._-", r)) {
			return false
		}
	}
	return s != "" && len(s) <= maxName
}

// validateURL does not repeat the URL in its errors: it may hold a password.
func validateURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return errors.New("must be a URL like http://host:18083")
	case u.User != nil:
		return errors.New("must not hold a user name or password: give key and secret")
	case u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
		return errors.New("must end after the port: the path is that of the API")
	}
	return nil
}

// hostPort takes host:port apart, or a host alone if there is a port for that.
func hostPort(s string, otherwise uint16) (host string, port uint16, err error) {
	_, err = netip.ParseAddr(s)
	if alone := err == nil || !strings.Contains(s, ":"); alone && otherwise != 0 {
		host, port = s, otherwise
	} else {
		var number string
		host, number, err = net.SplitHostPort(s)
		if err != nil {
			return "", 0, fmt.Errorf("%q is not host:port", s)
		}
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil || n == 0 {
			return "", 0, fmt.Errorf("%q has no port of 1 to 65535", s)
		}
		port = uint16(n)
	}
	if !isHost(host) {
		return "", 0, fmt.Errorf("%q has no host that can be one", s)
	}
	return host, port, nil
}

// isHost says that a name may be looked up, or is an IP address.
func isHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	for _, r := range s {
		word := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !word && !strings.ContainsRune("._-", r) {
			return false
		}
	}
	return s != "" && len(s) <= maxHost
}
