package store

import (
	"context"
	"encoding/binary"
	"time"

	"mailferry/backend"
	"mailferry/cluster/engine"
)

// sweepPause is the time between two Sweeps of KeepSwept.
const sweepPause = time.Hour

// KeepSwept calls Sweep now and every hour, until ctx ends; what fails is logged
// and tried again then.
func (s *Store) KeepSwept(ctx context.Context) error {
	for {
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("ending interrupted deletions, trying again later", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(sweepPause):
		}
	}
}

// Sweep ends what a crash or an error interrupted: it purges the messages of
// mailboxes that are gone and deletes users whose deletion had begun. It looks
// at the shards that this node leads, and may run while the store works.
func (s *Store) Sweep(ctx context.Context) error {
	for _, id := range s.engine.Shards() {
		sh, err := s.shard(id)
		if err != nil {
			return err
		}
		if id == engine.Meta {
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

// doomed lists the users with mailboxes to purge in a shard that is led here.
// The view waits for a leader: right after a start there is none yet.
func (s *Store) doomed(ctx context.Context, sh engine.Shard) ([]uint64, error) {
	v, err := s.view(ctx, sh)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	if !sh.Leader() {
		return nil, nil
	}
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
