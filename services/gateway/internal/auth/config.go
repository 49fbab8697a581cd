package auth

import (
	"slices"
	"strings"

	"github.com/beeline-mqtt/beeline/internal/config"
	"github.com/beeline-mqtt/beeline/internal/issuer"
)

// The methods, as they are configured.
const (
	methodPassword    = "password"
	methodJWT         = "jwt"
	methodCertificate = "certificate"
	methodAnonymous   = "anonymous"
)

// Config says who is let in, and what for.
type Config struct {
	// Methods are asked in their order; none: nobody is let in by this package.
	Methods []string `koanf:"methods" help:"how clients are authenticated, asked in this order: password, jwt, certificate, anonymous"`
	// RulesFile is the path of the rules; empty: whoever is let in may do everything.
	RulesFile string `koanf:"rules_file" help:"file with the rules of who may publish and subscribe to what (YAML or JSON); read again when it changes. Empty: all that is asked is permitted"`
	// ClientID is anyID or usernameID.
	ClientID string `koanf:"client_id" help:"client ids that a user may have: any, or username: only its user name"`
	// Failures bounds the failed attempts from one address within a minute; 0: any number.
	Failures    int               `koanf:"failures" help:"failed attempts a minute from one address, after which all from there are refused for a while; 0: any number"`
	Password    PasswordConfig    `koanf:"password"`
	JWT         JWTConfig         `koanf:"jwt"`
	Certificate CertificateConfig `koanf:"certificate"`
}

// What Config.ClientID may be.
const (
	anyID      = "any"
	usernameID = "username"
)

// PasswordConfig is of the method password.
type PasswordConfig struct {
	File string `koanf:"file" help:"file with the users: lines of user:bcrypt hash; read again when it changes"`
	// Concurrency bounds the passwords that are compared with hashes at the same time, Waiting those that wait for that.
	Concurrency int `koanf:"concurrency" help:"passwords compared with hashes at the same time; 0: for half of the processors"`
	Waiting     int `koanf:"waiting" help:"passwords that wait to be compared"`
}

// JWTConfig is of the method jwt: the password is a JWT.
type JWTConfig struct {
	issuer.Config `koanf:",squash"`

	SecretFile    string `koanf:"secret_file" help:"file with the secret that signs JWTs (HS256, HS384, HS512), instead of keys"`
	UsernameClaim string `koanf:"username_claim" help:"claim with the user name; if the client gives one, it has to be the same"`
	ClientIDClaim string `koanf:"client_id_claim" help:"claim that the client id has to be; empty: none"`
	RulesClaim    string `koanf:"rules_claim" help:"claim with rules of the client's own; empty: none"`
}

// CertificateConfig is of the method certificate.
type CertificateConfig struct {
	Username string `koanf:"username" help:"what of a client certificate is the user name: cn, or the alternative name dns, uri or email"`
}

// What CertificateConfig.Username may be.
const (
	nameCN    = "cn"
	nameDNS   = "dns"
	nameURI   = "uri"
	nameEmail = "email"
)

// DefaultConfig lets nobody in.
func DefaultConfig() Config {
	return Config{
		ClientID:    anyID,
		Failures:    30,
		Password:    PasswordConfig{Waiting: 256},
		JWT:         JWTConfig{Config: issuer.DefaultConfig(), UsernameClaim: "sub", RulesClaim: "acl"},
		Certificate: CertificateConfig{Username: nameCN},
	}
}

// Enabled reports whether there are methods.
func (c Config) Enabled() bool { return len(c.Methods) > 0 }

func (c Config) has(method string) bool { return slices.Contains(c.Methods, method) }

// Validate reports the first setting that cannot work, by its key.
func (c Config) Validate() error {
	known := []string{methodPassword, methodJWT, methodCertificate, methodAnonymous}
	for i, m := range c.Methods {
		switch {
		case !slices.Contains(known, m):
			return config.Invalid("methods", "has %q: there are %s", m, strings.Join(known, ", "))
		case slices.Contains(c.Methods[:i], m):
			return config.Invalid("methods", "has %q twice", m)
		}
	}
	switch {
	case c.RulesFile != "" && !c.Enabled():
		return config.Invalid("rules_file", "is of no use without methods")
	case c.ClientID != anyID && c.ClientID != usernameID:
		return config.Invalid("client_id", "must be %s or %s", anyID, usernameID)
	case c.ClientID == usernameID && c.has(methodAnonymous):
		return config.Invalid("client_id", "cannot be %s while anonymous clients are let in, which have no user name", usernameID)
	case c.Failures < 0:
		return config.Invalid("failures", "must not be negative")
	case c.has(methodPassword) && c.Password.File == "":
		return config.Invalid("password.file", "is missing")
	case c.Password.Concurrency < 0:
		return config.Invalid("password.concurrency", "must not be negative")
	case c.Password.Waiting < 1:
		return config.Invalid("password.waiting", "must be positive")
	case c.has(methodJWT) && !c.JWT.Enabled() && c.JWT.SecretFile == "":
		return config.Invalid("jwt", "needs jwks_url, jwks_file or secret_file")
	case c.JWT.Enabled() && c.JWT.SecretFile != "":
		return config.Invalid("jwt.secret_file", "must not be set together with jwks_url or jwks_file")
	case c.has(methodJWT) && c.JWT.UsernameClaim == "":
		return config.Invalid("jwt.username_claim", "is missing")
	case !slices.Contains([]string{nameCN, nameDNS, nameURI, nameEmail}, c.Certificate.Username):
		return config.Invalid("certificate.username", "must be cn, dns, uri or email")
	}
	return nil
}

// Validate reports the first setting that cannot work, beside those of issuer.Config, which has its own.
func (c JWTConfig) Validate() error {
	if c.SecretFile == "" {
		return nil
	}
	return c.ValidateSkew()
}
