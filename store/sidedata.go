package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"strings"

	"mailferry/backend"
	"mailferry/cluster/engine"
)

// The kinds of side records, as they follow the mailbox in their keys. What
// belongs to a mailbox goes with it, through renames and its end; mailbox 0 is
// the user.
const (
	sideACL      = 'a' // of a mailbox; no name
	sideMetadata = 'd' // by entry name
	sideQuota    = 'q' // by root
	sideScript   = 's' // by name
	sideShared   = 'v' // by the name of somebody else's mailbox
	sideForeign  = 'u' // a subscription to such a one, by name
)

func sideKey(user, mailbox uint64, kind byte, name string) []byte {
	k := append(mailboxKey(prefixSide, user, mailbox), kind)
	return append(k, name...)
}

// sideRecord is one key with its value; a nil value removes it.
type sideRecord struct {
	key, value []byte
}

// SideData gives what the user has beside mail.
func (a *Account) SideData(ctx context.Context) (*backend.SideData, error) {
	v, err := a.view(ctx)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	return readSideData(v, a.user.ID)
}

// readSideData reads all side records of a user, in the order of
// backend.SideData.
func readSideData(r engine.Reader, user uint64) (*backend.SideData, error) {
	ids, err := mailboxNames(r, user)
	if err != nil {
		return nil, err
	}
	names := make(map[uint64]backend.MailboxName, len(ids))
	for name, id := range ids {
		names[id] = name
	}
	d := &backend.SideData{}
	lower := userKey(prefixSide, user)
	it := r.Iter(lower, prefixEnd(lower))
	for ok := it.First(); ok; ok = it.Next() {
		if err := decodeSide(d, names[sideMailbox(it.Key())], it.Key(), it.Value()); err != nil {
			return nil, closeWith(it, err)
		}
	}
	d.Sort()
	return d, closeWith(it, nil)
}

func sideMailbox(key []byte) uint64 { return uint64(binary.BigEndian.Uint32(key[9:])) }

// mailboxNames maps names to ids.
func mailboxNames(r engine.Reader, user uint64) (map[backend.MailboxName]uint64, error) {
	names := make(map[backend.MailboxName]uint64)
	lower := userKey(prefixName, user)
	it := r.Iter(lower, prefixEnd(lower))
	for ok := it.First(); ok; ok = it.Next() {
		d := decoder{b: it.Value()}
		names[keyName(it.Key())] = d.uint()
		if err := d.end(); err != nil {
			return nil, closeWith(it, err)
		}
	}
	return names, closeWith(it, nil)
}

// decodeSide adds one record to to.
func decodeSide(to *backend.SideData, mailbox backend.MailboxName, key, value []byte) error {
	if len(key) < 14 {
		return errCorrupt
	}
	kind, name := key[13], string(key[14:])
	d := decoder{b: value}
	if d.byte() != recordFormat {
		return errCorrupt
	}
	switch kind {
	case sideACL:
		acl := backend.MailboxACL{Mailbox: mailbox}
		for range d.count() {
			acl.Entries = append(acl.Entries, backend.ACLEntry{Identifier: d.string(), Rights: d.string()})
		}
		to.ACLs = append(to.ACLs, acl)
	case sideMetadata:
		e := backend.MetadataEntry{Name: name, Value: bytes.Clone(d.bytes())}
		if n := len(to.Metadata); n > 0 && to.Metadata[n-1].Mailbox == mailbox {
			to.Metadata[n-1].Entries = append(to.Metadata[n-1].Entries, e)
		} else {
			to.Metadata = append(to.Metadata, backend.MailboxMetadata{Mailbox: mailbox, Entries: []backend.MetadataEntry{e}})
		}
	case sideQuota:
		q := backend.QuotaRoot{Root: name}
		for range d.count() {
			q.Limits = append(q.Limits, backend.QuotaLimit{Resource: d.string(), Usage: d.int(), Limit: d.int()})
		}
		to.Quotas = append(to.Quotas, q)
	case sideScript:
		to.Scripts = append(to.Scripts, backend.SieveScript{Name: name, Text: bytes.Clone(d.bytes()), Active: d.bool(), Inactive: d.string()})
	case sideShared:
		to.Shared = append(to.Shared, backend.SharedSeen{Mailbox: name, UIDValidity: d.uint32(), Seen: d.string()})
	case sideForeign:
		to.Subscribed = append(to.Subscribed, name)
	default:
		return errCorrupt
	}
	return d.end()
}

// encodeSide gives the records of d; absent are mailboxes that are not there.
func encodeSide(user uint64, d *backend.SideData, names map[backend.MailboxName]uint64) (list []sideRecord, absent []backend.MailboxName) {
	add := func(mailbox uint64, kind byte, name string, fill func(*encoder)) {
		e := &encoder{}
		e.byte(recordFormat)
		fill(e)
		list = append(list, sideRecord{sideKey(user, mailbox, kind, name), e.b})
	}
	for _, acl := range d.ACLs {
		id, ok := names[acl.Mailbox]
		if !ok {
			absent = append(absent, acl.Mailbox)
			continue
		}
		add(id, sideACL, "", func(e *encoder) {
			e.uint(uint64(len(acl.Entries)))
			for _, x := range acl.Entries {
				e.string(x.Identifier)
				e.string(x.Rights)
			}
		})
	}
	for _, m := range d.Metadata {
		id, ok := names[m.Mailbox]
		if !ok && m.Mailbox != "" {
			absent = append(absent, m.Mailbox)
			continue
		}
		for _, x := range m.Entries {
			add(id, sideMetadata, x.Name, func(e *encoder) { e.bytes(x.Value) })
		}
	}
	for _, q := range d.Quotas {
		add(0, sideQuota, q.Root, func(e *encoder) {
			e.uint(uint64(len(q.Limits)))
			for _, l := range q.Limits {
				e.string(l.Resource)
				e.int(l.Usage)
				e.int(l.Limit)
			}
		})
	}
	for _, s := range d.Scripts {
		add(0, sideScript, s.Name, func(e *encoder) {
			e.bytes(s.Text)
			e.bool(s.Active)
			e.string(s.Inactive)
		})
	}
	for _, s := range d.Shared {
		add(0, sideShared, s.Mailbox, func(e *encoder) {
			e.uint(uint64(s.UIDValidity))
			e.string(s.Seen)
		})
	}
	for _, name := range d.Subscribed {
		add(0, sideForeign, name, func(*encoder) {})
	}
	return list, absent
}

// checkSide refuses what no record may hold.
func checkSide(d *backend.SideData) error {
	long := func(what string, name string, size int) error {
		if len(name) > maxNameLength || size > backend.MaxSideValue {
			return backend.Errorf(backend.KindTooLarge, "", "%s %.100q of %d octets", what, name, size)
		}
		return nil
	}
	var err error
	first := func(e error) {
		if err == nil {
			err = e
		}
	}
	active := 0
	for _, m := range d.Metadata {
		for _, x := range m.Entries {
			first(long("annotation", x.Name, len(x.Value)))
		}
	}
	for _, q := range d.Quotas {
		first(long("quota root", q.Root, 0))
	}
	for _, s := range d.Scripts {
		if first(long("script", s.Name, len(s.Text))); s.Active {
			active++
		}
	}
	for _, s := range d.Shared {
		first(long("\\Seen of", s.Mailbox, len(s.Seen)))
	}
	for _, name := range d.Subscribed {
		first(long("subscription", name, 0))
	}
	if active > 1 {
		first(backend.Errorf(backend.KindInvalid, "", "%d scripts are active", active))
	}
	return err
}

// sideOf reports whether a key is a side record of this user.
func sideOf(user uint64, key []byte) bool {
	return len(key) >= 14 && bytes.HasPrefix(key, userKey(prefixSide, user)) && strings.IndexByte("adqsuv", key[13]) >= 0
}

var _ backend.SideImport = (*userImport)(nil)

// SideData implements backend.SideImport.
func (i *userImport) SideData(ctx context.Context) (*backend.SideData, error) {
	v, err := i.store.view(ctx, i.shard)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	return readSideData(v, i.user.ID)
}

// SetSideData implements backend.SideImport. Only what differs goes through the
// log, in several commands when it is much.
func (i *userImport) SetSideData(ctx context.Context, d *backend.SideData) ([]backend.MailboxName, error) {
	if err := checkSide(d); err != nil {
		return nil, err
	}
	changes, absent, err := i.sideChanges(ctx, d)
	for len(changes) > 0 && err == nil {
		list, n := encoder{}, 0
		for n < len(changes) && len(list.b) < putOctets/2 {
			list.bytes(changes[n].key)
			list.bool(changes[n].value != nil)
			list.bytes(changes[n].value)
			n++
		}
		e := i.command(cmdImportSide)
		e.uint(uint64(n))
		e.b = append(e.b, list.b...)
		_, err = i.propose(ctx, e)
		changes = changes[n:]
	}
	return absent, err
}

// sideChanges compares d with what is kept.
func (i *userImport) sideChanges(ctx context.Context, d *backend.SideData) (changes []sideRecord, absent []backend.MailboxName, err error) {
	v, err := i.store.view(ctx, i.shard)
	if err != nil {
		return nil, nil, err
	}
	defer v.Close()
	names, err := mailboxNames(v, i.user.ID)
	if err != nil {
		return nil, nil, err
	}
	want, absent := encodeSide(i.user.ID, d, names)
	wanted := make(map[string]bool, len(want))
	for _, r := range want {
		wanted[string(r.key)] = true
	}
	lower := userKey(prefixSide, i.user.ID)
	it := v.Iter(lower, prefixEnd(lower))
	have := make(map[string][]byte)
	for ok := it.First(); ok; ok = it.Next() {
		if key := bytes.Clone(it.Key()); wanted[string(key)] {
			have[string(key)] = bytes.Clone(it.Value())
		} else {
			changes = append(changes, sideRecord{key: key})
		}
	}
	for _, r := range want {
		if old, ok := have[string(r.key)]; !ok || !bytes.Equal(old, r.value) {
			changes = append(changes, r)
		}
	}
	return changes, absent, closeWith(it, nil)
}

// applyImportSide writes and removes side records. Those of a mailbox that is
// gone by now are left out.
func applyImportSide(tx engine.Tx, d *decoder) ([]byte, error) {
	user := d.uint()
	var list []sideRecord
	for range d.count() {
		r := sideRecord{key: d.bytes()}
		set, value := d.bool(), d.bytes()
		if set {
			r.value = value
		}
		if !sideOf(user, r.key) {
			d.fail()
		}
		list = append(list, r)
	}
	if err := d.end(); err != nil {
		return nil, corrupt(err)
	}
	if _, err := beginImport(tx, user); err != nil {
		return nil, err
	}
	for _, r := range list {
		id := sideMailbox(r.key)
		if r.value == nil {
			tx.Delete(r.key)
			continue
		}
		if id != 0 {
			if _, ok := get(tx, mailboxKey(prefixMailbox, user, id)); !ok {
				continue
			}
		}
		tx.Set(r.key, r.value)
	}
	return nil, nil
}

// side checks a user's side records.
func (c *checker) side(user uint64) error {
	return c.eachOf(userKey(prefixSide, user), func(key, value []byte) error {
		id := uint64(0)
		if len(key) >= 13 {
			id = sideMailbox(key)
		}
		if err := decodeSide(&backend.SideData{}, "", key, value); err != nil {
			return c.fault(user, id, "side record %q is corrupt", fmt.Sprintf("%.60s", key[9:]))
		}
		if id == 0 {
			return nil
		}
		if ok, err := c.has(mailboxKey(prefixMailbox, user, id)); err != nil || !ok {
			if err != nil {
				return err
			}
			return c.fault(user, id, "side record of a mailbox that is not there")
		}
		return nil
	})
}
