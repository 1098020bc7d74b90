package directory

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/go-ldap/ldap/v3"

	"mailferry/backend"
)

// listPage is below the 1,000 entries that Active Directory allows per page.
const listPage = 500

// Authenticate binds as the user. An empty password never reaches a server:
// RFC 4513, 5.1.2 makes such a bind succeed.
func (d *LDAP) Authenticate(ctx context.Context, e backend.Entry, password backend.Secret) error {
	if password == "" || e.ID == "" {
		return wrongPassword(d.o.Name, e.User)
	}
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	guard, _ := d.form.(shield)
	if guard != nil {
		if why := guard.shielded(e.ID); why != nil {
			return refused(d.o.Name, e.User, why)
		}
	}
	var reason error
	err := d.try(ctx, verifyIdentity, func(c *ldap.Conn) error {
		err := c.Bind(e.ID, password.Reveal())
		if err == nil {
			return nil
		}
		if reason = d.form.bindError(err); reason != nil {
			return nil
		}
		return err
	})
	if guard != nil && err == nil {
		guard.outcome(e.ID, reason)
	}
	switch {
	case err != nil && d.known.matches(e.ID, password):
		d.log.Warn("directory cannot tell, a password that it accepted before is taken", "user", e.User, "error", err)
		return nil
	case err != nil:
		return d.unavailable(err)
	case reason != nil:
		d.known.forget(e.ID)
		return refused(d.o.Name, e.User, reason)
	}
	d.known.remember(e.ID, password)
	return nil
}

// errWrongPassword is the reason of a refused bind that has no other.
var errWrongPassword = errors.New("wrong password")

// refused is the answer to a wrong password and to an account that may not log
// in; clients cannot tell these apart, the log can.
func refused(directory, user string, reason error) error {
	return &backend.Error{Kind: backend.KindAuthentication, Err: fmt.Errorf("directory %s: %q is refused: %w", directory, user, reason)}
}

// AuthenticateNobody does the work of a failing Authenticate, so that unknown
// users cannot be told by the time it takes.
func (d *LDAP) AuthenticateNobody(ctx context.Context, password backend.Secret) {
	if d.o.CheckPassword && password != "" {
		_ = d.Authenticate(ctx, backend.Entry{ID: "cn=mailferry-nobody," + d.o.Base}, password)
	}
}

// SetStore replaces the store attribute of e. It is durable as far as the
// server's answer is. KindPermission: no write credentials, or not allowed.
func (d *LDAP) SetStore(ctx context.Context, e backend.Entry, store string) error {
	if d.o.WriteDN == "" {
		return backend.Errorf(backend.KindPermission, "", "directory %s: no write credentials are configured", d.o.Name)
	}
	if e.ID == "" || store != "" && !validName(store) {
		return backend.Errorf(backend.KindInvalid, "", "directory %s: cannot set store %q of %q", d.o.Name, store, e.ID)
	}
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	var values []string // none: the attribute is removed
	if store != "" {
		values = []string{store}
	}
	req := ldap.NewModifyRequest(e.ID, nil)
	req.Replace(d.o.Attributes.Store, values)
	var verdict error
	err := d.try(ctx, writeIdentity, func(c *ldap.Conn) error {
		err := c.Modify(req)
		switch {
		case ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject):
			verdict = backend.Errorf(backend.KindNotFound, "", "directory %s: %w", d.o.Name, err)
		case ldap.IsErrorWithCode(err, ldap.LDAPResultInsufficientAccessRights):
			verdict = backend.Errorf(backend.KindPermission, "", "directory %s: %w", d.o.Name, err)
		default:
			return err
		}
		return nil
	})
	if err != nil {
		return d.unavailable(err)
	}
	return verdict
}

// Users lists entries page by page: filter (RFC 4515; empty: all users) within
// the base. An entry that cannot be mapped comes as an error of its own, and
// the listing goes on; an error with an empty entry ends it. There is no time
// limit for the whole, only for each page.
func (d *LDAP) Users(ctx context.Context, filter string) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		full := d.o.ListFilter
		if filter != "" {
			full = fmt.Sprintf("(&%s%s)", d.o.ListFilter, parenthesised(filter))
		}
		if _, err := ldap.CompileFilter(full); err != nil {
			yield(backend.Entry{}, backend.Errorf(backend.KindInvalid, "the filter is not valid", "directory %s: %q: %w", d.o.Name, full, err))
			return
		}
		paging := ldap.NewControlPaging(listPage)
		req := &ldap.SearchRequest{BaseDN: d.o.Base, Scope: ldap.ScopeWholeSubtree, Filter: full,
			Attributes: d.attributes(), Controls: []ldap.Control{paging}}
		// Pages belong to one connection: a failure ends the listing.
		err := d.session(ctx, func(c *ldap.Conn, more func() error) (bool, error) {
			return d.page(c, req, paging, more, yield)
		})
		if err != nil {
			yield(backend.Entry{}, d.unavailable(err))
		}
	}
}

func parenthesised(f string) string {
	if f[0] == '(' {
		return f
	}
	return "(" + f + ")"
}

// page fetches one page after another until yield or the server ends it.
func (d *LDAP) page(c *ldap.Conn, req *ldap.SearchRequest, paging *ldap.ControlPaging, more func() error,
	yield func(backend.Entry, error) bool) (started bool, err error) {
	for {
		if err := more(); err != nil {
			return started, err
		}
		res, err := c.Search(req)
		if err != nil {
			return started, err
		}
		started = true
		for _, in := range res.Entries {
			if e, err := d.entry(in); !yield(e, err) {
				return true, nil
			}
		}
		next, ok := ldap.FindControl(res.Controls, ldap.ControlTypePaging).(*ldap.ControlPaging)
		if !ok || len(next.Cookie) == 0 {
			return true, nil
		}
		paging.SetCookie(next.Cookie)
	}
}

// session runs fn on a connection of its own of the first server that answers.
// fn says whether it began to deliver; only if not may another server be tried.
func (d *LDAP) session(ctx context.Context, fn func(c *ldap.Conn, more func() error) (bool, error)) error {
	return d.each(ctx, func(s *ldapServer) (bool, error) {
		c, err := s.dial(ctx, searchIdentity)
		if err != nil {
			return false, err
		}
		defer c.close()
		defer context.AfterFunc(ctx, c.sever)()
		return fn(c.Conn, func() error {
			c.SetTimeout(10 * d.o.RequestTimeout)
			return ctx.Err()
		})
	})
}

// try runs fn on a pooled connection, server after server, until one answers.
// An error of fn means that this server did not answer.
func (d *LDAP) try(ctx context.Context, id identity, fn func(*ldap.Conn) error) error {
	return d.each(ctx, func(s *ldapServer) (bool, error) {
		return false, s.do(ctx, id, fn)
	})
}

// each offers the servers to fn: those that are up in their order, then, when
// all of these failed, those whose rest is over. fn reports final when no other
// server may be asked.
func (d *LDAP) each(ctx context.Context, fn func(*ldapServer) (final bool, err error)) error {
	var last error
	var down []*ldapServer
	for _, s := range d.servers {
		if !s.up() {
			down = append(down, s)
			continue
		}
		final, err := fn(s)
		if err == nil {
			for _, p := range down {
				p.probe() // the preferred one is wanted back
			}
			return nil
		}
		last = s.failed(ctx, err)
		if final || ctx.Err() != nil {
			return last
		}
	}
	for _, s := range down {
		if !s.due(time.Now()) {
			continue
		}
		final, err := fn(s)
		if err == nil {
			s.recovered()
			return nil
		}
		last = s.failed(ctx, err)
		if final || ctx.Err() != nil {
			return last
		}
	}
	if last == nil {
		last = fmt.Errorf("every server failed moments ago; the last error of %s: %w", d.servers[0].url, d.servers[0].lastError())
	}
	return last
}
