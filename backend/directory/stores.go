package directory

import (
	"strings"

	"mailferry/backend"
)

// Stores are the configured stores. A route may name nothing else. The value
// is read-only after NewStores.
type Stores struct {
	byName  map[string]*backend.Store
	byAddr  map[string]*backend.Store
	anyHost *backend.Store
}

// NewStores indexes the stores by name and address. KindInvalid: two stores
// have one name, or two serve any host.
func NewStores(stores []*backend.Store) (*Stores, error) {
	s := &Stores{byName: map[string]*backend.Store{}, byAddr: map[string]*backend.Store{}}
	for _, st := range stores {
		if s.byName[st.Name] != nil || st.Name == "" {
			return nil, backend.Errorf(backend.KindInvalid, "", "two stores are called %q", st.Name)
		}
		s.byName[st.Name] = st
		switch {
		case st.Local():
		case st.Address != "":
			for _, a := range append([]string{st.Address}, st.Alternates...) {
				if _, twice := s.byAddr[fold(a)]; twice {
					s.byAddr[fold(a)] = nil // an address of two stores names neither
				} else {
					s.byAddr[fold(a)] = st
				}
			}
		case s.anyHost != nil:
			return nil, backend.Errorf(backend.KindInvalid, "", "stores %q and %q both serve any host", s.anyHost.Name, st.Name)
		default:
			s.anyHost = st
		}
	}
	return s, nil
}

// Find resolves what a directory or placement calls a store: a name, the
// address of a store, or an address for the store that serves any host. host
// is the address to dial, empty for our own store. KindUnavailable: nothing
// configured fits, so the user has no way for now, never a default one.
func (s *Stores) Find(name string) (st *backend.Store, host string, err error) {
	if st = s.byName[name]; st == nil {
		st = s.byAddr[fold(name)]
	}
	switch {
	case st != nil && st.Local():
		return st, "", nil
	case st != nil && st.Address != "":
		return st, st.Address, nil
	case st == nil && s.anyHost != nil && plausibleHost(name):
		return s.anyHost, name, nil
	}
	return nil, "", backend.Errorf(backend.KindUnavailable, "", "no configured store is called %q or has that address", name)
}

// FindEntry is Find for what a directory says of a user: Entry.Host is dialled
// at a store that serves any host. A host that is not the store's own address
// is KindUnavailable.
func (s *Stores) FindEntry(e backend.Entry) (st *backend.Store, host string, err error) {
	if e.Host == "" {
		return s.Find(e.Store)
	}
	st = s.byName[e.Store]
	if st == nil || st.Local() || !plausibleHost(e.Host) || st.Address != "" && fold(st.Address) != fold(e.Host) {
		return nil, "", backend.Errorf(backend.KindUnavailable, "", "store %q does not serve the host %q", e.Store, e.Host)
	}
	return st, e.Host, nil
}

// plausibleHost keeps paths, ports, control characters and the like out of a
// dialled address.
func plausibleHost(s string) bool {
	if s == "" || len(s) > 253 || strings.HasPrefix(s, "-") {
		return false
	}
	for _, r := range s {
		ok := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(".-:_", r)
		if !ok {
			return false
		}
	}
	return true
}

func fold(s string) string { return strings.ToLower(s) }
