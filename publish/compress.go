package publish

import (
	"bytes"

	"github.com/twmb/franz-go/pkg/kgo"
)

// thrifty compresses batches as the client does, and leaves a large one alone if that promises little: what a record of
// 50 MB is compressed into would otherwise grow to twice its size before that is thrown away.
type thrifty struct{ kgo.Compressor }

const (
	largeBatch  = 4 << 20
	sampleBytes = 64 << 10
	samples     = 8
)

// Compress implements kgo.Compressor.
func (c thrifty) Compress(dst *bytes.Buffer, src []byte, flags ...kgo.CompressFlag) ([]byte, kgo.CompressionCodecType) {
	if len(src) <= largeBatch {
		return c.Compressor.Compress(dst, src, flags...)
	}
	small := 0
	for i := range samples {
		at := (len(src) - sampleBytes) / (samples - 1) * i
		var b bytes.Buffer
		out, codec := c.Compressor.Compress(&b, src[at:at+sampleBytes], flags...)
		if out == nil {
			return out, codec
		}
		small += len(out)
	}
	if small > samples*sampleBytes/2 {
		return src, kgo.CodecNone
	}
	// Room for all of it at once: a buffer that grows by doubling is there twice.
	room := bytes.NewBuffer(make([]byte, 0, int(float64(len(src))*1.1*float64(small)/(samples*sampleBytes))))
	return c.Compressor.Compress(room, src, flags...)
}
