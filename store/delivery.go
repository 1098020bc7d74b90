package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"mailferry/backend"
	"mailferry/cluster/engine"
)

// Delivery is one message for users of this store.
type Delivery struct {
	Recipients []string // canonical user names
	// Body stages the octets for one shard. It is called once per shard with
	// recipients; all of them share the body.
	Body func(context.Context, engine.ShardID) (engine.StagedBody, error)
	// ID makes repetitions harmless: the same id with the same recipients
	// files nothing twice, for some minutes. Empty: a new one.
	ID string
}

// A delivery id is the time in milliseconds and random octets: ids sort by age,
// so that old ones are forgotten with one DeleteRange.
const (
	deliveryIDTime   = 8
	deliveryIDRandom = 12
)

// NewDeliveryID returns a new random id; it is not printable.
func (s *Store) NewDeliveryID() string {
	id := make([]byte, deliveryIDTime+deliveryIDRandom)
	binary.BigEndian.PutUint64(id, uint64(s.now().UnixMilli()))
	if _, err := io.ReadFull(s.rand, id[deliveryIDTime:]); err != nil {
		panic(fmt.Errorf("store: no random numbers: %w", err)) // crypto/rand never fails
	}
	return string(id)
}

// Deliver files a message in the INBOX of each recipient, once for a user who
// is named twice. The errors are in the recipients' order, nil means durable.
// KindNotFound: no such user. KindPermission: a disabled one. KindTemporary: not
// filed, nor will it be under this id. KindUnavailable: the same, but when the
// shard lost its leader it may not be known; repeating it with the same id
// cannot file it twice.
func (s *Store) Deliver(ctx context.Context, d Delivery) []error {
	if d.ID == "" {
		d.ID = s.NewDeliveryID()
	}
	errs := make([]error, len(d.Recipients))
	s.deliverGroups(ctx, d, s.group(ctx, d.Recipients, errs), errs)
	return errs
}

// deliverGroups has the shards file the message at the same time. The errors
// of recipients without a group are the caller's.
func (s *Store) deliverGroups(ctx context.Context, d Delivery, groups []*group, errs []error) {
	var wg sync.WaitGroup
	for _, g := range groups {
		body, err := d.Body(ctx, g.shard.ID())
		if err != nil {
			g.fail(errs, engineError(err))
			continue
		}
		wg.Go(func() { s.deliverGroup(ctx, d.ID, g, body, errs) })
	}
	wg.Wait()
	s.countDeliveries(errs)
}

func (s *Store) countDeliveries(errs []error) {
	for _, err := range errs {
		switch {
		case err == nil:
			s.meters.deliveries.WithLabelValues("filed").Inc()
		case backend.IsKind(err, backend.KindNotFound):
			s.meters.deliveries.WithLabelValues("unknown_user").Inc()
		default:
			s.meters.deliveries.WithLabelValues("temporary").Inc()
		}
	}
}

// group is the recipients of one shard; at[i] lists the places of users[i].
type group struct {
	shard engine.Shard
	users []uint64
	at    [][]int
}

func (g *group) fail(errs []error, err error) {
	for _, places := range g.at {
		for _, i := range places {
			errs[i] = err
		}
	}
}

// group resolves recipients and sorts them by shard; the unresolved get errors.
func (s *Store) group(ctx context.Context, recipients []string, errs []error) []*group {
	var groups []*group
	for i, name := range recipients {
		u, sh, err := s.recipient(ctx, name)
		if err != nil {
			errs[i] = err
			continue
		}
		at := slices.IndexFunc(groups, func(g *group) bool { return g.shard.ID() == u.Shard })
		if at < 0 {
			at, groups = len(groups), append(groups, &group{shard: sh})
		}
		g := groups[at]
		if n := slices.Index(g.users, u.ID); n >= 0 {
			g.at[n] = append(g.at[n], i)
			continue
		}
		g.users, g.at = append(g.users, u.ID), append(g.at, []int{i})
	}
	return groups
}

func (s *Store) recipient(ctx context.Context, name string) (User, engine.Shard, error) {
	u, err := s.User(ctx, name)
	if err != nil {
		return User{}, nil, err
	}
	switch {
	case u.State == UserDeleting:
		return User{}, nil, errNoAccount
	case u.State != UserActive:
		return User{}, nil, backend.NewError(backend.KindTemporary, "mailbox is being moved")
	case u.Disabled:
		return User{}, nil, backend.NewError(backend.KindPermission, "mailbox is disabled")
	}
	sh, err := s.shard(u.Shard)
	return u, sh, err
}

// deliverGroup has one shard file the message and sorts the outcomes.
func (s *Store) deliverGroup(ctx context.Context, id string, g *group, body engine.StagedBody, errs []error) {
	now := s.now()
	e := encoder{b: make([]byte, 0, 128)}
	e.byte(cmdDeliverParsed)
	e.string(id)
	e.int(now.UnixMilli())
	e.stamp(stampOf(now))
	e.int(body.Size())
	e.sum(body.Digest())
	e.bytes(structureOf(body))
	e.uint(uint64(len(g.users)))
	for _, u := range g.users {
		e.uint(u)
	}
	result, err := g.shard.Propose(ctx, e.b, plainBodies([]engine.StagedBody{body})...)
	if errors.Is(err, engine.ErrUnknownOutcome) {
		result, err = s.settle(ctx, g.shard, id)
	}
	if err != nil {
		g.fail(errs, engineError(err))
		return
	}
	d, err := parseResult(result)
	if err != nil {
		g.fail(errs, err)
		return
	}
	for _, places := range g.at {
		if kind := d.byte(); kind != 0 {
			for _, at := range places {
				errs[at] = backend.NewError(backend.Kind(kind), "")
			}
		}
	}
	if err := d.end(); err != nil {
		g.fail(errs, engineError(err))
	}
}

const (
	settleTime  = 10 * time.Second
	settlePause = 50 * time.Millisecond
)

// afterwards is a context for what must be finished though ctx ends.
func (s *Store) afterwards(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), settleTime)
}

// settle finds out what became of a delivery whose outcome is unknown, or makes
// sure that it will never be filed: after it, a late copy of the command finds
// the id taken. So the sender's own repetition is not a second mail.
func (s *Store) settle(ctx context.Context, sh engine.Shard, id string) ([]byte, error) {
	ctx, cancel := s.afterwards(ctx)
	defer cancel()
	e := encoder{}
	e.byte(cmdSettle)
	e.string(id)
	for {
		result, err := sh.Propose(ctx, e.b)
		if !errors.Is(err, engine.ErrUnknownOutcome) && !errors.Is(err, engine.ErrNotLeader) {
			return result, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(settlePause):
		}
	}
}

// givenUp is the outcome of a delivery that was settled before it was applied.
var givenUp = []byte{0xFF}

var (
	errGivenUp = backend.NewError(backend.KindTemporary, "delivery was given up, try again")
	errTooLate = backend.NewError(backend.KindTemporary, "delivery came too late, try again")
)

// forgetRound: one Apply in so many forgets old ids.
const forgetRound = 1024

// applyDeliver is cmdDeliver, which brings no structure.
func applyDeliver(tx engine.Tx, d *decoder) ([]byte, error) { return applyDelivery(tx, d, false) }

// applyDeliverParsed is cmdDeliverParsed, which does.
func applyDeliverParsed(tx engine.Tx, d *decoder) ([]byte, error) { return applyDelivery(tx, d, true) }

// applyDelivery files a body for several users. The answer has an octet per
// user: 0, or the kind of the refusal.
func applyDelivery(tx engine.Tx, d *decoder, parsed bool) ([]byte, error) {
	id, now, date := d.string(), d.int(), d.stamp()
	rec := messageRecord{Date: date, Saved: now / 1000, Size: d.int(), Digest: d.sum()}
	var structure []byte
	if parsed {
		structure = d.bytes()
		rec.HasExtra = len(structure) > 0
	}
	users := make([]uint64, 0, 4)
	for range d.count() {
		users = append(users, d.uint())
	}
	if err := d.end(); err != nil || len(id) != deliveryIDTime+deliveryIDRandom || rec.Size < 0 {
		return nil, corrupt(errCorrupt)
	}
	if outcome, ok, err := knownDelivery(tx, id); ok || err != nil {
		return outcome, err
	}
	if rec.Body = tx.Body(0); rec.Body == 0 {
		return nil, errNoBody
	}
	outcome := make([]byte, len(users))
	for i, user := range users {
		if err := fileInInbox(tx, user, rec, structure); err != nil {
			outcome[i] = byte(backend.KindOf(err))
		}
	}
	tx.Set(deliveryKey(id), outcome)
	forgetDeliveries(tx, now)
	return outcome, nil
}

// knownDelivery is the remembered outcome of an id.
func knownDelivery(tx engine.Tx, id string) (outcome []byte, ok bool, err error) {
	if raw, ok := get(tx, deliveryKey(id)); ok {
		if string(raw) == string(givenUp) {
			return nil, true, errGivenUp
		}
		return raw, true, nil
	}
	if raw, ok := get(tx, []byte{prefixDelivery}); ok && id < string(raw) {
		return nil, true, errTooLate // it may have been forgotten
	}
	return nil, false, nil
}

// forgetDeliveries removes ids older than deliveryMemory and remembers up to
// where, so that a command from before is refused.
func forgetDeliveries(tx engine.Tx, now int64) {
	if tx.Index()%forgetRound != 0 {
		return
	}
	var until [deliveryIDTime]byte
	binary.BigEndian.PutUint64(until[:], uint64(max(0, now-deliveryMemory.Milliseconds())))
	if raw, ok := get(tx, []byte{prefixDelivery}); ok && string(raw) >= string(until[:]) {
		return
	}
	tx.DeleteRange(deliveryKey("\x00"), deliveryKey(string(until[:])))
	tx.Set([]byte{prefixDelivery}, until[:])
}

// fileInInbox files a delivered message for one user.
func fileInInbox(tx engine.Tx, user uint64, rec messageRecord, structure []byte) error {
	m, err := beginClient(tx, user)
	if err != nil {
		return err
	}
	b, err := m.target(backend.Inbox)
	if err != nil {
		return err
	}
	if err := b.room(1); err != nil {
		return err
	}
	tx.RetainBody(rec.Body)
	b.fileExtra(b.file(&rec), structure)
	m.commit()
	return nil
}

// applySettle answers with the outcome of a delivery, or gives it up for ever.
func applySettle(tx engine.Tx, d *decoder) ([]byte, error) {
	id := d.string()
	if err := d.end(); err != nil || len(id) != deliveryIDTime+deliveryIDRandom {
		return nil, corrupt(errCorrupt)
	}
	if outcome, ok, err := knownDelivery(tx, id); ok || err != nil {
		return outcome, err
	}
	tx.Set(deliveryKey(id), givenUp)
	return nil, errGivenUp
}
