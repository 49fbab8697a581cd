package foreign

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/beeline-mqtt/beeline/internal/config"
	"github.com/beeline-mqtt/beeline/internal/topic"
)

// What stands for something in the topics of a channel.
const (
	forClient = "{client_id}"
	forTopic  = "{topic}"
	forRouter = "{router}"
)

// defaultAnswerTopic is where devices answer to.
const defaultAnswerTopic = "beeline/answers/" + forRouter

// Channel is how commands get to the devices of a cluster: by an MQTT 5 connection to one of its nodes.
type Channel struct {
	// CommandTopic is where commands are published; {client_id} and {topic} are in it.
	CommandTopic string `json:"command_topic"`
	// AnswerTopic is where devices publish their answers; {router} stands for the router. "beeline/answers/{router}" by
	// default.
	AnswerTopic string `json:"answer_topic,omitempty"`
	// Username is empty for none. PasswordFile is read for each connection; empty: no password.
	Username     string `json:"username,omitempty"`
	PasswordFile string `json:"password_file,omitempty"`
	// TLS is nil for none.
	TLS *ChannelTLS `json:"tls,omitempty"`
}

// ChannelTLS says whom to trust, and with which certificate to connect. The files are read for each connection.
type ChannelTLS struct {
	// CAFile holds PEM certificates; empty: those of the system.
	CAFile string `json:"ca_file,omitempty"`
	// ServerName is expected in the certificate; empty: the host of the node.
	ServerName string `json:"server_name,omitempty"`
	// CertFile and KeyFile are both given, or neither.
	CertFile string `json:"cert_file,omitempty"`
	KeyFile  string `json:"key_file,omitempty"`
}

func (c *Channel) validate() error {
	if c == nil {
		return nil
	}
	var errs []error
	for _, x := range []string{forClient, forTopic} {
		if strings.Count(c.CommandTopic, x) != 1 {
			errs = append(errs, config.Invalid("channel.command_topic", "must have %s once", x))
		}
	}
	if err := topic.ValidateName(c.CommandTopic, topic.DefaultLimits()); err != nil {
		errs = append(errs, config.Invalid("channel.command_topic", "%w", err))
	}
	if err := topic.ValidateName(c.Answers("router"), topic.DefaultLimits()); err != nil {
		errs = append(errs, config.Invalid("channel.answer_topic", "%w", err))
	}
	if c.PasswordFile != "" && c.Username == "" {
		errs = append(errs, config.Invalid("channel.username", "must be given with password_file"))
	}
	if c.TLS != nil && (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		errs = append(errs, config.Invalid("channel.tls.cert_file", "must be given with key_file, or neither"))
	}
	return errors.Join(errs...)
}

// ErrNotOneLevel says that a client id would be more than one level of a topic, or a filter.
var ErrNotOneLevel = errors.New("the cluster's channel has no topic for a client id with / + or #")

// Commands is the topic of a command for a client. The error is ErrNotOneLevel, or one of package topic.
func (c *Channel) Commands(clientID, rest string) (string, error) {
	if strings.ContainsAny(clientID, "/+#") {
		return "", ErrNotOneLevel
	}
	name := strings.NewReplacer(forClient, clientID, forTopic, rest).Replace(c.CommandTopic)
	if err := topic.ValidateName(name, topic.DefaultLimits()); err != nil {
		return "", err
	}
	return name, nil
}

// Answers is the topic on which a router gets answers.
func (c *Channel) Answers(router string) string {
	return strings.ReplaceAll(cmp.Or(c.AnswerTopic, defaultAnswerTopic), forRouter, router)
}

// Password reads the password; nil when there is none. A line end behind it does not belong to it.
func (c *Channel) Password() ([]byte, error) {
	if c.PasswordFile == "" {
		return nil, nil
	}
	b, err := os.ReadFile(c.PasswordFile)
	if err != nil {
		return nil, fmt.Errorf("channel.password_file: %w", err)
	}
	return []byte(strings.TrimRight(string(b), "\r\n")), nil
}

// Config reads the files. host is that of the node. It returns nil when there is no TLS.
func (t *ChannelTLS) Config(host string) (*tls.Config, error) {
	if t == nil {
		return nil, nil //nolint:nilnil // nil is what crypto/tls and others take for no TLS
	}
	c := &tls.Config{ServerName: cmp.Or(t.ServerName, host), MinVersion: tls.VersionTLS12}
	if t.CAFile != "" {
		b, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("channel.tls.ca_file: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("channel.tls.ca_file: %w", errNoCertificate)
		}
	}
	if t.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("channel.tls.cert_file: %w", err)
		}
		c.Certificates = []tls.Certificate{cert}
	}
	return c, nil
}

var errNoCertificate = errors.New("has no certificate")
