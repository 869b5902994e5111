package debezium

import (
	"fmt"
	"strings"
	"unicode"
)

// document is a YAML text in the making.
type document struct {
	strings.Builder
}

// line writes indent, key, value (quoted where YAML would take it for something else) and a comment.
func (d *document) line(indent int, key, value, comment string) {
	d.raw(indent, key+": "+scalar(value), comment)
}

// raw writes a line as it is.
func (d *document) raw(indent int, text, comment string) {
	d.WriteString(strings.Repeat("  ", indent) + text)
	if comment != "" {
		d.WriteString("  # " + plain(comment))
	}
	d.WriteByte('\n')
}

// comment writes lines of comment, broken at some width.
func (d *document) comment(indent int, text string) {
	const width = 110
	prefix := strings.Repeat("  ", indent) + "#"
	line := prefix
	for word := range strings.FieldsSeq(plain(text)) {
		if len(line)+1+len(word) > width && line != prefix {
			d.WriteString(line + "\n")
			line = prefix
		}
		line += " " + word
	}
	d.WriteString(line + "\n")
}

// plain makes a text fit for a comment: what is not printable becomes a blank.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
}

// scalar is a text as YAML: as it is where that cannot be taken for anything else, else in double quotes.
func scalar(text string) string {
	bare := text != ""
	for i, r := range text {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if !letter && (i == 0 || !strings.ContainsRune("0123456789_./-", r)) {
			bare = false
		}
	}
	switch strings.ToLower(text) {
	case "true", "false", "null", "yes", "no", "on", "off", "y", "n":
		bare = false
	}
	if bare {
		return text
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x80 && unicode.IsPrint(r), r >= 0xa0 && unicode.IsPrint(r):
			b.WriteRune(r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			fmt.Fprintf(&b, `\U%08X`, r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
