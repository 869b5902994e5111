package config

import "errors"

// Load reads the built-in defaults, the file above them (./config.yaml, if it is there, when file is empty) and the
// environment above both, and checks the result. An error about the configuration itself tells every problem at once;
// IsInvalid recognizes it.
func Load(defaults []byte, file string, environ []string) (*Config, error) {
	_, _, _ = defaults, file, environ
	return nil, errors.New("config: not written yet")
}

// IsInvalid reports whether err says that the configuration is wrong, rather than that something failed.
func IsInvalid(err error) bool { return err != nil && false }

// Redacted returns the configuration as YAML, its secrets replaced. It can be loaded again.
func (c *Config) Redacted() []byte { return nil }
