package publish

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// TestLargeBatchThatDoesNotCompressIsLeftAlone: and costs nothing then; all others are compressed as ever.
func TestLargeBatchThatDoesNotCompressIsLeftAlone(t *testing.T) {
	t.Parallel()
	noise := make([]byte, largeBatch+1234)
	rng := rand.NewChaCha8([32]byte{})
	_, _ = rng.Read(noise) // never fails
	text := bytes.Repeat([]byte("the same again, "), len(noise)/16+1)
	half := append(bytes.Clone(noise), text[:len(noise)/2]...)
	tests := []struct {
		name string
		src  []byte
		want bool
	}{
		{"text", text, true},
		{"noise", noise, false},
		{"mostly noise", half, false},
		{"little text", text[:1000], true},
		{"little noise", noise[:1000], true}, // tried, and dropped by the client
	}
	for _, name := range []string{"gzip", "snappy", "lz4", "zstd"} {
		codec, err := codec(name)
		if err != nil {
			t.Fatal(err)
		}
		inner, err := compressor(codec)
		if err != nil {
			t.Fatal(err)
		}
		for _, test := range tests {
			var dst bytes.Buffer
			out, used := thrifty{inner}.Compress(&dst, test.src)
			if (used != kgo.CodecNone) != test.want {
				t.Errorf("%s, %s: codec %d", name, test.name, used)
				continue
			}
			back, err := kgo.DefaultDecompressor().Decompress(out, used)
			if err != nil || !bytes.Equal(back, test.src) {
				t.Errorf("%s, %s: %d bytes come back as %d, %v", name, test.name, len(test.src), len(back), err)
			}
			if test.name == "noise" && dst.Cap() > 0 {
				t.Errorf("%s: %d bytes for nothing", name, dst.Cap())
			}
		}
	}
}
