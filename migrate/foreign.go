package migrate

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"

	"mailferry/backend"
	"mailferry/migrate/target"
)

// foreignDir holds, beside the batches, the maps of copies into foreign stores,
// one directory per pair of accounts: a later batch goes on where they stand.
const foreignDir = ".foreign"

// idsDir holds the files of contentIDs, one per pair of accounts that is followed.
const idsDir = ".ids"

// foreign checks the targets of a batch, and what only goes with foreign ones.
func (e *Engine) foreign(spec *BatchSpec) error {
	own, other := "", ""
	for _, u := range spec.Users {
		if to := spec.of(u).To; e.opt.Stores[to].Local() {
			own = to
		} else {
			other = to
		}
	}
	switch {
	case own != "" && other != "" && !spec.CopyOnly && !spec.Dry:
		return invalid("A foreign store takes copies only: move and copy in batches of their own.", "stores %q and %q", own, other)
	case own != "" && (spec.Filter != nil || spec.Rules != nil):
		return invalid("Filters and rules for names are for copies into foreign stores; a user who moves takes everything along.", "store %q is our own", own)
	case own != "" && e.opt.Importer == nil:
		return invalid("This engine has no store of its own.", "store %q", own)
	case other != "":
		spec.CopyOnly = true
	}
	if err := spec.Rules.Check(); err != nil {
		return invalid("A rule for names is not understood.", "%w", err)
	}
	_, err := spec.Filter.compile()
	return err
}

// importer is the target's side of this user's copy.
func (d *driver) importer() (backend.Importer, error) {
	to := d.route.to
	if to.Local() {
		return d.e.opt.Importer, nil
	}
	if to.Address == "" {
		return nil, invalid("The new store has no address.", "store %q", to.Name)
	}
	return target.New(d.foreignTarget(to)), nil
}

// mapDir is where the map of this pair of accounts lies.
func (d *driver) mapDir() string { return filepath.Join(d.e.opt.Dir, foreignDir, d.pair()) }

// idsFile is where the ids of the messages of this pair of accounts lie.
func (d *driver) idsFile() string { return filepath.Join(d.e.opt.Dir, idsDir, d.pair()) }

// pair is a file name for this pair of accounts.
func (d *driver) pair() string {
	name := func(s *backend.Store) string {
		if f := d.e.opt.Account; f != nil {
			n, _ := f(s, d.route.entry.User)
			return n
		}
		return d.route.entry.User
	}
	from, to := d.route.from, d.route.to
	key := strings.Join([]string{from.Name, from.Address, d.route.host, name(from), to.Name, to.Address, name(to)}, "\x00")
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:12])
}

// configure gives the account what the batch says of copies.
func (d *driver) configure() (err error) {
	if d.acct.filter, err = d.b.spec.Filter.compile(); err != nil || d.acct.filter == nil {
		return err
	}
	for _, s := range d.acct.filter.FlagMap {
		sub, err := target.ParseSubstitution(s)
		if err != nil {
			return invalid("A rule for flags is not understood.", "%w", err)
		}
		d.acct.flags.subs = append(d.acct.flags.subs, sub)
	}
	return nil
}

// CertificateIn is a user's certificate of one batch. KindNotFound.
func (e *Engine) CertificateIn(id BatchID, user string) (*Certificate, error) {
	c, err := readCertificate(e.dir(id), user)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, backend.Errorf(backend.KindNotFound, "There is no certificate of this user.", "user %q", user)
	}
	return c, err
}
