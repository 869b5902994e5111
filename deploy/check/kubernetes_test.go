package check

import (
	"bytes"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// manifests are what is applied, by kind. Kubernetes' own types read them: a key that they do not have is an error.
type manifests struct {
	deployment apps.Deployment
	budget     policy.PodDisruptionBudget
	service    core.Service
	secret     core.Secret
	config     core.ConfigMap
	monitor    monitoring.ServiceMonitor
}

func load(t *testing.T) *manifests {
	t.Helper()
	m := &manifests{}
	into := map[string]any{
		"apps/v1 Deployment": &m.deployment, "policy/v1 PodDisruptionBudget": &m.budget, "v1 Service": &m.service,
		"v1 Secret": &m.secret, "v1 ConfigMap": &m.config, "monitoring.coreos.com/v1 ServiceMonitor": &m.monitor,
	}
	for _, file := range []string{"../kubernetes/tidemark.yaml", "../kubernetes/monitoring.yaml"} {
		for document := range bytes.SplitSeq(read(t, file), []byte("\n---\n")) {
			var kind meta.TypeMeta
			if err := yaml.Unmarshal(document, &kind); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			name := kind.APIVersion + " " + kind.Kind
			target, ok := into[name]
			if !ok {
				t.Fatalf("%s has a %s, which this test does not know, or has seen before", file, name)
			}
			delete(into, name)
			if err := yaml.UnmarshalStrict(document, target); err != nil {
				t.Errorf("%s: %s: %v", file, name, err)
			}
		}
	}
	for name := range into {
		t.Errorf("there is no %s", name)
	}
	return m
}

// TestTheManifestsBelongTogether: what selects the pods has their labels, what names a port or an object names one that is there.
func TestTheManifestsBelongTogether(t *testing.T) {
	m := load(t)
	pod := m.deployment.Spec.Template
	for what, selector := range map[string]map[string]string{
		"deployment": m.deployment.Spec.Selector.MatchLabels, "budget": m.budget.Spec.Selector.MatchLabels, "service": m.service.Spec.Selector,
	} {
		within(t, what, selector, pod.Labels)
	}
	within(t, "monitor", m.monitor.Spec.Selector.MatchLabels, m.service.Labels)

	container := pod.Spec.Containers[0]
	port := container.Ports[0]
	if got := m.service.Spec.Ports[0]; got.TargetPort.String() != port.Name || m.monitor.Spec.Endpoints[0].Port != got.Name {
		t.Errorf("the service's port leads to %s, the monitor asks %s; the pod has %s", got.TargetPort.String(), m.monitor.Spec.Endpoints[0].Port, port.Name)
	}
	for what, probe := range map[string]*core.Probe{"startup": container.StartupProbe, "liveness": container.LivenessProbe, "readiness": container.ReadinessProbe} {
		if probe == nil || probe.HTTPGet.Path != "/livez" || probe.HTTPGet.Port.String() != port.Name {
			t.Errorf("%s probe: %+v", what, probe)
		}
	}
	if got := container.EnvFrom[0].SecretRef.Name; got != m.secret.Name {
		t.Errorf("the environment comes from the secret %s; there is %s", got, m.secret.Name)
	}
	if got := pod.Spec.Volumes[0].ConfigMap.Name; got != m.config.Name {
		t.Errorf("the configuration comes from %s; there is %s", got, m.config.Name)
	}
	for name := range m.secret.StringData {
		if !strings.HasPrefix(name, "TIDEMARK_") {
			t.Errorf("tidemark does not read %s", name)
		}
	}
}

// TestThePodMayDoNothingBesides is what the restricted profile of Kubernetes' Pod Security Standards asks for, and a root file
// system that cannot be written.
func TestThePodMayDoNothingBesides(t *testing.T) {
	pod := load(t).deployment.Spec.Template.Spec
	if s := pod.SecurityContext; !*s.RunAsNonRoot || s.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault {
		t.Errorf("pod: %+v", s)
	}
	s := pod.Containers[0].SecurityContext
	if *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || len(s.Capabilities.Drop) != 1 || s.Capabilities.Drop[0] != "ALL" {
		t.Errorf("container: %+v", s)
	}
	if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
		t.Error("the pod gets a token for Kubernetes, which it does not need")
	}
	if pod.Containers[0].Resources.Limits.Memory().IsZero() {
		t.Error("there is no limit of memory")
	}
}

func within(t *testing.T, what string, selector, labels map[string]string) {
	t.Helper()
	if len(selector) == 0 {
		t.Errorf("%s selects everything", what)
	}
	for name, value := range selector {
		if labels[name] != value {
			t.Errorf("%s wants %s=%s, there is %q", what, name, value, labels[name])
		}
	}
}
