package cluster

import (
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// encoder and decoder are shared; EncodeAll and DecodeAll take one of a few
// inner states per call and wait when all are in use.
var (
	encoder = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil,
			zstd.WithEncoderLevel(zstd.SpeedFastest),
			zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)),
			zstd.WithWindowSize(blockSize),
			zstd.WithEncoderCRC(false), // frames have their own
			zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic(err) // the options are constants
		}
		return e
	})
	decoder = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil,
			zstd.WithDecoderConcurrency(runtime.GOMAXPROCS(0)),
			zstd.WithDecoderMaxMemory(blockSize),
			zstd.WithDecoderMaxWindow(blockSize),
			zstd.WithDecoderLowmem(true))
		if err != nil {
			panic(err)
		}
		return d
	})
)
