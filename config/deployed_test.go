package config

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestTheManifestsConfigureTheRelay loads what the ConfigMap and the Secret hold, as a pod would. deploy/check holds the
// manifests against Kubernetes' own types.
func TestTheManifestsConfigureTheRelay(t *testing.T) {
	var file string
	var environ []string
	manifests, err := os.Open("../deploy/kubernetes/tidemark.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = manifests.Close() }() // it was only read
	decoder := yaml.NewDecoder(manifests)
	for {
		var document struct {
			Kind       string
			Data       map[string]string
			StringData map[string]string `yaml:"stringData"`
		}
		if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		switch document.Kind {
		case "ConfigMap":
			file = filepath.Join(t.TempDir(), "config.yaml")
			if err := os.WriteFile(file, []byte(document.Data["config.yaml"]), 0o600); err != nil {
				t.Fatal(err)
			}
		case "Secret":
			for name, value := range document.StringData {
				environ = append(environ, name+"="+value)
			}
		}
	}
	defaults, err := os.ReadFile("../config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Load(defaults, file, environ)
	if err != nil {
		t.Fatal(err)
	}
	// Two pods share no disk.
	if c.Checkpoint.Store == "file" {
		t.Error("the checkpoint is kept in a file, which the other pod does not see")
	}
	if !strings.HasSuffix(c.HTTP.Listen, ":8642") || strings.HasPrefix(c.HTTP.Listen, "127.") {
		t.Errorf("probes cannot reach %s", c.HTTP.Listen)
	}
}
