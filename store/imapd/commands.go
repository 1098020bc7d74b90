package imapd

import (
	"context"
	"strings"
)

// command is a row of the table. run parses its arguments with c.d, which must
// reach the end of the line before anything is done.
type command struct {
	states     state
	capability string // not admitted when it is withheld
	run        func(ctx context.Context, s *session, c *call) error
	// expunge: EXPUNGE may be reported with it (RFC 3501 section 7.4.1).
	expunge bool
	// sync: changes are looked for even without a wake-up.
	sync bool
	// quiet: no untagged data but its own.
	quiet bool
}

var commands map[string]*command

func init() {
	commands = map[string]*command{
		"CAPABILITY": {states: anyState, run: runCapability, expunge: true},
		"NOOP":       {states: anyState, run: runNoop, expunge: true, sync: true},
		"LOGOUT":     {states: anyState, run: runLogout},
		"ID":         {states: anyState, run: runID, capability: "ID", expunge: true},

		"STARTTLS":     {states: stateNotAuthenticated, run: runStartTLS, capability: "STARTTLS"},
		"LOGIN":        {states: stateNotAuthenticated, run: runLogin},
		"AUTHENTICATE": {states: stateNotAuthenticated, run: runAuthenticate},

		"ENABLE":      {states: afterLogin, run: runEnable, capability: "ENABLE", expunge: true},
		"SELECT":      {states: afterLogin, run: runSelect},
		"EXAMINE":     {states: afterLogin, run: runSelect},
		"CREATE":      {states: afterLogin, run: runCreate, expunge: true},
		"DELETE":      {states: afterLogin, run: runDelete, expunge: true},
		"RENAME":      {states: afterLogin, run: runRename, expunge: true},
		"SUBSCRIBE":   {states: afterLogin, run: runSubscribe, expunge: true},
		"UNSUBSCRIBE": {states: afterLogin, run: runSubscribe, expunge: true},
		"LIST":        {states: afterLogin, run: runList, expunge: true},
		"LSUB":        {states: afterLogin, run: runLsub, expunge: true},
		"NAMESPACE":   {states: afterLogin, run: runNamespace, capability: "NAMESPACE", expunge: true},
		"STATUS":      {states: afterLogin, run: runStatus, expunge: true},
		"APPEND":      {states: afterLogin, run: runAppend, expunge: true},
		"IDLE":        {states: afterLogin, run: runIdle, capability: "IDLE", expunge: true, sync: true},
		"RESUME":      {states: afterLogin, run: runResume, quiet: true},

		"CHECK":       {states: stateSelected, run: runNoop, expunge: true, sync: true},
		"CLOSE":       {states: stateSelected, run: runClose},
		"UNSELECT":    {states: stateSelected, run: runUnselect, capability: "UNSELECT"},
		"EXPUNGE":     {states: stateSelected, run: runExpunge, expunge: true, sync: true},
		"UID EXPUNGE": {states: stateSelected, run: runExpunge, capability: "UIDPLUS", expunge: true, sync: true},
		"SEARCH":      {states: stateSelected, run: runSearch},
		"UID SEARCH":  {states: stateSelected, run: runSearch, expunge: true},
		"FETCH":       {states: stateSelected, run: runFetch},
		"UID FETCH":   {states: stateSelected, run: runFetch, expunge: true},
		"STORE":       {states: stateSelected, run: runStore},
		"UID STORE":   {states: stateSelected, run: runStore, expunge: true},
		"COPY":        {states: stateSelected, run: runCopy, expunge: true},
		"UID COPY":    {states: stateSelected, run: runCopy, expunge: true},
		"MOVE":        {states: stateSelected, run: runMove, capability: "MOVE", expunge: true, sync: true},
		"UID MOVE":    {states: stateSelected, run: runMove, capability: "MOVE", expunge: true, sync: true},
	}
}

// lookup reads tag and name and finds the command.
func (s *session) lookup(c *call) (*command, error) {
	if !c.d.ExpectTag(&c.tag) {
		c.tag = "*"
		return nil, c.d.Err()
	}
	var name string
	if !c.d.ExpectSP() || !c.d.Keyword(&name) {
		c.d.Fail("Command expected")
		return nil, c.d.Err()
	}
	if name == "UID" {
		var sub string
		if c.d.ExpectSP() && c.d.Keyword(&sub) {
			name, c.uid = "UID "+sub, true
		}
	}
	cmd := commands[name]
	if cmd == nil || cmd.capability != "" && s.withheld(cmd.capability) || name == "RESUME" && !s.mayResume() {
		c.d.Fail("Unknown command")
		return nil, c.d.Err()
	}
	c.name = name
	if cmd.states&s.state == 0 {
		c.d.Fail("%s", strings.TrimSpace(name+" is not possible now: "+s.stateName()))
		return nil, c.d.Err()
	}
	return cmd, nil
}

func (s *session) stateName() string {
	switch s.state {
	case stateNotAuthenticated:
		return "log in first"
	case stateAuthenticated:
		return "no mailbox is selected"
	}
	return "a mailbox is selected"
}
