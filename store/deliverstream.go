package store

import (
	"context"
	"io"
	"strings"

	"mailferry/backend"
	"mailferry/cluster/engine"
	"mailferry/store/message"
)

// NewBody begins a body in a shard, for Delivery.Body. Its structure is kept
// with the message.
func (s *Store) NewBody(ctx context.Context, id engine.ShardID) (engine.BodyWriter, error) {
	sh, err := s.shard(id)
	if err != nil {
		return nil, err
	}
	return newBody(ctx, sh)
}

// Recipient names the user that an address delivers to: by name, by alias, or
// by either without a "+detail" in the local part. KindNotFound; KindTemporary
// while the user is being moved; KindPermission for a disabled one.
func (s *Store) Recipient(ctx context.Context, address string) (user string, err error) {
	u, _, err := s.recipient(ctx, address)
	if !backend.IsKind(err, backend.KindNotFound) {
		return u.Name, err
	}
	local, domain, hasDomain := strings.Cut(address, "@")
	base, _, detailed := strings.Cut(local, "+")
	if !detailed || base == "" {
		return "", err
	}
	if hasDomain {
		base += "@" + domain
	}
	u, _, err = s.recipient(ctx, base)
	return u.Name, err
}

// DeliverStream is Deliver for a message that is still being received: it reads
// body to its end, once, into each shard that has recipients. The errors are in
// the recipients' order, as from Deliver; when body fails, nothing is filed and
// all of them wrap its error. The sender of the envelope is not used.
func (s *Store) DeliverStream(ctx context.Context, _ string, users []string, body io.Reader) []error {
	errs := make([]error, len(users))
	fan := &bodyFan{bodies: make(map[engine.ShardID]*fanBody), parser: message.NewParser()}
	defer fan.abort()
	groups := s.group(ctx, users, errs)
	for _, g := range groups {
		w, err := g.shard.NewBody(ctx)
		fan.bodies[g.shard.ID()] = &fanBody{w: w, err: engineError(err)}
	}
	if len(groups) == 0 {
		s.countDeliveries(errs)
		return errs
	}
	if _, err := io.CopyBuffer(fan, struct{ io.Reader }{body}, make([]byte, 32<<10)); err != nil {
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	fan.structure = structureBlob(fan.parser)
	s.deliverGroups(ctx, Delivery{ID: s.NewDeliveryID(), Body: fan.stage}, groups, errs)
	return errs
}

// bodyFan writes a message into several shards at once. A shard that fails
// drops out; the others go on.
type bodyFan struct {
	bodies    map[engine.ShardID]*fanBody
	parser    *message.Parser
	structure []byte // for all shards, once everything is written
}

type fanBody struct {
	w   engine.BodyWriter // nil when it could not be had
	err error
}

func (f *bodyFan) Write(p []byte) (int, error) {
	for _, b := range f.bodies {
		if b.err == nil {
			_, b.err = b.w.Write(p)
		}
	}
	f.parser.Write(p)
	return len(p), nil
}

// stage is a Delivery.Body: each body can be had once.
func (f *bodyFan) stage(_ context.Context, id engine.ShardID) (engine.StagedBody, error) {
	b := f.bodies[id]
	if b.err != nil {
		return nil, b.err
	}
	staged, err := b.w.Finish()
	if err != nil {
		return nil, engineError(err)
	}
	return parsedBody{staged, f.structure}, nil
}

func (f *bodyFan) abort() {
	for _, b := range f.bodies {
		if b.w != nil {
			b.w.Abort()
		}
	}
}
