package store

import (
	"context"

	"mailferry/cluster/engine"
)

// Delivery is one message for users of this store.
type Delivery struct {
	Recipients []string // canonical user names
	// Body stages the octets for one shard. It is called once per shard with
	// recipients; all of them share the body.
	Body func(context.Context, engine.ShardID) (engine.StagedBody, error)
	// ID makes repetitions harmless: the same id files nothing twice. Empty:
	// a new one. See NewDeliveryID.
	ID string
}

// NewDeliveryID returns a new random id.
func (s *Store) NewDeliveryID() string { return "" }

// Deliver files a message in the INBOX of each recipient; the errors are in the
// recipients' order, nil means durable. KindNotFound: no such user.
// KindTemporary and KindUnavailable: not filed, nor will it be.
func (s *Store) Deliver(ctx context.Context, d Delivery) []error { return nil }
