package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"
)

// usualFile is read when no file is named, if it is there.
const usualFile = "config.yaml"

// delimiter joins the names of a key for viper. No name of ours holds it; a dot would do as well, since the maps with
// foreign names never reach viper as maps (see file.free), but need not be trusted to.
const delimiter = "::"

// Load reads the built-in defaults, the file above them and the environment (as os.Environ returns it) above both, and
// checks the result. With no file named, ./config.yaml is read if it is there.
//
// If anything is wrong with the configuration, the error tells all of it, and IsInvalid recognizes it. A file that
// cannot be read counts as such, too.
func Load(defaults []byte, file string, environ []string) (*Config, error) {
	found := newProblems()
	v := viper.NewWithOptions(viper.KeyDelimiter(delimiter))

	if err := v.MergeConfigMap(readFile("built-in defaults", defaults, found)); err != nil {
		return nil, fmt.Errorf("take the built-in defaults: %w", err)
	}
	clear(found.origin) // a default is not where an operator would look for a mistake
	builtIn := builtInTable(v.Get("outbox"))

	values, readable := readIfThere(file, found)
	if err := v.MergeConfigMap(values); err != nil {
		return nil, fmt.Errorf("merge the configuration file: %w", err)
	}
	settings, warnings := readEnviron(environ, found)
	for _, s := range settings {
		apply(v, s, found)
	}
	if !readable {
		return nil, found.err() // the rest would be judged without what the file says
	}

	entries, _ := v.Get("outbox").([]any)
	completeTables(entries, builtIn)
	v.Set("outbox", entries)
	messages, _ := v.Get("messages").([]any)
	completeMessages(messages, builtIn)
	v.Set("messages", messages)

	c := &Config{}
	if err := v.UnmarshalExact(c, func(d *mapstructure.DecoderConfig) {
		d.TagName = "yaml"
		d.WeaklyTypedInput = false // every value already has its type
		d.DecodeHook = nil
	}); err != nil {
		return nil, fmt.Errorf("decode the configuration: %w", err)
	}
	c.Source.Failover = strings.ToLower(c.Source.Failover) // True and FALSE are YAML's, too
	c.readSecretFiles(found)
	c.check(found)
	if err := found.err(); err != nil {
		return nil, err
	}
	if c.Source.AdminDSN == "" {
		c.Source.AdminDSN = c.Source.DSN
	}
	c.Warnings = warnings
	return c, nil
}

// readIfThere returns the values of the configuration file, and false if it cannot be read.
func readIfThere(name string, found *problems) (map[string]any, bool) {
	optional := name == ""
	if optional {
		name = usualFile
	}
	text, err := os.ReadFile(name)
	switch {
	case optional && errors.Is(err, fs.ErrNotExist):
		return map[string]any{}, true
	case err != nil:
		found.addAt("", fmt.Sprintf("the configuration file cannot be read: %v", err))
		return nil, false
	}
	values := readFile(name, text, found)
	return values, values != nil
}

// apply puts a value from the environment above everything else. One for an entry of a list changes that entry, or
// begins the next one.
func apply(v *viper.Viper, s setting, found *problems) {
	names := make([]string, 0, len(s.path))
	for i, p := range s.path {
		if p.name == "" {
			list := strings.Join(names, delimiter)
			entries, ok := withEntry(v.Get(list), s.path[i:], s.value)
			if !ok {
				found.add(dotted(s.path), "there is no entry before it; the entries are counted from 0, without a gap")
				return
			}
			v.Set(list, entries)
			return
		}
		names = append(names, p.name)
	}
	v.Set(strings.Join(names, delimiter), s.value)
}

// withEntry returns the value with the one at path in it replaced. It returns false if an entry before it is missing.
func withEntry(in any, path []step, value any) (any, bool) {
	if len(path) == 0 {
		return value, true
	}
	first, rest := path[0], path[1:]
	if first.name != "" {
		section, _ := in.(map[string]any)
		if section == nil {
			section = map[string]any{}
		}
		inner, ok := withEntry(section[first.name], rest, value)
		section[first.name] = inner
		return section, ok
	}
	entries, _ := in.([]any)
	switch {
	case first.index > len(entries):
		return in, false
	case first.index == len(entries):
		entries = append(entries, nil)
	}
	inner, ok := withEntry(entries[first.index], rest, value)
	entries[first.index] = inner
	return entries, ok
}
