package main

import (
	"cmp"
	"embed"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// known has the texts of the licences that tidemark may be linked with, each in a file of its name. A part of a text has more behind a
// '_'. <name> stands for somebody's name. A licence whose text is not there is not allowed.
//
//go:embed known/*.txt
var known embed.FS

// asides are phrases that stand around a licence and say nothing.
//
//nolint:gochecknoglobals // a constant
var asides = []string{
	"The MIT License (MIT)",
	"MIT License (Expat)",
	"MIT License",
	"go-toml v2",
	"Apache License Version 2.0, January 2004 http://www.apache.org/licenses/",
	"All rights reserved.",
	// Of yaml.
	"This project is covered by two different licenses: MIT and Apache.",
	`The following files were ported to Go from C files of libyaml, and thus are still covered by their original MIT license, with
		the additional copyright staring in 2011 when the project was ported over: apic.go emitterc.go parserc.go readerc.go scannerc.go
		writerc.go yamlh.go yamlprivateh.go`,
	"Apache License All the remaining project files are covered by the Apache license:",
}

// licences returns the names of a module's licences, sorted. A file with anything in it that is no known text is an error, because
// it might be a condition.
func (m *module) licences() ([]string, error) {
	var names []string
	for _, file := range m.files {
		base := strings.ToLower(filepath.Base(file))
		if strings.HasPrefix(base, "notice") || strings.HasPrefix(base, "patents") {
			continue // passed on as they are; they are no licences
		}
		text, err := os.ReadFile(file) //nolint:gosec // of the module cache
		if err != nil {
			return nil, fmt.Errorf("read the licence of %s: %w", m.path, err)
		}
		found, rest := identify(string(text))
		if rest != "" || len(found) == 0 {
			return nil, fmt.Errorf("%s %s: %s has a text that is in no file of licences/known: %.300q", m.path, m.version, filepath.Base(file), rest)
		}
		names = append(names, found...)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) == 0 {
		return nil, fmt.Errorf("%s %s has no licence", m.path, m.version)
	}
	return names, nil
}

// identify returns the known licences in a text, sorted, and the words of it that belong to none of them.
func identify(text string) (names []string, rest string) {
	rest = words(text)
	for _, l := range knownTexts() {
		shorter := l.pattern.ReplaceAllString(rest, "")
		if shorter != rest && l.name != "" {
			names = append(names, l.name)
		}
		rest = shorter
	}
	slices.Sort(names)
	return slices.Compact(names), strings.TrimSpace(rest)
}

// knownText is a text that can be part of a licence file.
type knownText struct {
	name    string // of the licence; empty for what says nothing
	pattern *regexp.Regexp
}

// knownTexts returns all of them, longer ones first, because they may contain the others.
func knownTexts() []knownText {
	texts := make([]knownText, 0, 16)
	files, err := known.ReadDir("known")
	if err != nil {
		panic(err) // embedded
	}
	for _, file := range files {
		text, err := known.ReadFile(path.Join("known", file.Name()))
		if err != nil {
			panic(err) // embedded
		}
		name, _, _ := strings.Cut(strings.TrimSuffix(file.Name(), ".txt"), "_")
		texts = append(texts, knownText{name, pattern(string(text))})
	}
	for _, aside := range asides {
		texts = append(texts, knownText{"", pattern(aside)})
	}
	slices.SortStableFunc(texts, func(a, b knownText) int { return -cmp.Compare(len(a.pattern.String()), len(b.pattern.String())) })
	return texts
}

// pattern finds a text among words; a name may have ten.
func pattern(text string) *regexp.Regexp {
	parts := strings.Split(text, "<name>")
	for i, part := range parts {
		parts[i] = words(part)
	}
	return regexp.MustCompile(strings.Join(parts, "(?:[a-z0-9]+ ){1,10}?"))
}

var (
	// Whose it is, and which files it is about, is not part of a licence's text, nor are the marks of its lists.
	owners  = regexp.MustCompile(`(?m)^\W*(?:Portions )?Copyright (?:\([cC]\)|©|[0-9]|\[yyyy\]|\{yyyy\}|The |gRPC |[A-Z][a-z]).*$`)
	files   = regexp.MustCompile(`(?m)^Files: .*$`)
	marks   = regexp.MustCompile(`(?m)^\s*(?:[*•-]|\(?[0-9a-z][.)])\s+`)
	letters = regexp.MustCompile(`[a-z0-9]+`)
)

// words returns the words of a text, in lower case, each with a space behind it.
func words(text string) string {
	for _, noise := range []*regexp.Regexp{owners, files, marks} {
		text = noise.ReplaceAllString(text, "")
	}
	var b strings.Builder
	for _, word := range letters.FindAllString(strings.ToLower(text), -1) {
		b.WriteString(word)
		b.WriteByte(' ')
	}
	return b.String()
}
