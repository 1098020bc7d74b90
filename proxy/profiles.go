package proxy

import (
	"maps"
	"slices"
	"sync"

	"mailferry/backend"
)

// profileCaps are what stores of a profile offer at least, for the time before
// anybody has logged in there.
var profileCaps = map[backend.StoreType][]string{
	backend.StoreDovecot: {"IMAP4REV1", "LITERAL+", "ID", "ENABLE", "IDLE", "SORT", "THREAD=REFERENCES", "THREAD=REFS",
		"MULTIAPPEND", "UNSELECT", "CHILDREN", "NAMESPACE", "UIDPLUS", "LIST-EXTENDED", "I18NLEVEL=1", "CONDSTORE", "QRESYNC",
		"ESEARCH", "ESORT", "SEARCHRES", "WITHIN", "LIST-STATUS", "BINARY", "MOVE", "SPECIAL-USE", "SNIPPET=FUZZY", "PREVIEW"},
	backend.StoreCyrus: {"IMAP4REV1", "LITERAL+", "ID", "ENABLE", "IDLE", "ACL", "QUOTA", "MAILBOX-REFERRALS", "NAMESPACE",
		"UIDPLUS", "CHILDREN", "MULTIAPPEND", "BINARY", "SORT", "THREAD=ORDEREDSUBJECT", "THREAD=REFERENCES", "CONDSTORE",
		"QRESYNC", "ESEARCH", "UNSELECT", "LIST-EXTENDED", "WITHIN", "SPECIAL-USE", "CREATE-SPECIAL-USE", "MOVE", "SEARCHRES"},
	backend.StoreCourier: {"IMAP4REV1", "UIDPLUS", "CHILDREN", "NAMESPACE", "THREAD=ORDEREDSUBJECT", "THREAD=REFERENCES",
		"SORT", "QUOTA", "IDLE", "ACL", "ACL2=UNION"},
	backend.StoreGeneric: {"IMAP4REV1", "NAMESPACE", "UIDPLUS", "IDLE", "ID", "CHILDREN", "LITERAL+"},
}

// profiles knows what the stores offer after login. Safe for concurrent use.
type profiles struct {
	resumable []string
	groups    map[string][]string // store -> stores of its group

	mu     sync.Mutex
	caps   map[string][]string
	cached map[string]*policy // by the list
	// recent is what the last login of a store got, valid while the lists are
	// what they were: nearly every login finds its policy there.
	recent  map[[2]string]recentPolicy
	changes uint64 // of caps
}

type recentPolicy struct {
	caps    []string
	changes uint64
	policy  *policy
}

func newProfiles(o *Options) *profiles {
	p := &profiles{resumable: o.Resumable, groups: map[string][]string{}, caps: maps.Clone(o.Capabilities), cached: map[string]*policy{}, recent: map[[2]string]recentPolicy{}}
	if p.caps == nil {
		p.caps = map[string][]string{}
	}
	for _, g := range o.Groups {
		for _, s := range g.Stores {
			p.groups[s] = append(p.groups[s], g.Stores...)
		}
		for _, s := range g.Stores {
			if st, _, err := o.Stores.Find(s); err == nil && p.caps[s] == nil && !st.Local() {
				p.caps[s] = profileCaps[st.Type]
			}
		}
	}
	return p
}

// policy is what a session may use on a store that has announced caps: what
// all stores of its group offer, the target of a running move included.
func (p *profiles) policy(store *backend.Store, target string, caps []string) *policy {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !store.Local() && (p.caps[store.Name] == nil || !slices.Equal(p.caps[store.Name], caps)) {
		p.caps[store.Name] = caps
		p.changes++
	}
	key := [2]string{store.Name, target}
	if r, ok := p.recent[key]; ok && r.changes == p.changes && slices.Equal(r.caps, caps) {
		return r.policy
	}
	pol := p.common(store, target, caps)
	p.recent[key] = recentPolicy{caps, p.changes, pol}
	return pol
}

// common makes or finds a policy. The caller holds mu.
func (p *profiles) common(store *backend.Store, target string, caps []string) *policy {
	lists := [][]string{caps}
	others := slices.Clone(p.groups[store.Name])
	if target != "" {
		others = append(others, target)
	}
	for _, s := range others {
		if l := p.caps[s]; s != store.Name && l != nil {
			lists = append(lists, l)
		}
	}
	pol := newPolicy(p.resumable, lists...)
	key := pol.list()
	if old := p.cached[key]; old != nil {
		return old // thousands of sessions share one
	}
	if len(p.cached) > 1000 {
		clear(p.cached)
	}
	p.cached[key] = pol
	return pol
}
