package directory

import (
	"context"
	"errors"
	"slices"
	"testing"

	"mailferry/backend"
)

// subject is a directory filled with the same users, whatever the driver:
// anna (password "secret", store old1), otto (disabled), bernd (no store).
type subject struct {
	dir   backend.Directory
	away  func() // makes the directory unable to tell; nil: it always can
	known bool   // it knows known users nevertheless
	// noDisabled: it has no word for disabled users.
	noDisabled bool
}

// testDirectory is what every driver promises.
func testDirectory(t *testing.T, open func(t *testing.T) subject) {
	ctx := t.Context()
	t.Run("found", func(t *testing.T) {
		e, err := open(t).dir.Lookup(ctx, "anna")
		if err != nil {
			t.Fatal(err)
		}
		if e.User != "anna" || e.Store != "old1" || e.Disabled || !e.CheckPassword || e.Directory == "" {
			t.Errorf("entry %+v", e)
		}
	})
	t.Run("disabled", func(t *testing.T) {
		s := open(t)
		if s.noDisabled {
			t.Skip("this directory does not know disabled users")
		}
		e, err := s.dir.Lookup(ctx, "otto")
		if err != nil || !e.Disabled {
			t.Errorf("entry %+v, %v", e, err)
		}
	})
	t.Run("not found", func(t *testing.T) {
		d := open(t).dir
		for _, name := range []string{"nobody", "", "*", "ann*", "anna)(uid=*", "an\x00na", "anna\r\n", " anna", "anna ", `an\6ea`, "\xff\xfe"} {
			if e, err := d.Lookup(ctx, name); !backend.IsKind(err, backend.KindNotFound) {
				t.Errorf("lookup of %q: %+v, %v", name, e, err)
			}
		}
	})
	t.Run("passwords", func(t *testing.T) {
		d := open(t).dir
		e, err := d.Lookup(ctx, "anna")
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Authenticate(ctx, e, "secret"); err != nil {
			t.Errorf("right password: %v", err)
		}
		for _, p := range []backend.Secret{"", "wrong", "secret ", "Secret", "secret\x00"} {
			if err := d.Authenticate(ctx, e, p); !backend.IsKind(err, backend.KindAuthentication) {
				t.Errorf("password %q: %v", p.Reveal(), err)
			}
		}
		gone := e
		gone.User, gone.ID = "nobody", "uid=nobody,dc=nowhere"
		if err := d.Authenticate(ctx, gone, "secret"); !backend.IsKind(err, backend.KindAuthentication) {
			t.Errorf("password of nobody: %v", err)
		}
	})
	t.Run("cannot tell", func(t *testing.T) { testAway(t, open(t)) })
	t.Run("list", func(t *testing.T) { testUsers(t, open(t).dir) })
	t.Run("set store", func(t *testing.T) { testSetStore(t, open(t).dir) })
}

func testAway(t *testing.T, s subject) {
	if s.away == nil {
		t.Skip("this directory can always tell")
	}
	ctx := t.Context()
	s.away()
	for _, name := range []string{"anna", "nobody"} {
		e, err := s.dir.Lookup(ctx, name)
		if s.known && name == "anna" {
			if err != nil || e.Store != "old1" {
				t.Errorf("a known user: %+v, %v", e, err)
			}
			continue
		}
		if !backend.IsKind(err, backend.KindUnavailable) {
			t.Errorf("lookup of %s: %v", name, err)
		}
	}
	e := backend.Entry{User: "anna", ID: "uid=anna,dc=x", CheckPassword: true}
	if err := s.dir.Authenticate(ctx, e, "secret"); !backend.IsKind(err, backend.KindUnavailable) {
		t.Errorf("password: %v", err)
	}
}

func testUsers(t *testing.T, d backend.Directory) {
	l, ok := d.(backend.UserLister)
	if !ok {
		t.Skip("this directory cannot list")
	}
	var names []string
	for e, err := range l.Users(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, e.User)
	}
	slices.Sort(names)
	if want := []string{"anna", "bernd", "otto"}; !slices.Equal(names, want) {
		t.Errorf("users %v, want %v", names, want)
	}
	for e, err := range l.Users(t.Context(), "(((") {
		if !backend.IsKind(err, backend.KindInvalid) {
			t.Errorf("bad filter: %+v, %v", e, err)
		}
		break
	}
}

func testSetStore(t *testing.T, d backend.Directory) {
	w, ok := d.(backend.RouteWriter)
	if !ok {
		t.Skip("this directory cannot be written")
	}
	ctx := t.Context()
	for _, name := range []string{"anna", "bernd"} {
		e, err := d.Lookup(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // idempotent
			if err := w.SetStore(ctx, e, "home"); err != nil {
				t.Fatal(err)
			}
		}
		if e, err = d.Lookup(ctx, name); err != nil || e.Store != "home" {
			t.Errorf("after SetStore: %+v, %v", e, err)
		}
	}
	if e, err := d.Lookup(ctx, "otto"); err != nil || e.Store == "home" {
		t.Errorf("another user was written: %+v, %v", e, err)
	}
	if err := w.SetStore(ctx, backend.Entry{User: "anna", ID: "anna"}, "a\r\nb"); err == nil {
		t.Error("a store with control characters was written")
	}
}

// table is a directory in memory: what a driver answers is set by the test.
type table struct {
	name    string
	entries map[string]backend.Entry
	err     error // of every lookup
	asked   chan string
	answer  chan struct{} // when not nil, lookups wait for it
}

func (d *table) Name() string { return d.name }

func (d *table) Lookup(ctx context.Context, name string) (backend.Entry, error) {
	if d.asked != nil {
		d.asked <- name
	}
	if d.answer != nil {
		select {
		case <-d.answer:
		case <-ctx.Done():
			return backend.Entry{}, ctx.Err()
		}
	}
	if d.err != nil {
		return backend.Entry{}, d.err
	}
	e, ok := d.entries[name]
	if !ok {
		return e, notFound(d.name, name)
	}
	e.Directory = d.name
	return e, nil
}

func (d *table) Authenticate(_ context.Context, e backend.Entry, p backend.Secret) error {
	if p != "secret" {
		return wrongPassword(d.name, e.User)
	}
	return nil
}

func (d *table) SetStore(_ context.Context, e backend.Entry, store string) error {
	for name, have := range d.entries {
		if have.User == e.User {
			have.Store = store
			d.entries[name] = have
		}
	}
	return d.err
}

var errAway = backend.Errorf(backend.KindUnavailable, "", "%w", errors.New("away"))
