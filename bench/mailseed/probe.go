package main

import (
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
)

// refusals says how much of what is missing at a target the target refuses:
// names that CREATE, and messages that APPEND answers with NO.
type refusals struct {
	Folders         int `json:"folders"`          // of folders.missing
	Renamed         int `json:"renamed"`          // of folders.extra: each holds just what one of these held
	RenamedMessages int `json:"renamed_messages"` // of messages.missing, and of messages.extra
	Messages        int `json:"messages"`         // of messages.missing, in folders that are there
	Dates           int `json:"dates"`            // of internaldate.differ: given with APPEND, another comes back
	Subscriptions   int `json:"subscriptions"`    // of subscriptions.missing, and of subscriptions.extra
	Dangling        int `json:"dangling"`         // of subscriptions.missing: of names that are no mailbox, which the target takes from nobody
}

const probeFolder = "mailseed-probe"

// probe asks the target, with plain commands, for what compare missed: it
// creates what is missing, and deletes it again.
func (r *report) probe(src, dst endpoint, want, got *manifest) error {
	r.Refused = &refusals{}
	for _, w := range want.Users {
		for _, g := range got.Users {
			if g.User == w.User {
				if err := r.probeUser(src, dst, w, g); err != nil {
					return fmt.Errorf("%s: %w", w.User, err)
				}
			}
		}
	}
	return nil
}

func (r *report) probeUser(src, dst endpoint, w, g *userM) error {
	there, known := map[string]*folderM{}, map[string]bool{}
	for _, f := range g.Folders {
		if !f.NoSelect {
			there[pathKey(f.Path)] = f
		}
	}
	for _, f := range w.Folders {
		known[pathKey(f.Path)] = true
	}
	d, err := dialIMAP(dst, w.User)
	if err != nil {
		return err
	}
	defer d.nc.Close()
	dn, err := d.naming()
	if err != nil {
		return err
	}
	subscribed := map[string]bool{}
	for _, p := range w.Subscribed {
		subscribed[pathKey(p)] = true
	}
	for _, f := range w.Folders {
		if f.NoSelect {
			continue
		}
		if o := there[pathKey(f.Path)]; o != nil {
			if err := r.probeMessages(src, d, dn, w.User, f, o); err != nil {
				return err
			}
			if err := r.probeDates(d, dn, f, o); err != nil {
				return err
			}
			continue
		}
		refused := strings.Contains(strings.Join(f.Path, ""), dn.sep)
		if !refused {
			if refused, err = refuses(d, "CREATE "+quote(dn.raw(f.Path))); err != nil {
				return err
			}
			if !refused {
				_, _ = d.cmd("DELETE " + quote(dn.raw(f.Path)))
				continue
			}
		}
		r.Refused.Folders++
		for k, o := range there {
			if !known[k] && len(o.Path) == len(f.Path) && contents(o) == contents(f) {
				known[k] = true
				r.Refused.Renamed++
				r.Refused.RenamedMessages += len(f.Msgs)
				if subscribed[pathKey(f.Path)] {
					r.Refused.Subscriptions++
				}
				break
			}
		}
	}
	return r.probeDangling(d, dn, w, g, known)
}

// probeDangling asks for the subscriptions that are missing of names that are no
// mailbox, at the source either.
func (r *report) probeDangling(d *imapConn, dn naming, w, g *userM, folders map[string]bool) error {
	have := map[string]bool{}
	for _, p := range g.Subscribed {
		have[pathKey(p)] = true
	}
	for _, p := range w.Subscribed {
		if have[pathKey(p)] || folders[pathKey(p)] {
			continue
		}
		switch refused, err := refuses(d, "SUBSCRIBE "+quote(dn.raw(p))); {
		case err != nil:
			return err
		case refused:
			r.Refused.Dangling++
		default:
			_, _ = d.cmd("UNSUBSCRIBE " + quote(dn.raw(p)))
		}
	}
	return nil
}

// probeMessages appends what f has and o has not, 20 messages of a folder at most.
func (r *report) probeMessages(src endpoint, d *imapConn, dn naming, user string, f, o *folderM) error {
	have := map[string]int{}
	for _, m := range o.Msgs {
		have[m.SHA]++
		have["key "+m.Key]++ // changed, not missing
	}
	var c *imapConn
	tried := 0
	for _, m := range f.Msgs {
		if have[m.SHA]--; have[m.SHA] >= 0 {
			continue
		}
		if m.Key != "" && have["key "+m.Key] > 0 {
			continue
		}
		if tried++; tried > 20 {
			break
		}
		if c == nil {
			var err error
			if c, err = dialIMAP(src, user); err != nil {
				return err
			}
			defer c.nc.Close()
			if _, err = c.cmd("EXAMINE " + quote(f.Raw)); err != nil {
				return err
			}
			_, _ = d.cmd("CREATE " + quote(dn.raw([]string{probeFolder})))
			defer func() { _, _ = d.cmd("DELETE " + quote(dn.raw([]string{probeFolder}))) }()
		}
		var octets []byte
		if _, _, err := c.streamFetch(fmt.Sprint(m.UID), "UID", func(_ fetched, b io.Reader) (err error) {
			octets, err = io.ReadAll(b)
			return err
		}); err != nil {
			return err
		}
		refused, err := refuses(d, fmt.Sprintf("APPEND %s {%d+}\r\n%s", quote(dn.raw([]string{probeFolder})), len(octets), octets))
		if err != nil {
			return err
		}
		if refused {
			r.Refused.Messages++
		}
	}
	return nil
}

// probeDates appends with the dates that are other ones in o.
func (r *report) probeDates(d *imapConn, dn naming, f, o *folderM) error {
	dates, seen := map[string]int64{}, map[string]int{}
	for _, m := range o.Msgs {
		dates[m.SHA] = m.Date
		seen[m.SHA]++
	}
	for _, m := range f.Msgs {
		if seen[m.SHA] != 1 || dates[m.SHA] == m.Date {
			continue
		}
		box := quote(dn.raw([]string{probeFolder}))
		_, _ = d.cmd("CREATE " + box)
		const text = "Subject: a date\r\n\r\n"
		refused, err := refuses(d, fmt.Sprintf("APPEND %s %s {%d+}\r\n%s", box, quote(m.DateRaw), len(text), text))
		if err == nil && !refused {
			if _, err = d.cmd("SELECT " + box); err == nil {
				_, _, err = d.streamFetch("*", "UID INTERNALDATE", func(x fetched, b io.Reader) error {
					t, _ := parseIMAPDate(x.date)
					refused = t.Unix() != m.Date
					_, err := io.Copy(io.Discard, b)
					return err
				})
				_, _ = d.cmd("CLOSE")
			}
		}
		_, _ = d.cmd("DELETE " + box)
		if err != nil {
			return err
		}
		if refused {
			r.Refused.Dates++
		}
	}
	return nil
}

// refuses gives a command and says whether the answer was NO or BAD.
func refuses(c *imapConn, command string) (bool, error) {
	_, err := c.cmd(command)
	var no *imapError
	if errors.As(err, &no) {
		return !strings.Contains(no.text, "[ALREADYEXISTS]"), nil
	}
	return false, err
}

// contents names all messages of a folder.
func contents(f *folderM) string {
	var l []string
	for _, m := range f.Msgs {
		l = append(l, m.SHA)
	}
	sort.Strings(l)
	return strings.Join(l, " ")
}
