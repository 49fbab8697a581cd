package gate

import (
	"github.com/beeline-mqtt/beeline/internal/config"
	"github.com/beeline-mqtt/beeline/services/router/internal/access"
	"github.com/beeline-mqtt/beeline/services/router/internal/tokens"
)

// Config says who is let in beside the holders of certificates, and how much each may ask for.
type Config struct {
	// TokensFile is the path of the token file; see tokens.File.
	TokensFile string           `koanf:"tokens_file" help:"file with the hashes of bearer tokens (YAML or JSON); read again when it changes"`
	JWT        tokens.JWTConfig `koanf:"jwt"`
	Rates      Rates            `koanf:"rates"`
}

// Rates are what callers of each role may ask for.
type Rates struct {
	Viewer    Rate `koanf:"viewer"`
	Publisher Rate `koanf:"publisher"`
	Operator  Rate `koanf:"operator"`
}

// Rate is what one caller may ask of one router.
type Rate struct {
	Calls int `koanf:"calls" help:"calls a second of one caller; 0: any number"`
	// Messages counts those that are inside of a request of a stream.
	Messages int `koanf:"messages" help:"messages a second of one caller over streams; 0: any number"`
}

// Validate reports the first setting that cannot work.
func (r Rate) Validate() error {
	switch {
	case r.Calls < 0:
		return config.Invalid("calls", "must not be negative")
	case r.Messages < 0:
		return config.Invalid("messages", "must not be negative")
	}
	return nil
}

func (r Rates) of(role access.Role) Rate {
	switch role {
	case access.Operator:
		return r.Operator
	case access.Publisher:
		return r.Publisher
	default:
		return r.Viewer
	}
}

// DefaultConfig lets in certificates only.
func DefaultConfig() Config {
	return Config{
		JWT: tokens.DefaultJWTConfig(),
		Rates: Rates{
			Viewer:    Rate{Calls: 1000, Messages: 100_000},
			Publisher: Rate{Calls: 20_000, Messages: 200_000},
		},
	}
}
