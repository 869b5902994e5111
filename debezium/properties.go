package debezium

import (
	"errors"
	"strconv"
	"strings"
	"unicode/utf16"
)

// readProperties reads a file of java.util.Properties: comments with # and !, lines that go on behind a backslash, = or : or
// white space between key and value, and escapes.
func readProperties(text string) (Connector, error) {
	c := Connector{}
	var line strings.Builder
	for raw := range strings.Lines(text) {
		part := strings.TrimLeft(strings.TrimRight(raw, "\r\n"), " \t\f")
		if line.Len() == 0 && (part == "" || part[0] == '#' || part[0] == '!') {
			continue
		}
		line.WriteString(part)
		if trailing := len(part) - len(strings.TrimRight(part, `\`)); trailing%2 == 1 && strings.HasSuffix(raw, "\n") {
			whole := strings.TrimSuffix(line.String(), `\`)
			line.Reset()
			line.WriteString(whole)
			continue
		}
		if err := c.property(line.String()); err != nil {
			return nil, err
		}
		line.Reset()
	}
	if line.Len() > 0 {
		return c, c.property(line.String())
	}
	return c, nil
}

func (c Connector) property(line string) error {
	end := 0
	for end < len(line) && !strings.ContainsRune("=: \t\f", rune(line[end])) {
		if line[end] == '\\' {
			end++
		}
		end++
	}
	end = min(end, len(line))
	rest := strings.TrimLeft(line[end:], " \t\f")
	if rest != "" && (rest[0] == '=' || rest[0] == ':') {
		rest = strings.TrimLeft(rest[1:], " \t\f")
	}
	key, err := unescape(line[:end])
	if err != nil {
		return err
	}
	value, err := unescape(rest)
	if err != nil {
		return err
	}
	c[key] = value
	return nil
}

// unescape reads \t, \n, \r, \f, \uXXXX (two of them for what UTF-16 says with two), and \ before anything else.
func unescape(s string) (string, error) {
	if !strings.Contains(s, `\`) {
		return s, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		switch s[i] {
		case 't':
			b.WriteByte('\t')
		case 'n':
			b.WriteByte('\n')
		case 'r':
			b.WriteByte('\r')
		case 'f':
			b.WriteByte('\f')
		case 'u':
			r, ok := hex4(s[i+1:])
			if !ok {
				return "", errors.New(`a \u is not followed by four hex digits`)
			}
			i += 4
			if utf16.IsSurrogate(r) && strings.HasPrefix(s[i+1:], `\u`) {
				if low, ok := hex4(s[i+3:]); ok {
					r = utf16.DecodeRune(r, low)
					i += 6
				}
			}
			b.WriteRune(r)
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), nil
}

func hex4(s string) (rune, bool) {
	if len(s) < 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(s[:4], 16, 16)
	return rune(n), err == nil //nolint:gosec // 16 bits
}
