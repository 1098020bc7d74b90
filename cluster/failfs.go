package cluster

import (
	"fmt"
	"os"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// failStopFS is the file system as Pebble sees it. Pebble answers some write
// errors by ending the process and others by trying for ever. So it gets to see
// none: the first one becomes the node's fault, and from then on nothing is
// written or removed any more while Pebble is told that all is well. That is
// safe because whoever acts on a commit or a flush of Pebble's looks at the
// fault after it and before anything else. Errors of reads pass through.
type failStopFS struct {
	vfs.FS
	fault *fault
}

func (fs *failStopFS) dead() bool { return fs.fault.err.Load() != nil }

// absorb takes an error out of sight. That a file is missing is no disk fault.
func (fs *failStopFS) absorb(err error) error {
	if err == nil || oserror.IsNotExist(err) {
		return err
	}
	fs.fault.set(fmt.Errorf("disk: %w", err))
	return nil
}

// change runs f, which changes a directory.
func (fs *failStopFS) change(f func() error) error {
	if fs.dead() {
		return nil
	}
	return fs.absorb(f())
}

// open runs f, which opens a file for writing. In its stead a file in memory
// takes what nobody will read.
func (fs *failStopFS) open(f func() (vfs.File, error)) (vfs.File, error) {
	if !fs.dead() {
		file, err := f()
		if err == nil {
			return &failStopFile{file, fs}, nil
		}
		if err := fs.absorb(err); err != nil {
			return nil, err
		}
	}
	return vfs.NewMem().Create("lost", vfs.WriteCategoryUnspecified)
}

func (fs *failStopFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return fs.open(func() (vfs.File, error) { return fs.FS.Create(name, c) })
}

func (fs *failStopFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return fs.open(func() (vfs.File, error) { return fs.FS.OpenReadWrite(name, c, opts...) })
}

func (fs *failStopFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return fs.open(func() (vfs.File, error) { return fs.FS.ReuseForWrite(from, to, c) })
}

func (fs *failStopFS) OpenDir(name string) (vfs.File, error) {
	return fs.open(func() (vfs.File, error) { return fs.FS.OpenDir(name) })
}

func (fs *failStopFS) Link(from, to string) error {
	return fs.change(func() error { return fs.FS.Link(from, to) })
}

func (fs *failStopFS) Remove(name string) error {
	return fs.change(func() error { return fs.FS.Remove(name) })
}

func (fs *failStopFS) RemoveAll(name string) error {
	return fs.change(func() error { return fs.FS.RemoveAll(name) })
}

func (fs *failStopFS) Rename(from, to string) error {
	return fs.change(func() error { return fs.FS.Rename(from, to) })
}

func (fs *failStopFS) MkdirAll(dir string, perm os.FileMode) error {
	return fs.change(func() error { return fs.FS.MkdirAll(dir, perm) })
}

// Unwrap implements vfs.FS.
func (fs *failStopFS) Unwrap() vfs.FS { return fs.FS }

// failStopFile is a file opened for writing.
type failStopFile struct {
	vfs.File
	fs *failStopFS
}

func (f *failStopFile) Write(p []byte) (int, error) {
	return len(p), f.fs.change(func() error { _, err := f.File.Write(p); return err })
}

func (f *failStopFile) WriteAt(p []byte, at int64) (int, error) {
	return len(p), f.fs.change(func() error { _, err := f.File.WriteAt(p, at); return err })
}

func (f *failStopFile) Preallocate(offset, length int64) error {
	return f.fs.change(func() error { return f.File.Preallocate(offset, length) })
}

func (f *failStopFile) Sync() error { return f.fs.change(f.File.Sync) }

func (f *failStopFile) SyncData() error { return f.fs.change(f.File.SyncData) }

func (f *failStopFile) SyncTo(length int64) (full bool, err error) {
	err = f.fs.change(func() (err error) {
		full, err = f.File.SyncTo(length)
		return err
	})
	return full, err
}

func (f *failStopFile) Close() error { return f.fs.absorb(f.File.Close()) }
