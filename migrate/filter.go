package migrate

import (
	"context"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
	"mailferry/migrate/target"
)

// Filter says what of an account is copied. It is for copies into foreign
// stores: a user who moves takes everything along. It is kept in the journal.
type Filter struct {
	// Mailboxes are those to copy, Trees those with all below, as the source
	// shows them; both empty: all. OnlySubscribed: of those, the subscribed ones.
	Mailboxes      []string `json:"mailboxes,omitempty"`
	Trees          []string `json:"trees,omitempty"`
	OnlySubscribed bool     `json:"only_subscribed,omitempty"`
	// Include and Exclude are regular expressions (RE2) on those names, or shell
	// patterns when they begin with "glob:". What is excluded stays out unless
	// it is included.
	Include []string `json:"include,omitempty"`
	Exclude []string `json:"exclude,omitempty"`
	// First and Last name mailboxes to copy before and after the others.
	First []string `json:"first,omitempty"`
	Last  []string `json:"last,omitempty"`
	// MinSize and MaxSize bound RFC822.SIZE, in octets; MinAge and MaxAge the
	// time since INTERNALDATE. 0: no bound.
	MinSize int64         `json:"min_size,omitempty"`
	MaxSize int64         `json:"max_size,omitempty"`
	MinAge  time.Duration `json:"min_age,omitempty"`
	MaxAge  time.Duration `json:"max_age,omitempty"`
	// Search is an IMAP search criterion that messages have to meet.
	Search string `json:"search,omitempty"`
	// SkipDeleted leaves messages out that carry \Deleted.
	SkipDeleted bool `json:"skip_deleted,omitempty"`
	// SkipEmpty leaves mailboxes out that hold no messages.
	SkipEmpty bool `json:"skip_empty,omitempty"`
	// FoldersOnly creates mailboxes and copies no mail.
	FoldersOnly bool `json:"folders_only,omitempty"`
	// FlagMap are substitutions s/// on the flags of a message, joined by blanks.
	FlagMap []string `json:"flag_map,omitempty"`
}

// Check reports what of a filter is not understood.
func (f *Filter) Check() error {
	_, err := f.compile()
	for i := 0; f != nil && err == nil && i < len(f.FlagMap); i++ {
		_, err = target.ParseSubstitution(f.FlagMap[i])
	}
	return err
}

// compiled is a Filter ready for use; nil lets everything through.
type compiled struct {
	Filter
	include, exclude []pattern
}

type pattern func(name string) bool

// compile checks f.
func (f *Filter) compile() (*compiled, error) {
	if f == nil {
		return nil, nil
	}
	c := &compiled{Filter: *f}
	for _, l := range []struct {
		from []string
		to   *[]pattern
	}{{f.Include, &c.include}, {f.Exclude, &c.exclude}} {
		for _, s := range l.from {
			m, err := parsePattern(s)
			if err != nil {
				return nil, invalid("A pattern of mailboxes is not understood.", "%q: %w", s, err)
			}
			*l.to = append(*l.to, m)
		}
	}
	if strings.ContainsAny(f.Search, "\r\n{") {
		return nil, invalid("The search criterion is not understood.", "%q", f.Search)
	}
	return c, nil
}

func parsePattern(s string) (pattern, error) {
	if glob, ok := strings.CutPrefix(s, "glob:"); ok {
		_, err := path.Match(glob, "")
		return func(name string) bool { ok, _ := path.Match(glob, name); return ok }, err
	}
	re, err := regexp.Compile(s)
	if err != nil {
		return nil, err
	}
	return re.MatchString, nil
}

// boxes leaves mailboxes out of a plan.
func (c *compiled) boxes(pl *plan) {
	if c == nil {
		return
	}
	subscribed := make(map[backend.MailboxName]bool)
	for _, n := range pl.subscriptions {
		subscribed[n] = true
	}
	pl.boxes = slices.DeleteFunc(pl.boxes, func(p planned) bool {
		out := !c.wants(pl.namespace, p.shown) || c.SkipEmpty && p.known && p.status.Messages == 0 || c.OnlySubscribed && !subscribed[p.name]
		if out {
			pl.left = append(pl.left, p)
		}
		return out
	})
	rank := func(p planned) int {
		if i := slices.Index(c.First, p.shown); i >= 0 {
			return i - len(c.First)
		}
		return slices.Index(c.Last, p.shown) + 1
	}
	slices.SortStableFunc(pl.boxes, func(x, y planned) int { return rank(x) - rank(y) })
}

func (c *compiled) wants(ns backend.Namespace, shown string) bool {
	named := len(c.Mailboxes) == 0 && len(c.Trees) == 0 || slices.Contains(c.Mailboxes, shown) ||
		slices.ContainsFunc(c.Trees, func(t string) bool { return shown == t || strings.HasPrefix(shown, t+ns.Delimiter) })
	any := func(list []pattern) bool {
		return slices.ContainsFunc(list, func(m pattern) bool { return m(shown) })
	}
	if len(c.Mailboxes) == 0 && len(c.Trees) == 0 && len(c.include) > 0 && len(c.exclude) == 0 {
		return any(c.include)
	}
	return named && !any(c.exclude) || any(c.include)
}

// search asks the source which messages of the open mailbox meet the criterion.
func (c *compiled) search(ctx context.Context, client *remote.Client) (map[imap.UID]bool, error) {
	if c == nil || c.Search == "" {
		return nil, nil
	}
	set, err := client.Search(ctx, c.Search)
	if err != nil {
		return nil, fmt.Errorf("search: %w", err)
	}
	found := make(map[imap.UID]bool)
	for _, r := range set {
		for u := uint64(r.Start); u <= uint64(r.Stop); u++ {
			found[imap.UID(u)] = true
		}
	}
	return found, nil
}

// messages takes those out of l that are not to be copied, and counts them.
func (c *compiled) messages(l *listing, found map[imap.UID]bool, now time.Time) (filtered uint32) {
	if c == nil {
		return 0
	}
	n := len(l.entries)
	l.entries = slices.DeleteFunc(slices.Clone(l.entries), func(e entry) bool {
		at := l.at(&e)
		age, dated := now.Sub(time.Unix(at, 0)), at >= 0
		return c.FoldersOnly || found != nil && !found[e.uid] ||
			c.MinSize > 0 && int64(e.size) < c.MinSize || c.MaxSize > 0 && int64(e.size) > c.MaxSize ||
			dated && c.MinAge > 0 && age < c.MinAge || dated && c.MaxAge > 0 && age > c.MaxAge ||
			c.SkipDeleted && slices.ContainsFunc(l.flags(&e), func(f imap.Flag) bool { return strings.EqualFold(string(f), string(imap.FlagDeleted)) })
	})
	l.finish()
	return uint32(n - len(l.entries))
}

// wanted leaves what is not to be copied out of the missing messages: what the
// filter keeps back, and what the target has refused.
func (a *account) wanted(b *box, missing *listing, found map[imap.UID]bool) {
	b.filtered += a.filter.messages(missing, found, time.Now())
	o, ok := b.imp.(backend.OrderedImport)
	if !ok {
		return
	}
	refused := o.Refused()
	if len(refused) == 0 {
		return
	}
	missing.entries = slices.DeleteFunc(slices.Clone(missing.entries), func(e entry) bool {
		why := refused[e.uid]
		if why != "" {
			b.skip(e.uid, why)
		}
		return why != ""
	})
	missing.finish()
}

// skipRefused marks what the target refused in this pass.
func (b *box) skipRefused() {
	o, ok := b.imp.(backend.OrderedImport)
	if !ok {
		return
	}
	for uid, why := range o.Refused() {
		b.skip(uid, why)
	}
}
