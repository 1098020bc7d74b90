package proxy

import (
	"strings"
	"testing"
	"testing/synctest"

	"mailferry/backend"
)

func TestNotAttachable(t *testing.T) {
	tests := map[string]struct {
		cmd, answer string
		why         reason
		view        bool
	}{
		"notify":  {"x NOTIFY SET (SELECTED (MessageNew))", "x OK", reasonNotify, false},
		"context": {"x SEARCH RETURN (UPDATE) ALL", "x OK", reasonContext, false},
		"feature": {"x ENABLE QRESYNC", "* ENABLED QRESYNC|x OK", reasonEnabled, false},
	}
	alone := func(o *Options) { o.Groups, o.Resumable = nil, []string{"CONDSTORE"} }
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			inWorld(t, alone, func(w *world) {
				c, old := w.selected("anna", 1)
				w.ask(c, old, tc.cmd, strings.Split(tc.answer, "|")...)
				w.ps.hold("anna", "old")
				w.confirmed(0, 1, "")
				w.ps.activate("anna", "home")
				c.expect("* BYE [UNAVAILABLE]")
				c.end()
				old.end()
				w.resumed(0, 0, 1, tc.why)
			})
		})
	}
	t.Run("but it resumes after an abort", func(t *testing.T) {
		inWorld(t, alone, func(w *world) {
			c, old := w.selected("anna", 1)
			w.ask(c, old, "x NOTIFY NONE", "x OK")
			w.ps.hold("anna", "old")
			w.confirmed(0, 1, "")
			w.ps.activate("anna", "old")
			w.resumed(0, 1, 0)
			w.goesOn(c, old)
		})
	})
}

func TestViewCannotBeLearned(t *testing.T) {
	answers := map[string]string{
		"NO":         "%s NO sorry",
		"too few":    "%s OK done",
		"descending": "* 1 FETCH (UID 20)|* 2 FETCH (UID 12)|%s OK done",
		"gap":        "* 2 FETCH (UID 20)|%s OK done",
	}
	for name, a := range answers {
		t.Run(name, func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				c, old := w.selected("anna", 2)
				w.ps.hold("anna", "old")
				for range maxFetches {
					tag, _, _ := strings.Cut(old.line(), " ")
					old.send(strings.ReplaceAll(strings.ReplaceAll(a, "%s", tag), "|", "\r\n") + "\r\n")
					synctest.Wait()
					if name != "too few" {
						break
					}
				}
				w.confirmed(0, 1, "")
				w.ps.activate("anna", "home")
				c.expect("* BYE")
				w.resumed(0, 0, 1, reasonView)
			})
		})
	}
}

// TestViewWithNewsInBetween: mail that comes while the view is learned is told
// and asked for, and flags are news.
func TestViewWithNewsInBetween(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		c, old := w.selected("anna", 2)
		w.ps.hold("anna", "old")
		tag, _, _ := strings.Cut(old.line(), " ")
		old.send("* 1 FETCH (UID 11)\r\n* 2 FETCH (UID 12 FLAGS (\\Seen))\r\n* 1 FETCH (FLAGS (\\Draft))\r\n* 3 EXISTS\r\n" + tag + " OK done\r\n")
		c.expect("* 2 FETCH (UID 12 FLAGS (\\Seen))")
		c.expect("* 1 FETCH (FLAGS (\\Draft))")
		c.expect("* 3 EXISTS")
		tag, rest, _ := strings.Cut(old.line(), " ")
		if rest != "FETCH 3:* (UID)" {
			t.Errorf("got %q", rest)
		}
		old.send("* 3 FETCH (UID 40)\r\n" + tag + " OK done\r\n")
		w.confirmed(1, 0, "")
		w.ps.activate("anna", "home")
		_, cmd := w.resumes("OK [RESUMED]")
		if !strings.Contains(cmd, "VIEW 11:12,40") {
			t.Errorf("got %q", cmd)
		}
		w.resumed(1, 0, 0)
	})
}

func TestFlipRefused(t *testing.T) {
	tests := map[string]struct {
		prepare func(*world)
		answer  string
		why     reason
	}{
		"mismatch":      {nil, "NO [CANNOT] other UIDVALIDITY", reasonRefused},
		"bad":           {nil, "BAD what", reasonRefused},
		"unreachable":   {func(w *world) { w.con.fail(backend.NewError(backend.KindUnavailable, "x")) }, "", reasonConnect},
		"no answer":     {nil, "-", reasonConnect},
		"foreign store": {func(w *world) { w.ps.activate("anna", "old2") }, "", reasonForeign},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				c, old := w.selected("anna", 1)
				w.ps.hold("anna", "old")
				answerView(old, 11)
				w.confirmed(1, 0, "")
				if tc.prepare != nil {
					tc.prepare(w)
				}
				if name != "foreign store" {
					w.ps.activate("anna", "home")
				}
				switch tc.answer {
				case "":
				case "-":
					w.backend().line()
				default:
					w.resumes(tc.answer)
				}
				c.expect("* BYE [UNAVAILABLE]")
				c.end()
				old.end()
				w.resumed(0, 0, 1, tc.why)
			})
		})
	}
}

// TestFlipWithASavedSearch: what "$" stands for goes along.
func TestFlipWithASavedSearch(t *testing.T) {
	for name, tc := range map[string]struct{ answer, want string }{
		"some":    {"* 2 FETCH (UID 12)|* 4 FETCH (UID 14)|* 5 FETCH (UID 15)|%s OK", "VIEW 11:15 SAVED 12,14:15)"},
		"nothing": {"%s OK", "VIEW 11:15)"},
		"refused": {"%s BAD what is $", ""},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(o *Options) { o.Groups = nil }, func(w *world) {
				c, old := w.selected("anna", 5)
				w.ask(c, old, "x SEARCH RETURN (SAVE) UNSEEN", "x OK done")
				w.ps.hold("anna", "old")
				tag, rest, _ := strings.Cut(old.line(), " ")
				if rest != "FETCH $ (UID)" {
					t.Errorf("got %q", rest)
				}
				old.send(strings.ReplaceAll(strings.ReplaceAll(tc.answer, "%s", tag), "|", "\r\n") + "\r\n")
				if tc.want == "" {
					w.confirmed(0, 1, "")
					w.ps.activate("anna", "home")
					c.expect("* BYE")
					w.resumed(0, 0, 1, reasonSaved)
					return
				}
				answerView(old, 11, 12, 13, 14, 15)
				w.confirmed(1, 0, "")
				w.ps.activate("anna", "home")
				b, cmd := w.resumes("OK [RESUMED]")
				if !strings.HasSuffix(cmd, tc.want) {
					t.Errorf("got %q", cmd)
				}
				w.resumed(1, 0, 0)
				w.goesOn(c, b)
			})
		})
	}
}
