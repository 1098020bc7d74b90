package imapd

import (
	"slices"
	"strings"
)

// always are the capabilities of every state, loggedIn those announced after a
// login only (they mean nothing before).
var (
	always   = []string{"IMAP4rev1", "LITERAL+", "SASL-IR", "ID", "ENABLE"}
	loggedIn = []string{"IDLE", "NAMESPACE", "CHILDREN", "UIDPLUS", "MOVE", "UNSELECT", "SPECIAL-USE", "CREATE-SPECIAL-USE",
		"LIST-EXTENDED", "LIST-STATUS", "CONDSTORE", "QRESYNC", "ESEARCH", "SEARCHRES", "MULTIAPPEND", "STATUS=SIZE", "WITHIN"}
)

// Capabilities lists what the server can announce to a logged-in client,
// without those of a connection's state (STARTTLS, AUTH=, LOGINDISABLED).
func Capabilities() []string { return append(slices.Clone(always), loggedIn...) }

// capabilities is the list for the session's present state.
func (s *session) capabilities() []string {
	var out []string
	add := func(names ...string) {
		for _, n := range names {
			if !s.withheld(n) {
				out = append(out, n)
			}
		}
	}
	add(always...)
	if s.state != stateNotAuthenticated {
		add(loggedIn...)
		if s.mayResume() {
			add("RESUME")
		}
		return out
	}
	if s.conn.MayStartTLS() {
		add("STARTTLS")
	}
	if s.conn.MayLogin() {
		add("AUTH=PLAIN", "AUTH=LOGIN")
	} else {
		out = append(out, "LOGINDISABLED")
	}
	return out
}

// withheld reports whether a capability is neither announced nor admitted.
func (s *session) withheld(name string) bool {
	same := func(w string) bool { return strings.EqualFold(w, name) }
	return name != "IMAP4rev1" && (slices.ContainsFunc(s.server.o.Withhold, same) || slices.ContainsFunc(s.info.Withhold, same))
}
