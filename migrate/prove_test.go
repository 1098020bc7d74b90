package migrate

import (
	"context"
	"strings"
	"testing"

	"mailferry/backend"
)

// crooked is an importer whose store changes one octet of each body on the way
// in: what it files is what it hashes, so only the old store can tell.
type crooked struct{ backend.Importer }

type crookedImport struct{ backend.Import }

type crookedBox struct {
	backend.MailboxImport
	backend.Rereader
}

type crookedBody struct{ backend.BodyWriter }

func (c crooked) Import(ctx context.Context, user string, o backend.ImportOptions) (backend.Import, error) {
	imp, err := c.Importer.Import(ctx, user, o)
	return crookedImport{imp}, err
}

func (c crookedImport) Open(ctx context.Context, m backend.ImportMailbox) (backend.MailboxImport, error) {
	box, err := c.Import.Open(ctx, m)
	if err != nil || m.NoSelect {
		return box, err
	}
	return crookedBox{box, box.(backend.Rereader)}, nil
}

func (c crookedBox) NewBody(ctx context.Context) (backend.BodyWriter, error) {
	w, err := c.MailboxImport.NewBody(ctx)
	return crookedBody{w}, err
}

func (c crookedBody) Write(p []byte) (int, error) {
	q := append([]byte(nil), p...)
	q[len(q)/2] ^= 1
	return c.BodyWriter.Write(q)
}

// TestSecondLook asks the old store again. Octets that changed on the way in
// are found, although sizes, UIDs, flags and the new store's own digests fit; a
// message that was expunged since is no fault.
func TestSecondLook(t *testing.T) {
	realSources(t, func(t *testing.T, s *source) {
		ctx := context.Background()
		c := s.conn(t)
		s.fill(t, c)
		bad := newAccount(s.user, s.dial, crooked{ownStore(t).Importer()})
		defer bad.close()
		good := newAccount(s.user, s.dial, ownStore(t).Importer())
		defer good.close()
		for _, a := range []*account{bad, good} {
			if p, err := a.sync(ctx); err != nil || p.err() != nil {
				t.Fatal(err, p.err())
			}
			if err := a.compare(ctx, false); err != nil {
				t.Fatalf("what is compared without bodies: %v", err)
			}
			if err := a.reread(ctx, 100); err != nil {
				t.Fatalf("the new store is true to itself: %v", err)
			}
		}
		_, err := bad.prove(ctx, 100)
		if !backend.IsKind(err, backend.KindConflict) || !strings.Contains(err.Error(), "at a second look") {
			t.Errorf("the second look found nothing: %v", err)
		}

		c.Cmd("SELECT INBOX")
		c.Cmd(`UID STORE 1:2 +FLAGS.SILENT (\Deleted)`)
		c.Cmd("UID EXPUNGE 1:2")
		n, err := good.prove(ctx, 100)
		if want := int(good.certify("copied").Messages) - 2; err != nil || n != want {
			t.Errorf("%d messages proved, want %d: %v", n, want, err)
		}
		if n, err := good.prove(ctx, 100); n != 0 || err != nil {
			t.Errorf("proved twice: %d, %v", n, err)
		}
	}, "dovecot", "cyrus")
}
