package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/tidemark/tidemark/debezium"
)

// fromDebezium is what `init --from-debezium` was told.
type fromDebezium struct{ file, output string }

func (f *fromDebezium) flags(c *cobra.Command) {
	c.Flags().StringVar(&f.file, "from-debezium", "", "print the config.yaml for what this Debezium connector does (JSON or properties), and create nothing")
	c.Flags().StringVar(&f.output, "output", "", "with --from-debezium: write it to this file, which must not exist")
}

// maxConnector is how large a connector's configuration may be.
const maxConnector = 1 << 20

// convert prints the configuration, and to stderr what could not be carried over.
func (f *fromDebezium) convert(a *app) error {
	text, err := readBounded(f.file, maxConnector)
	if err != nil {
		return fmt.Errorf("read the connector's configuration: %w", err)
	}
	connector, err := debezium.Read(text)
	if err != nil {
		return &usageError{fmt.Errorf("read the connector's configuration in %s: %w", f.file, err)}
	}
	result := debezium.Convert(connector)
	if f.output == "" {
		a.printf("%s", result.YAML)
	} else if err := writeNew(f.output, result.YAML); err != nil {
		return err
	}
	for _, lost := range result.Lost {
		_, _ = fmt.Fprintf(a.stderr, "- %s\n", lost) // nothing is to be done about its errors
	}
	_, _ = fmt.Fprintf(a.stderr, "%d things could not be carried over, or have to be set besides, and %d are not needed; all are named at the end of the configuration. docs/debezium.md says how to switch.\n",
		len(result.Lost), len(result.Unneeded))
	return nil
}

func readBounded(name string, most int64) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // read only
	text, err := io.ReadAll(io.LimitReader(file, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("%s has more than %d bytes", name, most)
	}
	return text, err
}

// writeNew writes a file that is not there yet.
func writeNew(name string, text []byte) error {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already, and is left as it is: name another file, or remove it", name)
	}
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
