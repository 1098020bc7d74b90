package scenario

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// manifest is what mailseed's snapshot wrote: everything that a client can see.
type manifest struct {
	Users []*userManifest `json:"users"`
}

type userManifest struct {
	User       string            `json:"user"`
	Prefix     string            `json:"prefix"`
	Sep        string            `json:"sep"`
	Folders    []*folderManifest `json:"folders"`
	Subscribed [][]string        `json:"subscribed"`
}

type folderManifest struct {
	Path          []string           `json:"path"`
	Raw           string             `json:"raw"`
	NoSelect      bool               `json:"noselect"`
	UIDValidity   uint32             `json:"uidvalidity"`
	UIDNext       uint32             `json:"uidnext"`
	HighestModSeq uint64             `json:"highestmodseq"`
	Msgs          []*messageManifest `json:"msgs"`
}

type messageManifest struct {
	UID   uint32   `json:"uid"`
	SHA   string   `json:"sha256"`
	Size  int64    `json:"size"`
	Flags []string `json:"flags"`
	Date  int64    `json:"date"`
}

// snapshot has mailseed read users at a server and returns the manifest with
// the file that holds it.
func (f *farm) snapshot(t *testing.T, name string, access ...string) (map[string]*userManifest, string) {
	t.Helper()
	path := filepath.Join(f.dir, name+".json")
	f.mailseed(t, "snapshot", append(access, "-deep", "-manifest", path)...)
	return readManifest(t, path), path
}

func readManifest(t *testing.T, path string) map[string]*userManifest {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var m manifest
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	users := map[string]*userManifest{}
	for _, u := range m.Users {
		users[u.User] = u
	}
	return users
}

// only writes a manifest of some users of another, for verify.
func (f *farm) only(t *testing.T, file string, users []string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var m struct {
		Users []json.RawMessage `json:"users"`
	}
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	m.Users = slices.DeleteFunc(m.Users, func(raw json.RawMessage) bool {
		var u struct{ User string }
		return json.Unmarshal(raw, &u) != nil || !slices.Contains(users, u.User)
	})
	if b, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	path := strings.TrimSuffix(file, ".json") + "-quiet.json"
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// verdict is mailseed verify's answer, of which the tests look at what a
// client could notice.
type verdict struct {
	Exact    bool `json:"identity_perfect"`
	Content  bool `json:"content_perfect"`
	Messages struct {
		Expected   int `json:"expected"`
		Intact     int `json:"intact"`
		OtherOrder int `json:"folders_with_other_order"`
	} `json:"messages"`
	UID, UIDValidity struct {
		Differ int `json:"differ"`
	}
	UIDNext struct {
		Higher, Lower int
	} `json:"uidnext"`
	HighestModSeq struct {
		Lower int `json:"lower"`
	} `json:"highestmodseq"`
	Deep struct {
		ModSeqLower int `json:"modseq_lower"`
	} `json:"deep"`
	SpecialUse struct {
		Missing int `json:"missing"`
	} `json:"special_use"`
}

// same reports whether nothing differs that a move carries. ENVELOPE and
// BODYSTRUCTURE are apart: Cyrus writes some of them in its own way (spaces
// within encoded words, parameters of broken parts); ours are Dovecot's.
func (v verdict) same() bool {
	return v.Content && v.Messages.Expected > 0 && v.Messages.Intact == v.Messages.Expected &&
		v.Messages.OtherOrder+v.UID.Differ+v.UIDValidity.Differ+v.UIDNext.Higher+v.UIDNext.Lower+
			v.HighestModSeq.Lower+v.Deep.ModSeqLower+v.SpecialUse.Missing == 0
}

// verify has mailseed compare two manifests of the same users.
func (f *farm) verify(t *testing.T, want, got string) (verdict, string) {
	t.Helper()
	out := f.mailseed(t, "verify", "-deep", "-manifest", want, "-against", got, "-samples", "20")
	var v verdict
	if err := json.Unmarshal(out, &v); err != nil {
		t.Fatal(err)
	}
	return v, string(out)
}

// difference is one thing that is not as on the frozen old store.
type difference struct {
	folder string // as clients name it
	uid    uint32 // 0: of the folder itself
	what   string
	flags  []string // of the new store, for changed flags
}

func (d difference) String() string { return fmt.Sprintf("%s UID %d: %s", d.folder, d.uid, d.what) }

// Differences with a meaning for the journals.
const (
	newMessage   = "a message that the old store does not have"
	changedFlags = "other flags"
)

// differences lists everything that a client could notice between the frozen
// old store and the new one.
func differences(old, now *userManifest) []difference {
	var ds []difference
	if old.Prefix != now.Prefix || old.Sep != now.Sep {
		ds = append(ds, difference{what: fmt.Sprintf("namespace %q %q became %q %q", old.Prefix, old.Sep, now.Prefix, now.Sep)})
	}
	if a, b := paths(old.Subscribed), paths(now.Subscribed); !slices.Equal(a, b) {
		ds = append(ds, difference{what: fmt.Sprintf("subscriptions %q became %q", a, b)})
	}
	have := map[string]*folderManifest{}
	for _, f := range now.Folders {
		have[f.Raw] = f
	}
	for _, f := range old.Folders {
		g := have[f.Raw]
		delete(have, f.Raw)
		if g == nil {
			ds = append(ds, difference{folder: f.Raw, what: "folder is missing"})
			continue
		}
		ds = append(ds, folderDifferences(f, g)...)
	}
	for name := range have {
		ds = append(ds, difference{folder: name, what: "folder that the old store does not have"})
	}
	return ds
}

func paths(names [][]string) []string {
	var out []string
	for _, n := range names {
		out = append(out, strings.Join(n, "\x00"))
	}
	slices.Sort(out)
	return out
}

func folderDifferences(old, now *folderManifest) []difference {
	var ds []difference
	note := func(uid uint32, what string, flags ...string) {
		ds = append(ds, difference{folder: old.Raw, uid: uid, what: what, flags: flags})
	}
	if old.UIDValidity != now.UIDValidity {
		note(0, fmt.Sprintf("UIDVALIDITY %d became %d", old.UIDValidity, now.UIDValidity))
	}
	if now.HighestModSeq < old.HighestModSeq {
		note(0, fmt.Sprintf("HIGHESTMODSEQ %d fell to %d", old.HighestModSeq, now.HighestModSeq))
	}
	have := map[uint32]*messageManifest{}
	for _, m := range now.Msgs {
		have[m.UID] = m
	}
	for _, m := range old.Msgs {
		g := have[m.UID]
		delete(have, m.UID)
		switch {
		case g == nil:
			note(m.UID, "message is missing")
		case g.SHA != m.SHA || g.Size != m.Size:
			note(m.UID, "other octets")
		case g.Date != m.Date:
			note(m.UID, "other date")
		case !sameFlags(m.Flags, g.Flags):
			note(m.UID, changedFlags, g.Flags...)
		}
	}
	next := old.UIDNext
	for uid := range have {
		note(uid, newMessage)
		next = max(next, uid+1)
		if uid < old.UIDNext {
			note(uid, "a UID below the old UIDNEXT was given again")
		}
	}
	if now.UIDNext != next {
		note(0, fmt.Sprintf("UIDNEXT is %d, not %d", now.UIDNext, next))
	}
	return ds
}

// sameFlags compares flags, of which \Recent belongs to a session and not to
// the message.
func sameFlags(a, b []string) bool { return slices.Equal(normalFlags(a), normalFlags(b)) }

func normalFlags(flags []string) []string {
	var out []string
	for _, f := range flags {
		if f = strings.ToLower(f); f != `\recent` {
			out = append(out, f)
		}
	}
	slices.Sort(out)
	return out
}
