package config

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// parseScalar reads text as a value of type t, the same from the file and from the environment. A text key takes every
// text as it is, so that a password of digits needs no quotes. The error is for the operator and repeats the text.
func parseScalar(t reflect.Type, text string) (any, error) {
	switch {
	case isDuration(t):
		return parseDuration(text)
	case t.Kind() == reflect.Int64:
		return parseSize(text)
	case t.Kind() == reflect.Int32, t.Kind() == reflect.Int16:
		n, err := strconv.ParseInt(text, 10, t.Bits())
		if err != nil {
			return nil, fmt.Errorf("%q is not a whole number up to %d", text, int64(math.MaxInt64)>>(64-t.Bits()))
		}
		return n, nil
	case t.Kind() == reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return nil, fmt.Errorf("%q is neither true nor false", text)
		}
		return b, nil
	default:
		return text, nil
	}
}

func parseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err == nil {
		return d, nil
	}
	if _, err := strconv.ParseFloat(text, 64); err == nil {
		return 0, fmt.Errorf("%q has no unit; write %sms, %ss or %sm", text, text, text, text)
	}
	return 0, fmt.Errorf("%q is not a duration such as 200ms, 5s or 1m30s", text)
}

// sizeUnit is a unit in which a size may be written.
type sizeUnit struct {
	name  string
	bytes int64
}

// sizeUnits returns the units, the binary ones in falling order first.
func sizeUnits() []sizeUnit {
	return []sizeUnit{
		{"TiB", 1 << 40},
		{"GiB", 1 << 30},
		{"MiB", 1 << 20},
		{"KiB", 1 << 10},
		{"TB", 1e12},
		{"GB", 1e9},
		{"MB", 1e6},
		{"kB", 1e3},
		{"B", 1},
		{"", 1},
	}
}

// parseSize reads a number of bytes: whole, not negative, with or without a unit of either case.
func parseSize(text string) (int64, error) {
	digits := strings.TrimRightFunc(text, func(r rune) bool { return r < '0' || r > '9' })
	name := strings.TrimSpace(text[len(digits):])
	for _, u := range sizeUnits() {
		if !strings.EqualFold(name, u.name) {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		switch {
		case err != nil && strings.Trim(digits, "0123456789") == "" && digits != "", err == nil && n > math.MaxInt64/u.bytes:
			return 0, fmt.Errorf("%q is more than a size can be", text)
		case err == nil && n >= 0:
			return n * u.bytes, nil
		}
	}
	return 0, fmt.Errorf("%q is not a size in bytes such as 32MiB, 1GB or 65536", text)
}

// formatSize writes a size so that parseSize reads the same, in the largest binary unit that needs no fraction.
func formatSize(n int64) string {
	for _, u := range sizeUnits()[:4] {
		if n != 0 && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}
