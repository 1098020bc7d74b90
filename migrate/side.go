package migrate

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// SideCertificate counts what was carried over beside mail. What could not be is
// among the exceptions.
type SideCertificate struct {
	Quotas      int `json:"quotas"`      // roots
	ACLs        int `json:"acls"`        // entries, of all mailboxes
	Annotations int `json:"annotations"` // of all mailboxes and the server
	Scripts     int `json:"scripts"`
	// Active names the Sieve script that is active.
	Active string `json:"active,omitempty"`
	// NoScripts says why none were read; empty: they were.
	NoScripts  string `json:"no_scripts,omitempty"`
	SharedSeen int    `json:"shared_seen"` // others' mailboxes with a \Seen of the user
	// Digest is SHA-256 of all of it, as the new store gives it back.
	Digest string `json:"digest,omitempty"`
	// Changes are what was set at a foreign store in this run, or would be; the
	// last says how many more there are.
	Changes []string `json:"changes,omitempty"`
}

// sideState is what the engine knows of a user's data beside mail.
type sideState struct {
	dial func(context.Context) (*remote.TextConn, error) // ManageSieve
	// named: the configuration names a port for ManageSieve, so somebody is to
	// answer
	named bool
	// noScripts: they are left out.
	noScripts bool

	read  bool
	data  *backend.SideData // of the last reading
	sum   [32]byte
	cert  SideCertificate
	notes []Exception
}

// In a hold side data are read again where that costs one round trip. Of others'
// mailboxes so many are looked at.
const (
	sideInHold = 100
	maxForeign = 1000
)

// sideData reads what is beside mail, and gives it to the target when it
// changed. In a hold it is limited to what IMAP tells in one round trip.
func (a *account) sideData(ctx context.Context, held bool) error {
	s := a.side
	if to, ok := a.imp.(backend.SideTarget); ok && s != nil {
		return a.foreignSide(ctx, to)
	}
	to, ok := a.imp.(backend.SideImport)
	if s == nil || !ok || held && (!s.read || len(a.boxes) > sideInHold) {
		return nil
	}
	next := &sideState{dial: s.dial, named: s.named}
	d, err := a.readSide(ctx, next, held)
	if err != nil {
		return fmt.Errorf("side data of %s: %w", a.user, err)
	}
	d.Sort()
	sum, err := sumSide(d)
	if err != nil {
		return err
	}
	if s.read && sum == s.sum {
		return nil
	}
	absent, err := to.SetSideData(ctx, d)
	if err != nil {
		return fmt.Errorf("side data of %s: %w", a.user, err)
	}
	for _, name := range absent {
		next.note(a.namespace.Show(name), "access rights or annotations of a mailbox that is not here")
	}
	back, err := to.SideData(ctx)
	if err != nil {
		return fmt.Errorf("side data of %s: %w", a.user, err)
	}
	kept, err := sumSide(back)
	if err != nil {
		return err
	}
	if len(absent) == 0 && kept != sum {
		return errDiffers("", "the new store gives side data back that differ from those it was given")
	}
	next.cert.Digest = hexSum(kept)
	next.read, next.data, next.sum = true, d, sum
	*s = *next
	return nil
}

// sumSide sums side data up in their order.
func sumSide(d *backend.SideData) ([32]byte, error) {
	b, err := json.Marshal(d)
	return sha256.Sum256(b), err
}

func (s *sideState) note(mailbox, format string, args ...any) {
	if len(s.notes) < 1000 {
		s.notes = append(s.notes, Exception{Mailbox: mailbox, What: fmt.Sprintf(format, args...)})
	}
}

func (a *account) readSide(ctx context.Context, next *sideState, held bool) (*backend.SideData, error) {
	c, err := a.connected(ctx)
	if err != nil {
		return nil, err
	}
	d := &backend.SideData{}
	if err := a.readIMAPSide(ctx, c, next, d); err != nil {
		a.drop()
		return nil, err
	}
	d.Subscribed = append(d.Subscribed, a.subscribed...)
	if held { // scripts and others' mailboxes cost more: as they were just before
		old := a.side
		d.Scripts, d.Shared = old.data.Scripts, old.data.Shared
		next.cert.Scripts, next.cert.Active, next.cert.NoScripts, next.cert.SharedSeen = old.cert.Scripts, old.cert.Active, old.cert.NoScripts, old.cert.SharedSeen
		for _, e := range old.notes {
			if strings.HasPrefix(e.What, sieveNote) {
				next.notes = append(next.notes, e)
			}
		}
		return d, nil
	}
	if err := a.readShared(ctx, c, next, d); err != nil {
		a.drop()
		return nil, err
	}
	if a.side.noScripts {
		return d, nil
	}
	return d, a.readScripts(ctx, next, d)
}

// readIMAPSide reads access rights, annotations and quotas.
func (a *account) readIMAPSide(ctx context.Context, c *remote.Client, next *sideState, d *backend.SideData) error {
	var raws []string
	at := map[string]*box{"": {}}
	for _, name := range a.names() {
		if b := a.boxes[name]; !b.hollow {
			raws, at[b.raw] = append(raws, b.raw), b
		}
	}
	side, err := c.Side(ctx, raws)
	if err != nil {
		return err
	}
	for _, raw := range append([]string{""}, raws...) {
		b := at[raw]
		if acl := side.ACLs[raw]; len(acl) > 0 {
			d.ACLs = append(d.ACLs, backend.MailboxACL{Mailbox: b.name, Entries: acl})
			next.cert.ACLs += len(acl)
			for _, e := range acl {
				if why := unknownIdentifier(e.Identifier); why != "" && !a.ordered {
					next.note(b.shown, "access rights %q of %q are kept and have no effect: %s", e.Rights, e.Identifier, why)
				}
			}
		}
		if m := side.Metadata[raw]; len(m) > 0 {
			d.Metadata = append(d.Metadata, backend.MailboxMetadata{Mailbox: b.name, Entries: m})
			next.cert.Annotations += len(m)
		}
	}
	d.Quotas = side.Quotas
	next.cert.Quotas = len(side.Quotas)
	for _, q := range side.Quotas {
		for _, l := range q.Limits {
			if !knownResource(l.Resource) && !a.ordered {
				next.note("", "quota of resource %s (limit %d, root %q) is kept and has no effect", l.Resource, l.Limit, q.Root)
			}
		}
	}
	for _, r := range side.Refused {
		next.note(at[r.Mailbox].shown, "%s cannot be read: %s", r.What, r.Text)
	}
	for _, r := range side.TooLarge {
		next.note(at[r.Mailbox].shown, "annotation %s has more than %d octets", r.What, backend.MaxSideValue)
	}
	return nil
}

// unknownIdentifier says why an identifier of an access control list means
// nothing here: groups are the old store's own.
func unknownIdentifier(id string) string {
	id = strings.TrimPrefix(id, "-")
	for _, prefix := range []string{"group:", "group=", "group-override=", "$", "#"} {
		if strings.HasPrefix(id, prefix) {
			return "groups are not known here"
		}
	}
	return ""
}

// knownResource reports whether our store has such a thing to limit.
func knownResource(name string) bool {
	return name == "STORAGE" || name == "MESSAGE" || name == "MAILBOX"
}

// readShared keeps what the user has seen in mailboxes of others.
func (a *account) readShared(ctx context.Context, c *remote.Client, next *sideState, d *backend.SideData) error {
	for i, p := range a.foreign {
		if i == maxForeign {
			next.note("", "of %d mailboxes of others, the \\Seen of %d is kept", len(a.foreign), maxForeign)
			return nil
		}
		sel, err := c.Examine(ctx, p.raw, remote.SelectOptions{})
		if err == nil && sel.Exists > 0 {
			var seen string
			if seen, err = searchSeen(ctx, c); err == nil && seen != "" {
				d.Shared = append(d.Shared, backend.SharedSeen{Mailbox: p.shown, UIDValidity: sel.UIDValidity, Seen: seen})
				next.cert.SharedSeen++
			}
		}
		if err != nil {
			if brokenBy(err) {
				return err
			}
			next.note(p.shown, "the \\Seen of another's mailbox cannot be read: %v", err)
		}
	}
	return nil
}

func searchSeen(ctx context.Context, c *remote.Client) (string, error) {
	set, err := c.Search(ctx, "SEEN")
	if err != nil || len(set) == 0 {
		return "", err
	}
	if s := set.String(); len(s) <= backend.MaxSideValue {
		return s, nil
	}
	return "", backend.Errorf(backend.KindInvalid, "", "more than %d octets of UIDs", backend.MaxSideValue)
}

// sieveNote begins the exceptions about scripts.
const sieveNote = "Sieve"

// readScripts reads the Sieve scripts. A script that our store cannot run is
// kept, and not active.
func (a *account) readScripts(ctx context.Context, next *sideState, d *backend.SideData) error {
	conn, err := next.dial(ctx)
	var op *net.OpError
	switch {
	case err != nil && !next.named && errors.As(err, &op) && op.Op == "dial":
		next.cert.NoScripts = "the old store does not serve ManageSieve"
		return nil
	case backend.IsKind(err, backend.KindAuthentication):
		next.cert.NoScripts = "the old store refuses this user's ManageSieve login"
		next.note("", sieveNote+": scripts cannot be read: %v", err)
		return nil
	case err != nil:
		return err
	}
	scripts, large, err := remote.Scripts(ctx, conn)
	if err != nil {
		return err
	}
	for _, name := range large {
		next.note("", sieveNote+" script %q has more than %d octets", name, backend.MaxSideValue)
	}
	d.Scripts = scripts
	if next.cert.Scripts = len(scripts); a.ordered { // the target says what it makes of them
		for _, s := range scripts {
			if s.Active {
				next.cert.Active = s.Name
			}
		}
		return nil
	}
	check, runs := a.imp.(backend.SieveChecker)
	for i := range scripts {
		s := &scripts[i]
		if runs {
			if err := check.CheckSieve(ctx, s.Text); err != nil {
				if s.Active {
					s.Active, s.Inactive = false, err.Error()
				}
				next.note("", sieveNote+" script %q is kept and cannot run here: %v", s.Name, err)
			}
		}
		if s.Active {
			next.cert.Active = s.Name
			if !runs {
				next.note("", sieveNote+" script %q is kept as the active one, and does nothing yet: this store runs no Sieve, mail goes to INBOX unfiltered", s.Name)
			}
		}
	}
	return nil
}

// certifySide adds what was carried over beside mail.
func (a *account) certifySide(c *Certificate) {
	if a.side == nil || !a.side.read {
		return
	}
	cert := a.side.cert
	c.Side = &cert
	c.Exception = append(c.Exception, a.side.notes...)
}
