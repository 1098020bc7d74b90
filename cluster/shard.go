package cluster

import (
	"context"
	"fmt"

	"mailferry/cluster/engine"
)

var _ engine.Shard = (*group)(nil)

// ID implements engine.Shard.
func (g *group) ID() engine.ShardID { return g.id }

// Leader implements engine.Shard.
func (g *group) Leader() bool { return g.leads.Load() }

// Watch implements engine.Shard.
func (g *group) Watch(topic string) *engine.Watcher { return g.watchers.watch(topic) }

// View implements engine.Shard. On a follower it asks the leader for its
// position and waits until this replica has reached it.
func (g *group) View(ctx context.Context) (engine.View, error) { return g.newView(ctx) }

// OpenBody implements engine.Shard. It reads what this replica has applied.
func (g *group) OpenBody(id engine.BodyID) (engine.BodyReader, error) {
	if !g.node.users.enter() {
		return nil, engine.ErrStopped
	}
	defer g.node.users.leave()
	return g.openBody(id)
}

// NewBody implements engine.Shard.
func (g *group) NewBody(ctx context.Context) (engine.BodyWriter, error) {
	if err := g.mayPropose(false); err != nil {
		return nil, err
	}
	return g.newBodyWriter(ctx), nil
}

// NewBulkBody implements engine.Shard.
func (g *group) NewBulkBody(ctx context.Context) (engine.BodyWriter, error) {
	if err := g.mayPropose(false); err != nil {
		return nil, err
	}
	w := g.newBodyWriter(ctx)
	w.ahead = g.single()
	return w, nil
}

// Propose implements engine.Shard. Only the leader's replica takes commands:
// on the others it returns ErrNotLeader, as it does when the shard has no
// leader. A change of leader while the command is under way makes the outcome
// unknown.
func (g *group) Propose(ctx context.Context, cmd []byte, bodies ...engine.StagedBody) ([]byte, error) {
	p, err := g.start(cmd, bodies, func(id entryID, data []byte, pins []uint32) (*proposal, error) {
		return g.submit(ctx, id, data, false, pins)
	})
	if err != nil {
		return nil, err
	}
	return p.wait(ctx)
}

// start submits a command with its bodies and releases them. Segments that hold
// bodies stay pinned until the proposal ends.
func (g *group) start(cmd []byte, bodies []engine.StagedBody, submit func(id entryID, data []byte, pins []uint32) (*proposal, error)) (*proposal, error) {
	own, err := g.take(bodies)
	if err != nil {
		return nil, err
	}
	var p *proposal
	pins, err := g.syncPlaces(own)
	if err == nil {
		err = checkSize(cmd, own)
	}
	if err == nil {
		id, kind := g.node.newID(), byte(kindCommand)
		if len(pins) > 0 {
			kind = kindPlaced
		}
		data := appendHeader(make([]byte, 0, entryHeader+commandSize(cmd, own)), kind, id)
		data = appendCommand(data, kind == kindPlaced, cmd, own)
		p, err = submit(id, data, pins)
	}
	for _, b := range own {
		if err == nil {
			b.places = nil // the pins are the proposal's
		}
		b.release(err != nil)
	}
	return p, err
}

// syncPlaces makes durable what was placed of bodies, and lists its segments,
// one for each pin.
func (g *group) syncPlaces(bodies []*staged) (pins []uint32, err error) {
	for _, b := range bodies {
		if err := g.node.placer.sync(b.places); err != nil {
			return nil, err
		}
		pins = appendPins(pins, b.places)
	}
	return pins, nil
}

func appendPins(pins []uint32, places []place) []uint32 {
	for i := range places {
		pins = append(pins, places[i].segment)
	}
	return pins
}

// take claims the bodies for one proposal; when one of them cannot be, none is
// left behind.
func (g *group) take(bodies []engine.StagedBody) ([]*staged, error) {
	own := make([]*staged, 0, len(bodies))
	for _, b := range bodies {
		s, ok := b.(*staged)
		if !ok || s.g != g || !s.taken.CompareAndSwap(false, true) {
			for _, b := range own {
				b.release(true)
			}
			for _, b := range bodies {
				b.Discard()
			}
			return nil, fmt.Errorf("%w: body is of another shard or was used before", engine.ErrNotFound)
		}
		own = append(own, s)
	}
	return own, nil
}

func checkSize(cmd []byte, bodies []*staged) error {
	inline := 0
	for _, b := range bodies {
		inline += len(b.frames)
	}
	switch {
	case len(cmd) > engine.MaxCommand:
		return fmt.Errorf("%w: command of %d bytes", engine.ErrTooLarge, len(cmd))
	case len(bodies) > maxBodies || inline > maxInlineBodies:
		return fmt.Errorf("%w: %d bodies, %d bytes", engine.ErrTooLarge, len(bodies), inline)
	}
	return nil
}
