package directory

import (
	"cmp"
	"context"
	"iter"
	"strings"

	"mailferry/backend"
)

// NamesOptions say by which name a directory is asked for a user, and by which
// name the user is known to the stores.
type NamesOptions struct {
	// Delimiter stands between user and domain, the last one counts; default "@".
	Delimiter string
	// Lookup is the form of names that are looked up.
	Lookup NameForm
	// Key is what the directory is asked for: {user} is the name in the form
	// of Lookup, {local} and {domain} are its parts, {delimiter} is what stands
	// between. Default "{user}". A key that comes out empty is nobody's.
	Key string
	// AsGiven makes the name that the client gave the user's, and not that of
	// the directory; Login is the form of either.
	AsGiven bool
	Login   NameForm
}

// NameForm is what becomes of a name: the domain goes, then a domain is added
// to a name that has none, then letters become small.
type NameForm struct {
	StripDomain bool
	AddDomain   string
	LowerCase   bool
}

func (f NameForm) apply(name, delimiter string) string {
	if i := strings.LastIndex(name, delimiter); f.StripDomain && i >= 0 {
		name = name[:i]
	}
	if f.AddDomain != "" && !strings.Contains(name, delimiter) {
		name += delimiter + f.AddDomain
	}
	if f.LowerCase {
		name = strings.ToLower(name)
	}
	return name
}

// Names is a directory that is asked by other names. It implements RouteWriter
// and UserLister where the directory behind it does, and never more than that
// can: SetStore is otherwise refused, Users yields nobody.
type Names struct {
	inner backend.Directory
	o     NamesOptions
}

// NewNames puts names before a directory, which stays the caller's to close.
func NewNames(inner backend.Directory, o NamesOptions) *Names {
	o.Delimiter, o.Key = cmp.Or(o.Delimiter, "@"), cmp.Or(o.Key, "{user}")
	return &Names{inner, o}
}

// Name is the directory's own.
func (n *Names) Name() string { return n.inner.Name() }

// key is what the directory is asked for.
func (n *Names) key(name string) string {
	user := n.o.Lookup.apply(name, n.o.Delimiter)
	local, domain := user, ""
	if i := strings.LastIndex(user, n.o.Delimiter); i >= 0 {
		local, domain = user[:i], user[i+len(n.o.Delimiter):]
	}
	return strings.NewReplacer("{user}", user, "{local}", local, "{domain}", domain, "{delimiter}", n.o.Delimiter).Replace(n.o.Key)
}

// Lookup implements backend.Directory.
func (n *Names) Lookup(ctx context.Context, name string) (backend.Entry, error) {
	return n.lookup(ctx, name, n.inner.Lookup)
}

// LookupFresh is Lookup by Fresh.
func (n *Names) LookupFresh(ctx context.Context, name string) (backend.Entry, error) {
	return n.lookup(ctx, name, func(ctx context.Context, key string) (backend.Entry, error) { return Fresh(ctx, n.inner, key) })
}

func (n *Names) lookup(ctx context.Context, name string, ask func(context.Context, string) (backend.Entry, error)) (backend.Entry, error) {
	key := n.key(name)
	if !validName(name) || !validName(key) {
		return backend.Entry{}, notFound(n.Name(), name)
	}
	trace(ctx, "names of directory "+n.Name(), "%q is looked up as %q", name, key)
	e, err := ask(ctx, key)
	if err != nil {
		return e, err
	}
	user := e.User
	if n.o.AsGiven || nameless(n.inner, e) {
		user = name
	}
	if e.User = n.o.Login.apply(user, n.o.Delimiter); !validName(e.User) {
		return backend.Entry{}, notFound(n.Name(), name)
	}
	trace(ctx, "names of directory "+n.Name(), "the store knows the user as %q", e.User)
	return e, nil
}

// Authenticate implements backend.Directory.
func (n *Names) Authenticate(ctx context.Context, e backend.Entry, password backend.Secret) error {
	return n.inner.Authenticate(ctx, e, password)
}

// AuthenticateNobody spends the time of a failing Authenticate.
func (n *Names) AuthenticateNobody(ctx context.Context, password backend.Secret) {
	if a, ok := n.inner.(nobodyAuthenticator); ok {
		a.AuthenticateNobody(ctx, password)
	}
}

// Invalidate forgets what the directory remembers of a name.
func (n *Names) Invalidate(name string) {
	if i, ok := n.inner.(invalidator); ok {
		i.Invalidate(n.key(name))
	}
}

// SetStore implements backend.RouteWriter.
func (n *Names) SetStore(ctx context.Context, e backend.Entry, store string) error {
	w, ok := n.inner.(backend.RouteWriter)
	if !ok {
		return backend.Errorf(backend.KindPermission, "", "directory %q cannot be written", n.Name())
	}
	return w.SetStore(ctx, e, store)
}

// Users implements backend.UserLister. Names that only clients know cannot be
// listed (KindInvalid).
func (n *Names) Users(ctx context.Context, filter string) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		l, ok := n.inner.(backend.UserLister)
		if !ok {
			return
		}
		if n.o.AsGiven {
			yield(backend.Entry{}, backend.Errorf(backend.KindInvalid, "", "directory %s: users have the names that clients give, which nobody can list", n.Name()))
			return
		}
		for e, err := range l.Users(ctx, filter) {
			e.User = n.o.Login.apply(e.User, n.o.Delimiter)
			if !yield(e, err) {
				return
			}
		}
	}
}
