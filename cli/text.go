package cli

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// textOrHex returns bytes as one text that stands for nothing else; nil is nil.
func textOrHex(b []byte) *string {
	if b == nil {
		return nil
	}
	text := string(b)
	if !utf8.Valid(b) || strings.HasPrefix(text, `\x`) {
		text = `\x` + hex.EncodeToString(b)
	}
	return &text
}

// keyCell is cell for bytes that may be null or no text.
func keyCell(b []byte) string {
	text := textOrHex(b)
	if text == nil {
		return "(null)"
	}
	return cell(*text)
}

// cell returns a text that a table can hold, and that cannot be taken for another.
func cell(s string) string {
	odd := func(r rune) bool { return r == '"' || r == ' ' || !unicode.IsPrint(r) }
	if s == "" || s == "(null)" || strings.ContainsFunc(s, odd) || !utf8.ValidString(s) {
		return strconv.Quote(s)
	}
	return s
}

// oneLine returns a text without what would break a line, and of at most so many runes if most is not negative.
func oneLine(s string, most int) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || !unicode.IsPrint(r) }), " ")
	if runes := []rune(s); most >= 0 && len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return s
}

// ageText is about how long ago that was.
func ageText(t time.Time) string {
	age := max(time.Since(t), 0)
	switch {
	case age < time.Minute:
		return fmt.Sprintf("%ds", int(age.Seconds()))
	case age < time.Hour:
		return fmt.Sprintf("%dm", int(age.Minutes()))
	case age < 48*time.Hour:
		return fmt.Sprintf("%dh", int(age.Hours()))
	default:
		return fmt.Sprintf("%dd", int(age.Hours()/24))
	}
}

func counted(n int64) string {
	if n == 1 {
		return "1 event"
	}
	return fmt.Sprintf("%d events", n)
}
