package devstack

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
)

// writeProperties writes a Java properties file.
func writeProperties(path string, settings map[string]string) error {
	escape := strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`)
	var text strings.Builder
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		if key == "" || strings.ContainsAny(key, " \t\n\r=:#!\\") {
			return fmt.Errorf("write broker settings: %q is no name of a setting", key)
		}
		fmt.Fprintf(&text, "%s=%s\n", key, escape.Replace(settings[key]))
	}
	if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
		return fmt.Errorf("write broker settings: %w", err)
	}
	return nil
}

// property returns the value of key in a properties file without escapes.
func property(text []byte, key string) (string, error) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		name, value, found := strings.Cut(lines.Text(), "=")
		if found && strings.TrimSpace(name) == key {
			return strings.TrimSpace(value), nil
		}
	}
	return "", fmt.Errorf("there is no %s", key)
}

// lockedWriter lets several servers share a writer.
type lockedWriter struct {
	mu sync.Mutex
	to io.Writer
}

func (w *lockedWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.to.Write(b)
}
