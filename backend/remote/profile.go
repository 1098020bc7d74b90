package remote

import (
	"slices"

	"mailferry/backend"
)

// Profile is what is known of a kind of store beyond its capabilities.
type Profile struct {
	Type backend.StoreType
	// Distrust names capabilities that the kind announces but gets wrong.
	Distrust []string
	// SelectOnce: a UIDVALIDITY is fixed by SELECT only, not by EXAMINE.
	SelectOnce bool
	// GhostBodies: a message that another session expunged is served as a
	// made-up one of another size.
	GhostBodies bool
	// ExactSizes: RFC822.SIZE is the size of BODY[]. False: an estimate.
	ExactSizes bool
	// StableBodies: BODY[] is known to be the same octets at each fetch.
	StableBodies bool
	// Ahead: what comes with a login, in the same packet, is answered behind it.
	// Cyrus reads its buffer anew after AUTHENTICATE and loses the rest.
	Ahead bool
	// Connections is how many connections a copy opens to one account's
	// store at a time by default.
	Connections int
}

// ProfileOf is the profile of a store type; unknown types are generic.
func ProfileOf(t backend.StoreType) Profile {
	p := Profile{Type: t, ExactSizes: true, StableBodies: true, Connections: 8}
	switch t {
	case backend.StoreCyrus, backend.StoreLocal, backend.StoreAxigen:
	case backend.StoreDovecot:
		p.Ahead = true
	case backend.StoreCourier:
		p.SelectOnce, p.GhostBodies = true, true
	case backend.StoreExchange:
		p.ExactSizes, p.StableBodies, p.Connections = false, false, 4
	case backend.StoreGmail:
		p.Connections = 4
	default:
		p.Type, p.ExactSizes, p.StableBodies, p.Connections = backend.StoreGeneric, false, false, 4
	}
	return p
}

func (p Profile) distrusts(name string) bool { return slices.Contains(p.Distrust, name) }
