package publish

import (
	"bytes"
	"sync"

	"github.com/pierrec/lz4/v4"
	"github.com/twmb/franz-go/pkg/kgo"
)

// lz4Frames compresses batches into the frames that Java's producer writes: blocks of 64 KiB, no checksum of the content, since
// a batch has its own. The client's default has a buffer of 4 MiB for each batch that is under way, and sums up every byte.
type lz4Frames struct{ writers sync.Pool }

var _ kgo.Compressor = (*lz4Frames)(nil)

// Compress implements kgo.Compressor. Any goroutine may call it.
func (l *lz4Frames) Compress(dst *bytes.Buffer, src []byte, _ ...kgo.CompressFlag) ([]byte, kgo.CompressionCodecType) {
	w, ok := l.writers.Get().(*lz4.Writer)
	if !ok {
		w = lz4.NewWriter(nil)
		if err := w.Apply(lz4.BlockSizeOption(lz4.Block64Kb), lz4.ChecksumOption(false)); err != nil {
			return src, kgo.CodecNone
		}
	}
	defer l.writers.Put(w)
	w.Reset(dst)
	if _, err := w.Write(src); err != nil {
		return src, kgo.CodecNone
	}
	if err := w.Close(); err != nil {
		return src, kgo.CodecNone
	}
	return dst.Bytes(), kgo.CodecLz4
}
