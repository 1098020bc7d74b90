package logs

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/DeRuina/timberjack"
)

// File is a log file with retention. It is rotated at midnight and when it is
// full; a rotated file has the time in its name.
type File struct {
	Path string
	// MaxSize in octets makes it full; 0: 100 MiB. It is rounded up to MiB.
	MaxSize int64
	// Keep is how long rotated files are kept, in whole days; 0: for ever.
	Keep time.Duration
	// Files is how many rotated files are kept; 0: any number.
	Files int
}

// openFile makes sure at once that the file can be written.
func openFile(f *File) (*timberjack.Logger, error) {
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o750); err != nil {
		return nil, err
	}
	probe, err := os.OpenFile(f.Path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, fmt.Errorf("log file: %w", err)
	}
	if err := probe.Close(); err != nil {
		return nil, err
	}
	const mib = 1 << 20
	return &timberjack.Logger{Filename: f.Path, MaxSize: int((f.MaxSize + mib - 1) / mib), MaxAge: int(f.Keep / (24 * time.Hour)),
		MaxBackups: f.Files, RotateAt: []string{"00:00"}, LocalTime: true, FileMode: 0o640}, nil
}
