package target

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// allowed leaves out flags that the mailbox does not keep (PERMANENTFLAGS), and
// reports them. A store that tells none keeps all, as far as we know.
func (b *mailbox) allowed(uid imap.UID, flags []imap.Flag) []imap.Flag {
	if b.sel == nil || len(b.sel.PermanentFlags) == 0 {
		return flags
	}
	keeps := func(f imap.Flag) bool {
		for _, p := range b.sel.PermanentFlags {
			if p == `\*` || strings.EqualFold(string(p), string(f)) {
				return true
			}
		}
		return false
	}
	if !slices.ContainsFunc(flags, func(f imap.Flag) bool { return !keeps(f) }) {
		return flags
	}
	var out []imap.Flag
	for _, f := range flags {
		if keeps(f) {
			out = append(out, f)
		} else {
			b.i.note(backend.ImportNote{Mailbox: b.name, What: fmt.Sprintf("the target does not keep the flag %q: left out", f)})
		}
	}
	return out
}

// SetFlags implements backend.MailboxImport.
func (b *mailbox) SetFlags(ctx context.Context, updates []backend.ImportFlags) error {
	if b.i.o.Rules.NoFlags {
		return nil
	}
	b.i.mu.Lock()
	defer b.i.mu.Unlock()
	if err := b.check(ctx); err != nil {
		return err
	}
	type group struct {
		dst   imap.UIDSet
		src   []imap.UID
		flags []imap.Flag
	}
	groups := make(map[string]*group)
	for _, u := range updates {
		r, ok, err := b.m.get(u.UID)
		if err != nil {
			return err
		}
		if !ok || r.state != stateStored || slices.Equal(b.m.flagsOf(r.flags), u.Flags) {
			continue
		}
		key := fmt.Sprint(u.Flags)
		g := groups[key]
		if g == nil {
			g = &group{flags: u.Flags}
			groups[key] = g
		}
		g.dst.AddNum(imap.UID(r.dst))
		g.src = append(g.src, u.UID)
	}
	if len(groups) == 0 {
		return nil
	}
	var todo []*group
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		todo = append(todo, groups[key])
	}
	return b.selected(ctx, func(c *remote.Client) error {
		var cmds []remote.FlagStore
		var of []*group
		for _, g := range todo {
			for part := range chunks(g.dst) {
				cmds, of = append(cmds, remote.FlagStore{UIDs: part, Flags: b.allowed(0, g.flags)}), append(of, g)
			}
		}
		errs, err := c.StoreFlags(ctx, cmds)
		if err != nil {
			return err
		}
		for k, err := range errs {
			if err != nil {
				b.i.note(backend.ImportNote{Mailbox: b.name, UID: of[k].src[0], What: fmt.Sprintf("the target refused the flags %v: %v", of[k].flags, err)})
			}
		}
		for _, g := range todo {
			for _, uid := range g.src {
				if err := b.m.setFlags(uid, g.flags); err != nil {
					return &decided{err}
				}
			}
		}
		return nil
	})
}

// chunks cuts a set; command lines are bounded.
func chunks(set imap.UIDSet) iter.Seq[imap.UIDSet] { return slices.Chunk(set, 200) }
