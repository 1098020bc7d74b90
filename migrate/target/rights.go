package target

import (
	"slices"
	"strings"

	"mailferry/backend"
)

// Rights are letters (RFC 4314). c and d are those of RFC 2086, which each store
// takes for others of its own choice: rights are compared without them.

// newRights are the rights of RFC 4314 for those that a store told, sorted: it
// tells c and d beside k, x, t and e for old clients, or has only them.
func newRights(rights string) string {
	if strings.ContainsAny(rights, "kxte") {
		return letters(strings.Map(func(r rune) rune {
			if r == 'c' || r == 'd' {
				return -1
			}
			return r
		}, rights))
	}
	return letters(strings.NewReplacer("c", "kx", "d", "te").Replace(rights))
}

// oldRights are new rights for a store that has those of RFC 2086 only. left are
// those that cannot be given without others.
func oldRights(rights string) (old, left string) {
	for _, pair := range []struct{ news, old string }{{"kx", "c"}, {"te", "d"}} {
		both := true
		for _, r := range pair.news {
			both = both && strings.ContainsRune(rights, r)
		}
		for _, r := range pair.news {
			if strings.ContainsRune(rights, r) && !both {
				left += string(r)
			}
		}
		rights = strings.Map(func(r rune) rune {
			if strings.ContainsRune(pair.news, r) {
				return -1
			}
			return r
		}, rights)
		if both {
			rights += pair.old
		}
	}
	return letters(rights), left
}

// letters sorts rights, each once.
func letters(s string) string {
	b := []byte(s)
	slices.Sort(b)
	return string(slices.Compact(b))
}

// split divides rights into those in of and the others.
func split(rights, of string) (in, out string) {
	for _, r := range rights {
		if strings.ContainsRune(of, r) {
			in += string(r)
		} else {
			out += string(r)
		}
	}
	return in, out
}

// lettersOf are the rights that a kind of store knows.
func lettersOf(t backend.StoreType) string {
	if t == backend.StoreCyrus {
		return "lrswipkxten" + "a0123456789"
	}
	return "lrswipkxtea"
}

// who is whom an entry of an access control list is about.
type who struct {
	takes bool // the entry takes rights away
	kind  whoKind
	name  string
}

type whoKind int

const (
	aUser whoKind = iota
	aGroup
	theOwner
	anyone        // without a login, too
	anonymous     // only without one
	authenticated // only with one
	servers       // a store's admins, or a file of theirs
)

// parseIdentifier understands the forms of Dovecot ($group, !$group, owner, anyone,
// authenticated, #global), Cyrus (group:name, anyone, anonymous) and Courier
// (user=, group=, owner, anyone, administrators). A bare name is a user's.
func parseIdentifier(id, owner string) (w who) {
	if rest, ok := strings.CutPrefix(id, "-"); ok && rest != "" {
		w.takes, id = true, rest
	}
	w.name = id
	for _, p := range []struct {
		prefix string
		kind   whoKind
	}{{"group:", aGroup}, {"group=", aGroup}, {"$", aGroup}, {"!$", servers}, {"group-override=", servers}, {"#", servers}, {"user=", aUser}} {
		if rest, ok := strings.CutPrefix(id, p.prefix); ok {
			if w.kind = p.kind; p.kind != servers {
				w.name = rest
			}
			break
		}
	}
	if w.kind != aUser {
		return w
	}
	switch w.name {
	case "owner":
		w.kind = theOwner
	case "anyone":
		w.kind = anyone
	case "anonymous":
		w.kind = anonymous
	case "authenticated":
		w.kind = authenticated
	case "administrators", "admins":
		w.kind = servers
	default:
		if local, _, _ := strings.Cut(owner, "@"); strings.EqualFold(w.name, owner) || strings.EqualFold(w.name, local) {
			w.kind = theOwner
		}
	}
	return w
}

// identifiers writes those of one user's account at the target.
type identifiers struct {
	kind     backend.StoreType
	from, to string            // the owner's name on both sides
	names    map[string]string // of others, by a rule
}

// at is how the target writes w; why says what keeps it from doing so.
func (x *identifiers) at(w who) (id, why string) {
	switch w.kind {
	case aUser:
		if id, why = x.user(w.name); why != "" {
			return "", why
		}
		if x.kind == backend.StoreCourier {
			id = "user=" + id
		}
	case aGroup:
		id = w.name
		if to := x.names["group:"+id]; to != "" {
			id = to
		}
		switch x.kind {
		case backend.StoreDovecot:
			id = "$" + id
		case backend.StoreCyrus:
			id = "group:" + id
		case backend.StoreCourier:
			id = "group=" + id
		default:
			return "", "how the target writes groups is not known"
		}
	case theOwner:
		if id = x.to; x.kind == backend.StoreCourier || x.kind == backend.StoreDovecot {
			id = "owner"
		}
	case anyone:
		id = "anyone"
	case anonymous:
		if id = "anonymous"; x.kind != backend.StoreCyrus {
			return "", "the target has no rights for those without a login alone"
		}
	case authenticated:
		if id = "authenticated"; x.kind != backend.StoreDovecot {
			return "", "the target has no rights for all who are logged in alone"
		}
	default:
		return "", "it is a thing of the old store's administrators"
	}
	if w.takes {
		id = "-" + id
	}
	return id, ""
}

// user is another user's name at the target: as a rule says, else changed as the
// owner's own name is.
func (x *identifiers) user(name string) (id, why string) {
	if to := x.names[name]; to != "" {
		return to, ""
	}
	_, fromDomain, _ := strings.Cut(x.from, "@")
	_, toDomain, _ := strings.Cut(x.to, "@")
	local, domain, has := strings.Cut(name, "@")
	fromLocal, _, _ := strings.Cut(x.from, "@")
	toLocal, _, _ := strings.Cut(x.to, "@")
	switch {
	case x.from == x.to:
		return name, ""
	case fromLocal != toLocal:
		return "", "what this user is called at the target is not known (name them by a rule)"
	case has && domain == fromDomain, !has && fromDomain == "":
		if toDomain == "" {
			return local, ""
		}
		return local + "@" + toDomain, ""
	}
	return name, ""
}
