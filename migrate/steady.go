package migrate

import (
	"context"
	"crypto/sha256"
	"io"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// unsteady is what the report says of a store that writes its messages anew at
// each reading: copies are by UID and stay single, but no later comparison of
// contents can hold.
const unsteady = "the old store gives other octets at each reading: contents can be compared as they were copied only"

const (
	probeMessages = 2
	probeOctets   = 64 << 10
)

// probe reads a few messages of a kind of store that is not known to be steady
// a second time, once an account.
func (a *account) probe(ctx context.Context) error {
	if a.probed || a.ordered { // a foreign target keeps shorter digests
		return nil
	}
	c, err := a.connected(ctx)
	if err != nil {
		return err
	}
	b := a.boxes[backend.Inbox]
	if a.probed = c.Profile().StableBodies; a.probed || b == nil || b.imp == nil {
		return nil
	}
	p := &prober{filed: make(map[imap.UID][32]byte)}
	for m, err := range b.imp.Messages(ctx) {
		if err != nil {
			return err
		}
		if m.Size <= probeOctets {
			p.filed[m.UID] = m.Digest
			p.todo.AddNum(m.UID)
		}
		if len(p.filed) == probeMessages {
			break
		}
	}
	if len(p.filed) == 0 {
		return nil
	}
	if sel, err := c.Examine(ctx, b.raw, remote.SelectOptions{}); err != nil || sel.UIDValidity != b.validity {
		return err
	}
	if err := c.FetchBodies(ctx, p, remote.Window{}); err != nil {
		a.drop()
		return err
	}
	if a.probed = true; p.differs {
		b.note(Exception{Mailbox: b.shown, What: unsteady})
	}
	return nil
}

// prober compares what comes with what was filed: a remote.BodySource.
type prober struct {
	filed   map[imap.UID][32]byte
	todo    imap.UIDSet
	last    [32]byte
	differs bool
}

func (p *prober) NextSet() (set imap.UIDSet, octets int64, ok bool) {
	set, p.todo = p.todo, nil
	return set, probeMessages * probeOctets, len(set) > 0
}

func (p *prober) Body(_ int64, r io.Reader) error {
	h := sha256.New()
	_, err := io.Copy(h, r)
	h.Sum(p.last[:0])
	return err
}

func (p *prober) Message(m *remote.Meta) error {
	if want, ok := p.filed[m.UID]; ok && m.Body == remote.BodyRead && want != p.last {
		p.differs = true
	}
	return nil
}

func (p *prober) Answered(imap.UIDSet, error) error { return nil }
