package directory

import (
	"bytes"
	"cmp"
	"context"
	"encoding/csv"
	"os"
	"path/filepath"
	"strings"

	"mailferry/backend"
)

// SetStore rewrites the user's line and leaves all others as they are. The
// file is replaced as a whole and synced; another writer at the same moment
// may lose its change.
func (f *File) SetStore(_ context.Context, e backend.Entry, store string) error {
	if !f.o.Write {
		return backend.Errorf(backend.KindPermission, "", "directory %s: the file may not be written", f.o.Name)
	}
	if store != "" && (!validName(store) || strings.ContainsAny(store, ":,\"")) {
		return backend.Errorf(backend.KindInvalid, "", "directory %s: store %q is not usable", f.o.Name, store)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	data, err := os.ReadFile(f.o.Path)
	if err != nil {
		return backend.Errorf(backend.KindUnavailable, "", "directory %s: %w", f.o.Name, err)
	}
	edit := setLine
	if f.isCSV() {
		edit = setRecord
	}
	out, found, err := edit(data, cmp.Or(e.ID, e.User), store)
	if err != nil {
		return backend.Errorf(backend.KindUnavailable, "", "directory %s: %w", f.o.Name, err)
	}
	if !found {
		return notFound(f.o.Name, e.User)
	}
	if !bytes.Equal(out, data) {
		if err := replaceFile(f.o.Path, out); err != nil {
			return backend.Errorf(backend.KindUnavailable, "", "directory %s: %w", f.o.Name, err)
		}
	}
	f.version = fileVersion{} // read it again
	f.checked = f.checked.Add(-f.o.CheckInterval)
	return nil
}

func setLine(data []byte, user, store string) (out []byte, found bool, err error) {
	lines := strings.SplitAfter(string(data), "\n")
	for i, line := range lines {
		body := strings.TrimRight(line, "\r\n")
		parts := strings.SplitN(body, ":", len(columns))
		if strings.HasPrefix(body, "#") || fold(parts[0]) != fold(user) {
			continue
		}
		for len(parts) < 3 {
			parts = append(parts, "")
		}
		parts[2] = store
		lines[i] = strings.Join(parts, ":") + line[len(body):]
		found = true
	}
	return []byte(strings.Join(lines, "")), found, nil
}

func setRecord(data []byte, user, store string) (out []byte, found bool, err error) {
	r := csv.NewReader(bytes.NewReader(data))
	r.Comment = '#'
	recs, err := r.ReadAll()
	if err != nil || len(recs) == 0 {
		return nil, false, err
	}
	userCol, storeCol := -1, -1
	for i, name := range recs[0] {
		switch strings.ToLower(strings.TrimSpace(strings.TrimPrefix(name, "\ufeff"))) {
		case "user":
			userCol = i
		case "store":
			storeCol = i
		}
	}
	if userCol < 0 || storeCol < 0 {
		return nil, false, backend.NewError(backend.KindInvalid, "the file has no columns user and store")
	}
	for _, rec := range recs[1:] {
		if fold(rec[userCol]) == fold(user) {
			rec[storeCol], found = store, true
		}
	}
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	err = w.WriteAll(recs)
	return b.Bytes(), found, err
}

// replaceFile writes beside the file, syncs and renames, keeping its mode.
func replaceFile(path string, data []byte) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".mailferry-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Chmod(info.Mode().Perm())
	}
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
