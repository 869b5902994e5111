package config

// Secret is text that does not show itself. string(s) is the text.
type Secret string

// String returns "[redacted]", or nothing for an empty secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "[redacted]"
}

// DSN is a libpq connection string, URL or keywords, whose passwords do not show themselves. string(d) is the text.
type DSN string

// Redacted returns the connection string with its passwords replaced.
func (d DSN) Redacted() string { return Secret(d).String() }

// String returns Redacted.
func (d DSN) String() string { return d.Redacted() }
