package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"mailferry/backend"
	"mailferry/cluster/engine"
)

// Fault is something that Check found wrong.
type Fault struct {
	Shard   engine.ShardID
	User    uint64 // 0: not of one user
	Mailbox uint64 // 0: not of one mailbox
	Text    string
}

func (f Fault) String() string {
	return fmt.Sprintf("shard %d user %d mailbox %d: %s", f.Shard, f.User, f.Mailbox, f.Text)
}

// CheckOptions say how deep Check looks.
type CheckOptions struct {
	Bodies bool // read every body and compare its digest
	Limit  int  // stop after so many faults; 0: 1000
}

// Check reads every record of the shards with a replica here and compares each
// with what it must agree with: names and mailboxes, counters and messages, the
// modseq index, keywords, structure blobs, bodies, users and accounts. Each
// shard is read in one view, so it may run while the store works; a user who is
// created or deleted meanwhile may then show as a fault.
func (s *Store) Check(ctx context.Context, o CheckOptions) ([]Fault, error) {
	if o.Limit == 0 {
		o.Limit = 1000
	}
	c := &checker{ctx: ctx, store: s, options: o, users: make(map[uint64]User)}
	for _, id := range s.engine.Shards() {
		sh, err := s.shard(id)
		if err != nil {
			return c.faults, err
		}
		v, err := s.view(ctx, sh)
		if err != nil {
			return c.faults, err
		}
		c.shard, c.view, c.bodies = sh, v, make(map[engine.BodyID][32]byte)
		if id == engine.Meta {
			err = c.meta()
		} else {
			err = c.mail()
		}
		v.Close()
		if errors.Is(err, errEnough) {
			return c.faults, nil
		}
		if err != nil {
			return c.faults, engineError(err)
		}
	}
	return c.faults, nil
}

var errEnough = errors.New("store: enough faults")

// checker walks one shard after the other, Meta first.
type checker struct {
	ctx     context.Context
	store   *Store
	options CheckOptions
	users   map[uint64]User // of the Meta shard
	shard   engine.Shard
	view    engine.View
	bodies  map[engine.BodyID][32]byte // read already
	faults  []Fault
}

// fault notes a fault; the error is errEnough when there are too many.
func (c *checker) fault(user, mailbox uint64, format string, args ...any) error {
	c.faults = append(c.faults, Fault{c.shard.ID(), user, mailbox, fmt.Sprintf(format, args...)})
	if len(c.faults) >= c.options.Limit {
		return errEnough
	}
	return nil
}

// each calls fn for the keys in [lower, upper).
func (c *checker) each(lower, upper []byte, fn func(key, value []byte) error) error {
	it := c.view.Iter(lower, upper)
	var err error
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		if err = c.ctx.Err(); err == nil {
			err = fn(it.Key(), it.Value())
		}
	}
	return errors.Join(err, it.Close())
}

func (c *checker) eachOf(prefix []byte, fn func(key, value []byte) error) error {
	return c.each(prefix, prefixEnd(prefix), fn)
}

// has reports whether a key exists.
func (c *checker) has(key []byte) (bool, error) {
	_, err := c.view.Get(key)
	if errors.Is(err, engine.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// meta checks the user table.
func (c *checker) meta() error {
	onShard := make(map[uint32]uint64)
	err := c.eachOf([]byte{prefixUser}, func(key, value []byte) error {
		d := decoder{b: value}
		u := d.user()
		if d.end() != nil || string(key[1:]) != foldName(u.Name) {
			return c.fault(0, 0, "user record %q is corrupt", key[1:])
		}
		c.users[u.ID] = u
		onShard[uint32(u.Shard)]++
		return c.names(u)
	})
	if err != nil {
		return err
	}
	err = c.eachOf([]byte{prefixUserID}, func(key, value []byte) error {
		id := binary.BigEndian.Uint64(key[1:])
		if u, ok := c.users[id]; !ok || foldName(u.Name) != string(value) {
			return c.fault(id, 0, "id belongs to no user")
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.eachOf([]byte{prefixShardUsers}, func(key, value []byte) error {
		d := decoder{b: value}
		shard := binary.BigEndian.Uint32(key[1:])
		if n := d.uint(); n != onShard[shard] {
			return c.fault(0, 0, "shard %d is said to have %d users and has %d", shard, n, onShard[shard])
		}
		return nil
	})
}

// names checks that a user is found by id and by each alias.
func (c *checker) names(u User) error {
	idKey := binary.BigEndian.AppendUint64([]byte{prefixUserID}, u.ID)
	if ok, err := c.has(idKey); err != nil || !ok {
		return errors.Join(err, c.fault(u.ID, 0, "user %q has no id key", u.Name))
	}
	for _, alias := range u.Aliases {
		got, ok, err := findUser(c.view, alias)
		if err != nil {
			return err
		}
		if !ok || got.ID != u.ID {
			return c.fault(u.ID, 0, "alias %q does not lead to user %q", alias, u.Name)
		}
	}
	return nil
}

// mail checks a shard of users' mail.
func (c *checker) mail() error {
	accounts := make(map[uint64]bool)
	err := c.eachOf([]byte{prefixAccount}, func(key, value []byte) error {
		user := binary.BigEndian.Uint64(key[1:])
		accounts[user] = true
		if u, ok := c.users[user]; !ok || u.Shard != c.shard.ID() {
			if err := c.fault(user, 0, "account of no user of this shard"); err != nil {
				return err
			}
		}
		a, err := decodeAccount(value)
		if err != nil {
			return c.fault(user, 0, "account record is corrupt")
		}
		return c.account(user, a)
	})
	if err != nil {
		return err
	}
	for id, u := range c.users {
		if u.Shard == c.shard.ID() && u.State == UserActive && !accounts[id] {
			if err := c.fault(id, 0, "user %q has no account", u.Name); err != nil {
				return err
			}
		}
	}
	return c.orphans()
}

// account checks names against mailboxes, and each mailbox.
func (c *checker) account(user uint64, a *accountRecord) error {
	byID := make(map[uint64]backend.MailboxName)
	err := c.eachOf(userKey(prefixName, user), func(key, value []byte) error {
		d := decoder{b: value}
		id := d.uint()
		if other, ok := byID[id]; ok {
			return c.fault(user, id, "mailbox is named %q and %q", other, keyName(key))
		}
		byID[id] = keyName(key)
		return nil
	})
	if err != nil {
		return err
	}
	if name := byID[a.Inbox]; a.State == accountActive && name != backend.Inbox {
		if err := c.fault(user, a.Inbox, "INBOX is named %q", name); err != nil {
			return err
		}
	}
	seen := 0
	err = c.eachOf(userKey(prefixMailbox, user), func(key, value []byte) error {
		id := keyMailbox(key)
		r, err := decodeMailbox(value)
		if err != nil {
			return c.fault(user, id, "mailbox record is corrupt")
		}
		seen++
		if byID[id] != r.Name || id > a.LastMailbox || r.UIDValidity > a.MaxUIDValidity {
			if err := c.fault(user, id, "mailbox %q is named %q, UIDVALIDITY %d", r.Name, byID[id], r.UIDValidity); err != nil {
				return err
			}
		}
		return c.mailbox(user, id, r, a.State == accountActive)
	})
	if err == nil && seen != len(byID) {
		err = c.fault(user, 0, "%d names for %d mailboxes", len(byID), seen)
	}
	if err == nil {
		err = c.side(user)
	}
	return err
}

// orphans looks for messages and indexes of mailboxes that are not there.
func (c *checker) orphans() error {
	for _, prefix := range []byte{prefixMessage, prefixModSeq, prefixStructure, prefixKeywords} {
		it := c.view.Iter([]byte{prefix}, []byte{prefix + 1})
		ok := it.First()
		for ok {
			user, id := binary.BigEndian.Uint64(it.Key()[1:]), uint64(binary.BigEndian.Uint32(it.Key()[9:]))
			alive, err := c.has(mailboxKey(prefixMailbox, user, id))
			doomed, derr := c.has(mailboxKey(prefixDoomed, user, id))
			if err := errors.Join(err, derr); err != nil {
				return closeWith(it, err)
			}
			if !alive && !doomed {
				if err := c.fault(user, id, "keys %q of a mailbox that is not there", prefix); err != nil {
					return errors.Join(err, it.Close())
				}
			}
			ok = it.SeekGE(prefixEnd(mailboxKey(prefix, user, id)))
		}
		if err := it.Close(); err != nil {
			return err
		}
	}
	return nil
}
