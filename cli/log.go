package cli

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/term"

	"github.com/tidemark/tidemark/config"
)

// newLogger returns the one logger of the process, which the parts get by value, each with its component field: for
// people on a terminal, a JSON object a line otherwise, or as configured.
func newLogger(cfg config.Log, out io.Writer, terminal bool) (zerolog.Logger, error) {
	level, err := zerolog.ParseLevel(cfg.Level)
	if err != nil {
		return zerolog.Nop(), fmt.Errorf("log.level: %w", err)
	}
	setFieldNames()
	if cfg.Format == "console" || cfg.Format == "auto" && terminal {
		out = zerolog.ConsoleWriter{Out: out, NoColor: !terminal, TimeFormat: time.TimeOnly + ".000"}
	}
	return zerolog.New(out).Level(level).With().Timestamp().Logger(), nil
}

// setFieldNames makes zerolog's names those of the house. It keeps them in variables of its own, hence once for the
// process.
//
//nolint:gochecknoglobals // the guard of zerolog's globals can only be a global itself
var setFieldNames = sync.OnceFunc(func() {
	zerolog.ErrorFieldName = "err"
	zerolog.TimeFieldFormat = "2006-01-02T15:04:05.000Z07:00"
	zerolog.TimestampFunc = func() time.Time { return time.Now().UTC() }
})

// isTerminal reports whether somebody reads along.
func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
