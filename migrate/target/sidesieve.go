package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// scripts carries Sieve scripts over by ManageSieve.
func (s *sideRun) scripts(ctx context.Context) error {
	if len(s.d.Scripts) == 0 && len(s.rec.Scripts) == 0 {
		return nil
	}
	if s.i.o.DialSieve == nil {
		s.noSieve("no ManageSieve address of the target is known")
		return nil
	}
	conn, err := s.i.o.DialSieve(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case remote.Unreached(err), backend.IsKind(err, backend.KindAuthentication):
		s.noSieve(err.Error())
		return nil
	case err != nil:
		return fmt.Errorf("ManageSieve of the target: %w", err)
	}
	c := remote.NewScriptClient(ctx, conn)
	defer c.Close()
	have, large, err := c.Scripts()
	if err != nil {
		return fmt.Errorf("ManageSieve of the target: %w", err)
	}
	run := &sieveRun{s: s, c: c, have: make(map[string]*backend.SieveScript), large: large, knows: c.Extensions()}
	for k := range have {
		run.have[have[k].Name] = &have[k]
		if have[k].Active {
			run.active = have[k].Name
		}
	}
	if err := run.all(); err != nil {
		return fmt.Errorf("ManageSieve of the target: %w", err)
	}
	return nil
}

func (s *sideRun) noSieve(why string) {
	for _, x := range s.d.Scripts {
		s.left("", "Sieve script %q: %s", x.Name, why)
	}
}

type sieveRun struct {
	s      *sideRun
	c      *remote.ScriptClient
	have   map[string]*backend.SieveScript
	large  []string // of the target's, not read
	active string   // the target's
	knows  []string // extensions
}

func (r *sieveRun) all() error {
	var active *backend.SieveScript
	runs := true // active can run
	for k := range r.s.d.Scripts {
		x := &r.s.d.Scripts[k]
		kept, ok, err := r.put(x)
		if err != nil {
			return err
		}
		if kept && x.Active {
			active, runs = x, ok
		}
	}
	if err := r.gone(); err != nil {
		return err
	}
	if active != nil && runs {
		return r.activate(active.Name)
	}
	return nil
}

// put keeps a script at the target; runs is false for one that should not be made
// active there.
func (r *sieveRun) put(x *backend.SieveScript) (kept, runs bool, err error) {
	runs = true
	var missing []string
	for _, ext := range required(x.Text) {
		if !slices.Contains(r.knows, ext) && len(r.knows) > 0 && !strings.HasPrefix(ext, "comparator-") {
			missing = append(missing, ext)
		}
	}
	if len(missing) > 0 {
		runs = false
		r.s.left("", "Sieve script %q requires %s, which the target does not know: it is not made active", x.Name, strings.Join(missing, ", "))
	}
	r.renamed(x)
	sum := sumOf(x.Text)
	old := r.have[x.Name]
	switch {
	case old != nil && bytes.Equal(old.Text, x.Text):
		r.s.rec.Scripts[x.Name] = sum
		return true, runs, nil
	case (old != nil || slices.Contains(r.large, x.Name)) && r.s.rec.Scripts[x.Name] == sum && !r.s.mirror(): // its owner's change
		return true, runs, nil
	}
	if r.s.dry {
		r.s.changed("", "Sieve script %q", x.Name)
		if known, err := r.c.Check(x.Text); known && err != nil {
			return r.refused(x, err)
		}
		return true, runs, nil
	}
	if old != nil && r.s.rec.Scripts[x.Name] != sumOf(old.Text) {
		if err := r.setAside(old); err != nil {
			return false, false, err
		}
	}
	if err := r.c.Put(x.Name, x.Text); err != nil {
		return r.refused(x, err)
	}
	r.s.changed("", "Sieve script %q", x.Name)
	r.s.rec.Scripts[x.Name] = sum
	return true, runs, nil
}

// refused names a script that the target does not keep.
func (r *sieveRun) refused(x *backend.SieveScript, err error) (bool, bool, error) {
	var no *remote.ScriptError
	if !errors.As(err, &no) {
		return false, false, err
	}
	r.s.left("", "Sieve script %q: the target refused it: %v", x.Name, no)
	return false, false, nil
}

// setAside keeps a script of the target that another one replaces.
func (r *sieveRun) setAside(old *backend.SieveScript) error {
	dir := filepath.Join(r.s.i.o.Dir, "quarantine")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(dir, "sieve-"+sumOf(old.Text))
	if err := os.WriteFile(path, old.Text, 0o600); err != nil {
		return err
	}
	r.s.left("", "Sieve script %q of the target was another one: replaced, and kept in %s", old.Name, path)
	return nil
}

// gone removes scripts that were carried, are as they were, and are gone from
// the source.
func (r *sieveRun) gone() error {
	for name, sum := range r.s.rec.Scripts {
		if slices.ContainsFunc(r.s.d.Scripts, func(x backend.SieveScript) bool { return x.Name == name }) {
			continue
		}
		old := r.have[name]
		if old == nil || sumOf(old.Text) != sum && !r.s.mirror() {
			delete(r.s.rec.Scripts, name)
			continue
		}
		if !r.s.dry {
			err := error(nil)
			if r.active == name {
				if err = r.c.Activate(""); err == nil {
					r.active = ""
				}
			}
			if err == nil {
				err = r.c.Delete(name)
			}
			var no *remote.ScriptError
			if errors.As(err, &no) {
				r.s.left("", "Sieve script %q is gone from the old store: the target refused to delete it: %v", name, no)
				continue
			}
			if err != nil {
				return err
			}
		}
		delete(r.s.rec.Scripts, name)
		r.s.changed("", "Sieve script %q deleted", name)
	}
	return nil
}

// activate makes the source's active script the target's, unless the user has
// chosen another one there.
func (r *sieveRun) activate(name string) error {
	switch {
	case r.active == name:
		r.s.rec.Active = name
		return nil
	case r.active == "" && r.s.rec.Active == name && !r.s.mirror(): // switched off at the target
		return nil
	case r.active != "" && r.active != r.s.rec.Active && !r.s.mirror():
		r.s.left("", "Sieve script %q is active at the old store: %q stays the target's", name, r.active)
		return nil
	}
	if !r.s.dry {
		var no *remote.ScriptError
		if err := r.c.Activate(name); errors.As(err, &no) {
			r.s.left("", "Sieve script %q is kept and not active: the target refused it: %v", name, no)
			return nil
		} else if err != nil {
			return err
		}
		r.s.rec.Active = name
	}
	r.s.changed("", "Sieve script %q made active", name)
	return nil
}

// renamed names mailboxes that a script files into and that are called otherwise
// at the target.
func (r *sieveRun) renamed(x *backend.SieveScript) {
	named := filedInto(x.Text)
	for box, b := range r.s.box {
		if from := r.s.i.source.Show(box); b.ok && b.shown != from && slices.Contains(named, from) {
			r.s.left(box, "Sieve script %q files into %q, which is %q at the target: its text is not changed", x.Name, from, b.shown)
		}
	}
}

// required are the extensions that a script requires.
func required(script []byte) []string { return argumentsOf(script, "require") }

// filedInto are the mailboxes that a script names.
func filedInto(script []byte) []string {
	return append(argumentsOf(script, "fileinto"), argumentsOf(script, "mailboxexists")...)
}

// argumentsOf are the strings behind a command up to its end (RFC 5228, 8):
// comments and texts are passed over.
func argumentsOf(script []byte, command string) (out []string) {
	on := false
	for t := range sieveTokens(script) {
		switch {
		case t.quoted && on:
			out = append(out, t.text)
		case t.quoted:
		case strings.EqualFold(t.text, command):
			on = true
		case t.text == ";" || t.text == "{" || t.text == "}":
			on = false
		}
	}
	return out
}
