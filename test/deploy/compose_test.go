// Package deploy_test keeps what tidemark is deployed with in step with tidemark and with itself: docker-compose.yml, the
// Dockerfile and deploy/. There may be no container engine where the tests run, so it loads the files as `docker compose` and
// tidemark would and looks at what came out. What needs Kubernetes' or Prometheus's own types is in deploy/check.
package deploy_test

import (
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

// root is the module's directory, where docker-compose.yml lies.
const root = "../.."

func TestServicesWaitForHealthyServers(t *testing.T) {
	project := load(t)
	names := slices.Sorted(maps.Keys(project.Services))
	if want := []string{"kafka", "postgres", "tidemark"}; !slices.Equal(names, want) {
		t.Fatalf("services %v, want %v", names, want)
	}
	names = slices.Sorted(maps.Keys(load(t, "standby", "observe").Services))
	if want := []string{"grafana", "kafka", "postgres", "prometheus", "standby", "tidemark"}; !slices.Equal(names, want) {
		t.Fatalf("services with every profile %v, want %v", names, want)
	}
	for _, server := range []string{"kafka", "postgres"} {
		check := project.Services[server].HealthCheck
		if check == nil || check.Disable || len(check.Test) < 2 || check.Test[0] != "CMD" {
			t.Errorf("%s has no health check that runs a command: %+v", server, check)
		}
		if got := project.Services["tidemark"].DependsOn[server].Condition; got != types.ServiceConditionHealthy {
			t.Errorf("tidemark waits for %s to be %q, want %q", server, got, types.ServiceConditionHealthy)
		}
	}
}

func TestPostgresIsReadyForAnOutbox(t *testing.T) {
	postgres := load(t).Services["postgres"]
	if !slices.Contains(postgres.Command, "wal_level=logical") {
		t.Errorf("command %q does not set wal_level=logical", postgres.Command)
	}

	var scripts []string
	for _, volume := range postgres.Volumes {
		if filepath.Dir(volume.Target) == "/docker-entrypoint-initdb.d" {
			scripts = append(scripts, volume.Source)
		}
	}
	if len(scripts) != 1 {
		t.Fatalf("init scripts %q, want one", scripts)
	}
	sql := read(t, scripts[0])
	for _, part := range []string{
		"create table public.outbox (", " id ", " aggregatetype ", " aggregateid ", " type ", " payload ",
	} {
		if !strings.Contains(sql, part) {
			t.Errorf("%s has no %q", scripts[0], part)
		}
	}
}

func TestRelayReachesBothServers(t *testing.T) {
	project := load(t)
	env := environment(t, project.Services["tidemark"])
	for name := range env {
		if !strings.HasPrefix(name, "TIDEMARK_") {
			t.Errorf("the relay does not read %s", name)
		}
	}

	dsn, err := url.Parse(env["TIDEMARK_SOURCE_DSN"])
	if err != nil {
		t.Fatal(err)
	}
	postgres := environment(t, project.Services["postgres"])
	if dsn.Hostname() != "postgres" {
		t.Errorf("source host %q, want the service postgres", dsn.Hostname())
	}
	if got, want := dsn.Path, "/"+postgres["POSTGRES_DB"]; got != want {
		t.Errorf("source database %q, want %q", got, want)
	}
	if got, _ := dsn.User.Password(); got != postgres["POSTGRES_PASSWORD"] {
		t.Error("the source's password is not that of the service postgres")
	}

	advertised := environment(t, project.Services["kafka"])["KAFKA_ADVERTISED_LISTENERS"]
	if broker := "INSIDE://" + env["TIDEMARK_KAFKA_BROKERS"]; !slices.Contains(strings.Split(advertised, ","), broker) {
		t.Errorf("the broker advertises %q, not %q", advertised, broker)
	}
}

// The standby differs from the relay in nothing but its port: with another source, slot or checkpoint it would be no standby.
func TestTheStandbyIsTheSameRelay(t *testing.T) {
	project := load(t, "standby")
	relay, standby := project.Services["tidemark"], project.Services["standby"]
	if !maps.Equal(environment(t, relay), environment(t, standby)) {
		t.Error("the standby has another environment")
	}
	if len(relay.Volumes) != 1 || !slices.EqualFunc(relay.Volumes, standby.Volumes, func(a, b types.ServiceVolumeConfig) bool { return a.String() == b.String() }) {
		t.Errorf("volumes %v and %v", relay.Volumes, standby.Volumes)
	}
	for _, s := range []types.ServiceConfig{relay, standby} {
		if !s.ReadOnly || !slices.Contains(s.CapDrop, "ALL") {
			t.Errorf("%s may write outside of its volume, or has capabilities", s.Name)
		}
	}
}

// What is mounted from this checkout is there.
func TestMountedFilesExist(t *testing.T) {
	for _, service := range load(t, "standby", "observe").Services {
		for _, volume := range service.Volumes {
			if volume.Type == types.VolumeTypeBind {
				read(t, volume.Source)
			}
		}
	}
}

func TestPortsAreOnThisMachineAlone(t *testing.T) {
	project := load(t, "standby", "observe")
	for name, service := range project.Services {
		if len(service.Ports) != 1 {
			t.Errorf("%s publishes %d ports, want 1", name, len(service.Ports))
		}
		for _, port := range service.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s publishes port %s on %q", name, port.Published, port.HostIP)
			}
		}
	}

	relay := project.Services["tidemark"]
	_, port, err := net.SplitHostPort(environment(t, relay)["TIDEMARK_HTTP_LISTEN"])
	if err != nil {
		t.Fatal(err)
	}
	if relay.Ports[0].Published != port {
		t.Errorf("the relay listens on %s, published is %s", port, relay.Ports[0].Published)
	}
}

// What one of the three remembers and another has forgotten is a gap, so all of it is kept in volumes with names.
func TestStateOutlivesItsContainer(t *testing.T) {
	project := load(t)
	for name, target := range map[string]string{
		"kafka":    environment(t, project.Services["kafka"])["KAFKA_LOG_DIRS"],
		"postgres": "/var/lib/postgresql",
		"tidemark": filepath.Dir(environment(t, project.Services["tidemark"])["TIDEMARK_CHECKPOINT_PATH"]),
	} {
		kept := slices.ContainsFunc(project.Services[name].Volumes, func(v types.ServiceVolumeConfig) bool {
			_, declared := project.Volumes[v.Source]
			return v.Type == types.VolumeTypeVolume && declared && v.Target == target
		})
		if !kept {
			t.Errorf("%s keeps %s in no named volume", name, target)
		}
	}
}

func TestImageRunsTheRelayAsAnOrdinaryUser(t *testing.T) {
	relay := load(t).Services["tidemark"]
	if relay.Build == nil {
		t.Fatal("the relay is not built from this checkout")
	}
	lines := strings.Split(read(t, filepath.Join(relay.Build.Context, relay.Build.Dockerfile)), "\n")
	for _, line := range []string{
		"FROM scratch",
		"USER 65532:65532",
		"VOLUME " + filepath.Dir(environment(t, relay)["TIDEMARK_CHECKPOINT_PATH"]),
		`ENTRYPOINT ["/tidemark"]`,
		`CMD ["run"]`,
		`HEALTHCHECK --interval=10s --timeout=6s --start-period=10s --retries=3 CMD ["/tidemark", "status", "--live"]`,
	} {
		if !slices.Contains(lines, line) {
			t.Errorf("the Dockerfile has no line %q", line)
		}
	}
}

// load reads docker-compose.yml, with these profiles, and with every check of the loader on: an unknown key is an error.
func load(t *testing.T, profiles ...string) *types.Project {
	t.Helper()
	dir, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	project, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir:  dir,
		ConfigFiles: []types.ConfigFile{{Filename: filepath.Join(dir, "docker-compose.yml")}},
		Environment: types.Mapping{},
	}, func(o *loader.Options) {
		o.SetProjectName("tidemark", true)
		o.ResolvePaths = true
		o.Profiles = profiles
	})
	if err != nil {
		t.Fatal(err)
	}
	return project
}

// environment returns what the service sets itself. A variable without a value would come from the caller's shell.
func environment(t *testing.T, service types.ServiceConfig) map[string]string {
	t.Helper()
	env := make(map[string]string, len(service.Environment))
	for name, value := range service.Environment {
		if value == nil {
			t.Fatalf("%s leaves %s to the caller's environment", service.Name, name)
		}
		env[name] = *value
	}
	return env
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
