package trial

import "testing"

func TestMemoryIsReadFromTheStatus(t *testing.T) {
	const status = "Name:\ttidemark\nVmPeak:\t 1863460 kB\nVmHWM:\t   47516 kB\nVmRSS:\t   35160 kB\nRssAnon:\t 20000 kB\n"
	got, err := parseMemory(status)
	if want := (Memory{Resident: 35160 << 10, Peak: 47516 << 10}); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for _, status := range []string{
		"",
		"Name:\ttidemark\nState:\tZ (zombie)\nThreads:\t1\n",
		"Name:\ttidemark\nVmHWM:\t   47516 kB\n",
		"Name:\ttidemark\nVmHWM:\t  many kB\nVmRSS:\t   35160 kB\n",
	} {
		if got, err := parseMemory(status); err == nil {
			t.Errorf("%q: %+v, want an error", status, got)
		}
	}
}
