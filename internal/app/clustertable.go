package app

import (
	"context"
	"errors"

	"mailferry/cluster"
	"mailferry/cluster/engine"
)

// clusterTable gives placements the cluster's table.
type clusterTable struct{ t *cluster.Table }

func (c clusterTable) get(ctx context.Context, key string) ([]byte, uint64, error) {
	value, version, err := c.t.Get(ctx, key)
	if errors.Is(err, engine.ErrNotFound) {
		return nil, 0, nil
	}
	return value, version, err
}

func (c clusterTable) set(ctx context.Context, key string, value []byte, ifVersion uint64) error {
	_, err := c.t.Set(ctx, key, value, ifVersion)
	if errors.Is(err, cluster.ErrConflict) {
		return errVersion
	}
	return err
}

func (c clusterTable) list(ctx context.Context, prefix string, fn func(string, []byte)) error {
	pairs, err := c.t.List(ctx, prefix)
	if err != nil {
		return err
	}
	for _, p := range pairs {
		fn(p.Key, p.Value)
	}
	return nil
}

// watch tells of what other nodes change. Wake-ups coalesce, so each reads the
// prefix again; versions rise, so only what is newer is told.
func (c clusterTable) watch(ctx context.Context, prefix string, fn func(string, []byte)) error {
	w := c.t.Watch(prefix)
	defer w.Close()
	var told uint64
	for {
		pairs, err := c.t.PeekList(prefix)
		if err != nil {
			return err
		}
		newest := told
		for _, p := range pairs {
			if p.Version > told {
				fn(p.Key, p.Value)
				newest = max(newest, p.Version)
			}
		}
		told = newest
		select {
		case <-w.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// openPlacements reads all placements into memory; a part of the node then
// follows them.
func (a *App) openPlacements(ctx context.Context) error {
	a.places = newPlacements(clusterTable{a.engine.Table()}, a.proxyNodes, a.log.With("part", "placements"))
	if err := a.places.load(ctx); err != nil {
		return err
	}
	a.parts = append(a.parts, part{name: "placements", serve: func(ctx context.Context) error {
		a.places.run(ctx)
		return nil
	}})
	return nil
}
