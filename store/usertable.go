package store

import (
	"encoding/binary"
	"errors"
	"slices"

	"mailferry/backend"
	"mailferry/cluster/engine"
)

func (e *encoder) user(u *User) {
	e.byte(recordFormat)
	e.uint(u.ID)
	e.uint(u.revision)
	e.string(u.Name)
	e.uint(uint64(u.Shard))
	e.string(u.Namespace.Prefix)
	e.string(u.Namespace.Delimiter)
	e.string(u.PasswordHash)
	e.bool(u.Disabled)
	e.bool(u.Admin)
	e.byte(byte(u.State))
	encodeStrings(e, u.Aliases)
	if u.UIDLFormat != "" { // added later: a record without it ends before it
		e.string(string(u.UIDLFormat))
	}
}

// user reads a record, which is the last of what the decoder holds.
func (d *decoder) user() User {
	if d.byte() != recordFormat {
		d.fail()
	}
	u := User{ID: d.uint(), revision: d.uint(), Name: d.string(), Shard: engine.ShardID(d.uint32()),
		Namespace:    backend.Namespace{Prefix: d.string(), Delimiter: d.string()},
		PasswordHash: d.string(), Disabled: d.bool(), Admin: d.bool(), State: UserState(d.byte()),
		Aliases: d.strings()}
	if len(d.b) > 0 {
		u.UIDLFormat = backend.UIDLFormat(d.string())
	}
	return u
}

// findUser reads the record of a name or an alias.
func findUser(r engine.Reader, name string) (u User, ok bool, err error) {
	raw, err := r.Get(foldedKey(prefixUser, name))
	if errors.Is(err, engine.ErrNotFound) {
		owner, aerr := r.Get(foldedKey(prefixAlias, name))
		if aerr == nil {
			raw, err = r.Get(foldedKey(prefixUser, string(owner)))
		} else {
			err = aerr
		}
	}
	if errors.Is(err, engine.ErrNotFound) {
		return User{}, false, nil
	}
	if err != nil {
		return User{}, false, err
	}
	d := decoder{b: raw}
	u = d.user()
	return u, true, d.end()
}

// userInApply is findUser where a fault stops the replica.
func userInApply(tx engine.Tx, name string) (User, bool) {
	u, ok, err := findUser(tx, name)
	if err != nil {
		panic(err)
	}
	return u, ok
}

// applyUserCreate adds a record and chooses the shard with the fewest users. A
// record of the same name that is still being created is taken up again.
func applyUserCreate(tx engine.Tx, d *decoder) ([]byte, error) {
	shards := make([]engine.ShardID, 0, 64)
	for range d.count() {
		shards = append(shards, engine.ShardID(d.uint32()))
	}
	u := d.user()
	if err := d.end(); err != nil {
		return nil, corrupt(err)
	}
	if old, ok := userInApply(tx, u.Name); ok {
		if old.State != UserCreating || u.State != UserCreating || foldName(old.Name) != foldName(u.Name) {
			return nil, backend.NewError(backend.KindExists, "user or alias exists")
		}
		e := encoder{}
		e.user(&old)
		return e.b, nil
	}
	if err := freeAliases(tx, u); err != nil {
		return nil, err
	}
	shard, ok := leastUsers(tx, shards)
	if !ok {
		return nil, backend.NewError(backend.KindUnavailable, "no shard for mail on this server")
	}
	u.ID, u.Shard, u.revision = counter(tx, []byte{prefixLastUserID})+1, shard, 1
	setCounter(tx, []byte{prefixLastUserID}, u.ID)
	setCounter(tx, shardKey(uint32(shard)), counter(tx, shardKey(uint32(shard)))+1)
	tx.Set(binary.BigEndian.AppendUint64([]byte{prefixUserID}, u.ID), []byte(foldName(u.Name)))
	return writeUser(tx, nil, &u), nil
}

// leastUsers chooses among shards, Meta apart; the first of equals.
func leastUsers(tx engine.Tx, shards []engine.ShardID) (best engine.ShardID, ok bool) {
	fewest := uint64(0)
	for _, id := range shards {
		if id == engine.Meta {
			continue
		}
		if n := counter(tx, shardKey(uint32(id))); !ok || n < fewest {
			best, fewest, ok = id, n, true
		}
	}
	return best, ok
}

func counter(r engine.Reader, key []byte) uint64 {
	raw, ok := get(r, key)
	if !ok {
		return 0
	}
	d := decoder{b: raw}
	return d.uint()
}

func setCounter(tx engine.Tx, key []byte, v uint64) {
	tx.Set(key, binary.AppendUvarint(nil, v))
}

// freeAliases refuses aliases that are somebody else's name or alias.
func freeAliases(tx engine.Tx, u User) error {
	for _, alias := range u.Aliases {
		if alias == "" {
			return backend.NewError(backend.KindInvalid, "empty alias")
		}
		if other, ok := userInApply(tx, alias); ok && other.ID != u.ID {
			return backend.NewError(backend.KindExists, "user or alias exists")
		}
	}
	return nil
}

// writeUser writes the record and its aliases, wakes the caches, and returns
// the encoded record.
func writeUser(tx engine.Tx, oldAliases []string, u *User) []byte {
	for _, alias := range oldAliases {
		if !slices.Contains(u.Aliases, alias) {
			tx.Delete(foldedKey(prefixAlias, alias))
		}
	}
	for _, alias := range u.Aliases {
		tx.Set(foldedKey(prefixAlias, alias), []byte(foldName(u.Name)))
	}
	e := encoder{}
	e.user(u)
	tx.Set(foldedKey(prefixUser, u.Name), e.b)
	tx.Publish(usersTopic)
	return e.b
}

// applyUserUpdate replaces a record whose revision is still the one read.
func applyUserUpdate(tx engine.Tx, d *decoder) ([]byte, error) {
	u := d.user()
	if err := d.end(); err != nil {
		return nil, corrupt(err)
	}
	old, ok := userInApply(tx, u.Name)
	if !ok || old.ID != u.ID {
		return nil, errNoAccount
	}
	if old.revision != u.revision {
		return nil, backend.NewError(backend.KindConflict, "user was changed at the same time")
	}
	if err := freeAliases(tx, u); err != nil {
		return nil, err
	}
	u.revision++
	return writeUser(tx, old.Aliases, &u), nil
}

// applyUserRemove takes a record away; one that is gone is no error.
func applyUserRemove(tx engine.Tx, d *decoder) ([]byte, error) {
	id := d.uint()
	if err := d.end(); err != nil {
		return nil, corrupt(err)
	}
	idKey := binary.BigEndian.AppendUint64([]byte{prefixUserID}, id)
	name, ok := get(tx, idKey)
	if !ok {
		return nil, nil
	}
	u, ok := userInApply(tx, string(name))
	if !ok || u.ID != id {
		return nil, backend.NewError(backend.KindBug, "user id without user")
	}
	for _, alias := range u.Aliases {
		tx.Delete(foldedKey(prefixAlias, alias))
	}
	tx.Delete(idKey)
	tx.Delete(foldedKey(prefixUser, u.Name))
	key := shardKey(uint32(u.Shard))
	setCounter(tx, key, counter(tx, key)-1)
	tx.Publish(usersTopic)
	return nil, nil
}
