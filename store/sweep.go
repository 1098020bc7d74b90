package store

import (
	"context"
	"encoding/binary"

	"mailferry/backend"
	"mailferry/cluster/engine"
)

// Sweep ends what a crash interrupted: it purges the messages of mailboxes that
// are gone and deletes users whose deletion had begun. Call it after start; it
// may run while the store works.
func (s *Store) Sweep(ctx context.Context) error {
	for _, id := range s.engine.Shards() {
		sh, err := s.shard(id)
		if err != nil {
			return err
		}
		if id == engine.Meta || !sh.Leader() {
			continue
		}
		users, err := s.doomed(ctx, sh)
		if err != nil {
			return err
		}
		for _, user := range users {
			if err := s.purge(ctx, sh, user); err != nil {
				return err
			}
		}
	}
	return s.sweepUsers(ctx)
}

// doomed lists the users with mailboxes to purge.
func (s *Store) doomed(ctx context.Context, sh engine.Shard) ([]uint64, error) {
	v, err := s.view(ctx, sh)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	it := v.Iter([]byte{prefixDoomed}, []byte{prefixDoomed + 1})
	var users []uint64
	for ok := it.First(); ok; {
		user := binary.BigEndian.Uint64(it.Key()[1:])
		users = append(users, user)
		ok = it.SeekGE(prefixEnd(userKey(prefixDoomed, user)))
	}
	return users, closeWith(it, nil)
}

func (s *Store) sweepUsers(ctx context.Context) error {
	const page = 1000
	for after := ""; ; {
		users, err := s.Users(ctx, after, page)
		if err != nil {
			return err
		}
		for _, u := range users {
			after = u.Name
			if u.State != UserDeleting {
				continue
			}
			if err := s.DeleteUser(ctx, u.Name); err != nil && !backend.IsKind(err, backend.KindNotFound) {
				return err
			}
		}
		if len(users) < page {
			return nil
		}
	}
}
