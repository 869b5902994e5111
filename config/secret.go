package config

import (
	"fmt"
	"io"
	"net/url"
	"strings"
)

const (
	redacted = "[redacted]"
	blanks   = " \t\r\n\f\v" // between the keywords of a connection string
)

// Secret is text that does not show itself: not printed with any verb, not in a log field, not as JSON or YAML. An
// empty one shows as empty, so that one can see that it is not set. string(s) is the text.
type Secret string

// String returns "[redacted]", or nothing for an empty secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// Format prints String, quoted for %q and %#v. It is there for all the other verbs: fmt prints the text itself where it
// finds a verb unfit.
func (s Secret) Format(w fmt.State, verb rune) { formatRedacted(w, verb, s.String()) }

// MarshalText returns String. JSON, YAML and the structured loggers use it.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// DSN is a libpq connection string, URL or keywords, whose passwords do not show themselves, as with Secret. string(d)
// is the text.
type DSN string

// Redacted returns the connection string with "[redacted]" in the place of its passwords. Where the text is too broken
// to tell where a password ends, more of it is replaced, never less.
func (d DSN) Redacted() string {
	if scheme, rest, ok := d.cutScheme(); ok {
		return scheme + "://" + redactURL(rest)
	}
	s, _ := redactKeywords(string(d))
	return s
}

// cutScheme takes the scheme off a URL; ok is false if d is no URL. A password among keywords may hold one, too.
func (d DSN) cutScheme() (scheme, rest string, ok bool) {
	scheme, rest, ok = strings.Cut(string(d), "://")
	return scheme, rest, ok && !strings.ContainsAny(scheme, "= \t'")
}

// String returns Redacted.
func (d DSN) String() string { return d.Redacted() }

// Format prints Redacted, whatever the verb.
func (d DSN) Format(w fmt.State, verb rune) { formatRedacted(w, verb, d.Redacted()) }

// MarshalText returns Redacted. JSON, YAML and the structured loggers use it.
func (d DSN) MarshalText() ([]byte, error) { return []byte(d.Redacted()), nil }

func formatRedacted(w fmt.State, verb rune, text string) {
	if verb == 'q' || verb == 'v' && w.Flag('#') {
		text = fmt.Sprintf("%q", text)
	}
	_, _ = io.WriteString(w, text)
}

// redactURL redacts a connection URL behind its scheme. It cannot use net/url, which refuses several hosts with ports,
// and must not trust a password to be escaped: everything up to the last @ may be one.
func redactURL(s string) string {
	login := ""
	if i := strings.LastIndex(s, "@"); i >= 0 {
		login, s = s[:i], s[i:]
		if user, _, ok := strings.Cut(login, ":"); ok {
			login = user + ":" + redacted
		}
	}
	address, query, ok := strings.Cut(s, "?")
	if !ok {
		return login + s
	}
	parameters := strings.Split(query, "&")
	for i, p := range parameters {
		name, value, ok := strings.Cut(p, "=")
		switch {
		case !ok && p != "": // the rest of an unescaped value
			parameters[i] = redacted
		case value != "" && isSecretName(name):
			parameters[i] = name + "=" + redacted
		}
	}
	return login + address + "?" + strings.Join(parameters, "&")
}

// redactKeywords redacts a connection string of keywords and values, by the rules of libpq's parser: blanks may stand
// around the =, a value may be in single quotes, a backslash escapes. It returns false if s breaks them, and then
// redacts everything from there on: it may be what follows a blank in a password without quotes.
func redactKeywords(s string) (string, bool) {
	var out strings.Builder
	for {
		rest := strings.TrimLeft(s, blanks)
		out.WriteString(s[:len(s)-len(rest)])
		if rest == "" {
			return out.String(), true
		}
		name, value, ok := strings.Cut(rest, "=")
		name = strings.TrimRight(name, blanks)
		if !ok || name == "" || strings.ContainsAny(name, blanks+`'"\`) {
			return out.String() + redacted, false
		}
		start := len(value) - len(strings.TrimLeft(value, blanks))
		end, ok := valueEnd(value, start)
		switch {
		case !ok:
			return out.String() + name + "=" + redacted, false
		case isSecretName(name) && end > start:
			out.WriteString(name + "=" + redacted)
		default:
			out.WriteString(rest[:len(rest)-len(value)+end])
		}
		s = value[end:]
	}
}

// valueEnd returns where the value that starts at start ends, its closing quote included. It returns false if that
// quote is missing.
func valueEnd(s string, start int) (end int, ok bool) {
	quoted := start < len(s) && s[start] == '\''
	i := start
	if quoted {
		i++
	}
	for ; i < len(s); i++ {
		switch {
		case s[i] == '\\':
			i++
		case quoted && s[i] == '\'':
			return i + 1, true
		case !quoted && strings.IndexByte(blanks, s[i]) >= 0:
			return i, true
		}
	}
	return len(s), !quoted
}

// isSecretName reports whether a connection parameter or an option holds a secret, by its name: password, sslpassword,
// oauth_client_secret and what is like them.
func isSecretName(name string) bool {
	if plain, err := url.QueryUnescape(name); err == nil {
		name = plain
	}
	name = strings.ToLower(name)
	for _, word := range []string{"password", "secret", "token"} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}
