// Command licences prints the licences and notices of everything that tidemark's binaries have code of, to be passed on with them:
//
//	go run ./licences > THIRD_PARTY_NOTICES
//
// It is run in the root of the checkout. A licence whose text is not in licences/known is an error, so that nothing can be released
// under conditions that nobody has looked at. docs/dependencies.md is held against the same list by this package's test.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	modules, err := linked(context.Background(), ".") //nolint:forbidigo // this is main
	if err == nil {
		err = notices(os.Stdout, modules)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "licences:", err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

// notices writes the texts of all modules.
func notices(w io.Writer, modules []*module) error {
	var b strings.Builder
	b.WriteString("tidemark contains code of the following modules, under the licences that follow each.\n")
	for _, m := range modules {
		names, err := m.licences()
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "\n%s\n%s %s (%s)\n", strings.Repeat("=", 100), m.path, m.version, strings.Join(names, ", "))
		for _, file := range m.files {
			text, err := os.ReadFile(file) //nolint:gosec // of the module cache
			if err != nil {
				return fmt.Errorf("read the licence of %s: %w", m.path, err)
			}
			fmt.Fprintf(&b, "\n---- %s ----\n\n%s\n", filepath.Base(file), strings.TrimSpace(string(text)))
		}
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write the notices: %w", err)
	}
	return nil
}
