package backend

import "strings"

// MailboxName is the canonical name of a mailbox: its hierarchy components in
// UTF-8, joined by NameSeparator, without any store's delimiter or prefix. The
// first component of the inbox is "INBOX" in upper case.
type MailboxName string

// NameSeparator joins components; it cannot occur in one.
const NameSeparator = "\x00"

// Inbox is the canonical inbox.
const Inbox MailboxName = "INBOX"

// JoinName builds a name from components; a first one that equals INBOX in any
// case becomes Inbox.
func JoinName(components ...string) MailboxName {
	if len(components) > 0 && strings.EqualFold(components[0], string(Inbox)) {
		components = append([]string{string(Inbox)}, components[1:]...)
	}
	return MailboxName(strings.Join(components, NameSeparator))
}

// Components splits the name.
func (n MailboxName) Components() []string { return strings.Split(string(n), NameSeparator) }

// Parent is the name one level up; ok is false at the top.
func (n MailboxName) Parent() (p MailboxName, ok bool) {
	i := strings.LastIndex(string(n), NameSeparator)
	if i < 0 {
		return "", false
	}
	return n[:i], true
}

// Below reports whether n is a descendant of p.
func (n MailboxName) Below(p MailboxName) bool {
	return strings.HasPrefix(string(n), string(p)+NameSeparator)
}

// Namespace is how a store, or our store for one user, shows personal mailbox
// names: Cyrus and Courier "INBOX." with ".", Dovecot often "" with "/".
type Namespace struct {
	Prefix    string `json:"prefix"`
	Delimiter string `json:"delimiter"` // one ASCII character
}

// DefaultNamespace is that of users who were not moved here.
var DefaultNamespace = Namespace{Delimiter: "/"}

// Name is the canonical name of a personal mailbox shown as s (decoded UTF-8).
// ok is false for a name outside the personal namespace or with an empty
// component.
func (ns Namespace) Name(s string) (n MailboxName, ok bool) {
	if strings.EqualFold(s, string(Inbox)) {
		return Inbox, true
	}
	rest := s
	if ns.Prefix != "" {
		if len(s) <= len(ns.Prefix) || !equalPrefix(s, ns.Prefix) {
			return "", false
		}
		rest = s[len(ns.Prefix):]
	}
	if strings.Contains(rest, NameSeparator) {
		return "", false
	}
	parts := []string{rest}
	if ns.Delimiter != "" {
		parts = strings.Split(rest, ns.Delimiter)
	}
	for _, p := range parts {
		if p == "" {
			return "", false
		}
	}
	return JoinName(parts...), true
}

// equalPrefix compares a prefix with the word INBOX in any case (RFC 9051 5.1).
func equalPrefix(s, prefix string) bool {
	if strings.HasPrefix(s, prefix) {
		return true
	}
	const in = len(Inbox)
	return len(prefix) > in && strings.EqualFold(prefix[:in], string(Inbox)) &&
		strings.EqualFold(s[:in], string(Inbox)) && s[in:len(prefix)] == prefix[in:]
}

// Show is how the namespace shows a canonical name.
func (ns Namespace) Show(n MailboxName) string {
	if n == Inbox {
		return string(Inbox)
	}
	return ns.Prefix + strings.ReplaceAll(string(n), NameSeparator, ns.Delimiter)
}
