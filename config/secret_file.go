package config

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"
)

// secretFile is a key whose value may stand in a file of its own, as container platforms hand secrets over.
type secretFile struct {
	key   string
	file  string
	value *string
}

func (c *Config) secretFiles() []secretFile {
	return []secretFile{
		{"source.dsn", c.Source.DSNFile, (*string)(&c.Source.DSN)},
		{"source.admin_dsn", c.Source.AdminDSNFile, (*string)(&c.Source.AdminDSN)},
		{"kafka.sasl.password", c.Kafka.SASL.PasswordFile, (*string)(&c.Kafka.SASL.Password)},
		{"kafka.sasl.token", c.Kafka.SASL.TokenFile, (*string)(&c.Kafka.SASL.Token)},
		{"kafka.sasl.client_secret", c.Kafka.SASL.ClientSecretFile, (*string)(&c.Kafka.SASL.ClientSecret)},
		{"http.token", c.HTTP.TokenFile, (*string)(&c.HTTP.Token)},
	}
}

// readSecretFiles takes the values that stand in files.
func (c *Config) readSecretFiles(found *problems) {
	for _, s := range c.secretFiles() {
		if s.file == "" {
			continue
		}
		if *s.value != "" {
			found.add(s.key+"_file", "and %s are both given; keep one of them", s.key)
			continue
		}
		text, err := ReadSecret(s.file)
		if err != nil {
			found.add(s.key+"_file", "%v", err)
			found.told[s.key] = true // that it is missing now would be an echo
		}
		*s.value = text
	}
}

// mostSecretBytes is far more than any connection string or token has.
const mostSecretBytes = 64 << 10

// ReadSecret returns what is in a file with a secret, without the line ends behind it. The error does not repeat any of it.
func ReadSecret(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close() //nolint:errcheck // it was only read
	text, err := io.ReadAll(io.LimitReader(file, mostSecretBytes+1))
	value := strings.TrimRight(string(text), "\r\n")
	switch {
	case err != nil:
		return "", err
	case value == "":
		return "", fmt.Errorf("%s is empty", path)
	case len(text) > mostSecretBytes, !utf8.ValidString(value), strings.ContainsAny(value, "\r\n\x00"):
		return "", fmt.Errorf("%s does not hold one line of text", path)
	}
	return value, nil
}

// withoutFiles returns c as it was written: without the values that stand in files.
func (c *Config) withoutFiles() Config {
	written := *c
	for _, s := range written.secretFiles() {
		if s.file != "" {
			*s.value = ""
		}
	}
	if c.Source.DSNFile != "" && c.Source.AdminDSN == c.Source.DSN {
		written.Source.AdminDSN = ""
	}
	return written
}
