package directory

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"mailferry/backend"
)

// FileOptions configure a directory in a file.
type FileOptions struct {
	Name string
	// Path is read at the first lookup and again when the file changes. A file
	// named *.csv has a header line with the columns user, password, store,
	// disabled, recipients (the first is required, any order, recipients
	// separated by spaces). Any other has lines name:hash:store[:disabled[:recipients]],
	// empty lines and lines that begin with # apart.
	Path string
	// Popmap says that the file is a popmap of Perdition: lines
	// key:[user@]host[:port], keys in exact letters, every password checked by
	// the store, which is called host or host:port.
	Popmap bool
	// Delimiter stands between user and host in a popmap; default "@".
	Delimiter string
	// DefaultStore is the store of users without one.
	DefaultStore string
	// StoreChecks leaves every password to the store, hash or not.
	StoreChecks bool
	// Write allows SetStore to rewrite the file.
	Write bool
	// CheckInterval is how often the file is looked at; 0: 1 s, negative: at
	// each lookup.
	CheckInterval time.Duration
	Logger        *slog.Logger
}

// File is the driver for files: names match in any case, a user without hash
// has the password checked by the store. A file that cannot be read or parsed
// leaves the last good content in use; without one nothing can be told.
type File struct {
	o   FileOptions
	log *slog.Logger

	mu      sync.Mutex
	table   map[string]*fileUser // by folded name and recipient; conflict set when ambiguous
	order   []*fileUser
	version fileVersion
	checked time.Time
	err     error
}

type fileUser struct {
	entry    backend.Entry
	key      string // of a popmap
	hash     string
	conflict bool
}

type fileVersion struct {
	size  int64
	mtime time.Time
	info  os.FileInfo
}

// NewFile makes the driver; the file need not exist yet.
func NewFile(o FileOptions) (*File, error) {
	if o.Path == "" {
		return nil, backend.Errorf(backend.KindInvalid, "", "directory %s: no path", o.Name)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.CheckInterval, o.Delimiter = cmp.Or(o.CheckInterval, time.Second), cmp.Or(o.Delimiter, "@")
	return &File{o: o, log: o.Logger.With("directory", o.Name)}, nil
}

// Name is the configured name.
func (f *File) Name() string { return f.o.Name }

// Lookup implements backend.Directory.
func (f *File) Lookup(ctx context.Context, name string) (backend.Entry, error) {
	u, err := f.find(name)
	if err == nil {
		trace(ctx, "file "+f.o.Path, "has a line for %q", name)
	} else {
		trace(ctx, "file "+f.o.Path, "%v", err)
	}
	if err != nil {
		return backend.Entry{}, err
	}
	return u.entry, nil
}

func (f *File) find(name string) (*fileUser, error) {
	if !validName(name) {
		return nil, notFound(f.o.Name, name)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refresh()
	if f.table == nil {
		return nil, backend.Errorf(backend.KindUnavailable, "", "directory %s: %w", f.o.Name, f.err)
	}
	u := f.table[name]
	if !f.o.Popmap {
		u = f.table[fold(name)]
	}
	switch {
	case u == nil:
		return nil, notFound(f.o.Name, name)
	case u.conflict:
		return nil, backend.Errorf(backend.KindConflict, "", "directory %s: more than one line for %q", f.o.Name, name)
	}
	return u, nil
}

// Authenticate implements backend.Directory.
func (f *File) Authenticate(_ context.Context, e backend.Entry, password backend.Secret) error {
	u, err := f.find(cmp.Or(e.ID, e.User))
	if err != nil && !backend.IsKind(err, backend.KindNotFound) {
		return err
	}
	if err != nil || password == "" || !verifyHash(u.hash, password) {
		return wrongPassword(f.o.Name, e.User)
	}
	return nil
}

// AuthenticateNobody spends the time of a failing Authenticate.
func (f *File) AuthenticateNobody(_ context.Context, password backend.Secret) { dummyHash(password) }

// Users lists all users in the file's order; files know no filters (KindInvalid).
func (f *File) Users(_ context.Context, filter string) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		if filter != "" {
			yield(backend.Entry{}, backend.NewError(backend.KindInvalid, "this directory has no filters"))
			return
		}
		f.mu.Lock()
		f.refresh()
		order, err := f.order, f.err
		if f.table != nil {
			err = nil
		}
		f.mu.Unlock()
		if err != nil {
			yield(backend.Entry{}, backend.Errorf(backend.KindUnavailable, "", "directory %s: %w", f.o.Name, err))
			return
		}
		for _, u := range order {
			if !yield(u.entry, nil) {
				return
			}
		}
	}
}

// refresh reads the file anew when it changed. The caller holds mu.
func (f *File) refresh() {
	now := time.Now()
	if f.table != nil && now.Sub(f.checked) < f.o.CheckInterval {
		return
	}
	f.checked = now
	info, err := os.Stat(f.o.Path)
	if err == nil && f.table != nil && f.version.info != nil && os.SameFile(f.version.info, info) &&
		f.version.size == info.Size() && f.version.mtime.Equal(info.ModTime()) {
		return
	}
	var users []*fileUser
	if err == nil {
		users, err = f.load()
	}
	if err != nil {
		if f.err == nil || f.err.Error() != err.Error() {
			f.log.Error("directory file is not usable, the last good content stays", "error", err)
		}
		f.err = err
		return
	}
	f.err, f.order, f.table = nil, users, index(users)
	f.version = fileVersion{info.Size(), info.ModTime(), info}
}

func index(users []*fileUser) map[string]*fileUser {
	table := make(map[string]*fileUser, len(users))
	for _, u := range users {
		if u.key != "" {
			table[u.key] = u
			continue
		}
		for _, name := range append([]string{u.entry.User}, u.entry.Recipients...) {
			switch old := table[fold(name)]; {
			case old == nil:
				table[fold(name)] = u
			case old != u:
				table[fold(name)] = &fileUser{conflict: true}
			}
		}
	}
	return table
}

func (f *File) isCSV() bool { return strings.EqualFold(filepath.Ext(f.o.Path), ".csv") }

// load reads the whole file; any bad line fails all of it.
func (f *File) load() ([]*fileUser, error) {
	data, err := os.ReadFile(f.o.Path)
	if err != nil {
		return nil, err
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if f.o.Popmap {
		return f.parsePopmap(data)
	}
	if f.isCSV() {
		return f.parseCSV(data)
	}
	return f.parseLines(data)
}

// columns in the order of the colon-separated form.
var columns = []string{"user", "password", "store", "disabled", "recipients"}

func (f *File) parseLines(data []byte) ([]*fileUser, error) {
	var users []*fileUser
	var errs []error
	sc := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimRight(sc.Text(), " \t\r")
		if line == "" || line[0] == '#' {
			continue
		}
		row := map[string]string{}
		for i, v := range strings.SplitN(line, ":", len(columns)) {
			row[columns[i]] = v
		}
		u, err := f.user(row)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s:%d: %w", f.o.Path, n, err))
		}
		users = append(users, u)
	}
	return users, errors.Join(append(errs, sc.Err())...)
}

func (f *File) parseCSV(data []byte) ([]*fileUser, error) {
	r := csv.NewReader(bytes.NewReader(data))
	r.Comment = '#'
	header, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf("%s: header: %w", f.o.Path, err)
	}
	var users []*fileUser
	for {
		rec, err := r.Read()
		if err == io.EOF {
			return users, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.o.Path, err)
		}
		row := map[string]string{}
		for i, v := range rec {
			row[strings.ToLower(strings.TrimSpace(header[i]))] = v
		}
		u, err := f.user(row)
		if err != nil {
			line, _ := r.FieldPos(0)
			return nil, fmt.Errorf("%s:%d: %w", f.o.Path, line, err)
		}
		users = append(users, u)
	}
}

func (f *File) user(row map[string]string) (*fileUser, error) {
	name := row["user"]
	if !validName(name) {
		return nil, fmt.Errorf("user name %q is not usable", name)
	}
	store := strings.TrimSpace(row["store"])
	if store != "" && !validName(store) {
		return nil, fmt.Errorf("store %q of %q is not usable", store, name)
	}
	store = cmp.Or(store, f.o.DefaultStore)
	hash := row["password"]
	return &fileUser{hash: hash, entry: backend.Entry{
		User: name, Directory: f.o.Name, ID: name, Store: store,
		Disabled: truth(row["disabled"]), CheckPassword: hash != "" && !f.o.StoreChecks,
		Recipients: strings.Fields(row["recipients"]),
	}}, nil
}
