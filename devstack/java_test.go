package devstack_test

import (
	"strings"
	"testing"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/devstack/stacktest"
)

// TestJavaProgram compiles without a JDK's compiler, and finds its libraries.
func TestJavaProgram(t *testing.T) {
	t.Parallel()
	hello := devstack.JavaProgram{Class: "Hello", Source: `
		public class Hello {
			record Greeting(String to) {}
			public static void main(String[] args) {
				System.out.println("hello " + new Greeting(args[0]).to() + ", " + org.slf4j.LoggerFactory.getLogger("x").getName());
			}
		}`}
	stacktest.Require(t, "java", hello.Have())
	cmd, err := hello.Command(t.Context(), func(line string) { t.Log(line) }, "world")
	if err != nil {
		t.Fatal(err)
	}
	output, err := cmd.Output()
	if err != nil || strings.TrimSpace(string(output)) != "hello world, x" {
		t.Errorf("%q, %v", output, err)
	}
	wrong := devstack.JavaProgram{Class: "Wrong", Source: "public class Wrong { int x = y; }"}
	if _, err := wrong.Command(t.Context(), func(string) {}); err == nil || !strings.Contains(err.Error(), "y cannot be resolved") {
		t.Errorf("a program that does not compile: %v", err)
	}
}
