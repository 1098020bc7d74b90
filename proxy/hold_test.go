package proxy

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mailferry/backend"
)

// resumes answers RESUME on the new store and returns the command.
func (w *world) resumes(answer string) (b *peer, cmd string) {
	w.t.Helper()
	b = w.backend()
	cmd = b.line()
	tag, rest, _ := strings.Cut(cmd, " ")
	b.sendLine("%s %s", tag, answer)
	return b, rest
}

func (w *world) confirmed(frozen, closing int, refused string) {
	w.t.Helper()
	c := <-w.ps.confirmed
	if c.Node != "n1" || c.Frozen != frozen || c.Closing != closing || !strings.Contains(c.Refused, refused) || refused == "" && c.Refused != "" {
		w.t.Fatalf("confirmation %+v, want %d frozen, %d closing, refused %q", c, frozen, closing, refused)
	}
}

func (w *world) resumed(attached, resumed, closed int, reasons ...reason) {
	w.t.Helper()
	r := <-w.ps.resumed
	if r.Attached != attached || r.Resumed != resumed || r.Closed != closed {
		w.t.Fatalf("report %+v, want %d attached, %d resumed, %d closed", r, attached, resumed, closed)
	}
	for i, why := range reasons {
		if i >= len(r.Reasons) || r.Reasons[i] != string(why) {
			w.t.Fatalf("reasons %v, want %v", r.Reasons, reasons)
		}
	}
	if len(r.Pauses) < attached+resumed {
		w.t.Fatalf("pauses %v", r.Pauses)
	}
}

// goesOn checks that client and store hear each other.
func (w *world) goesOn(c, b *peer) {
	w.t.Helper()
	w.ask(c, b, "go1 NOOP", "* 9 RECENT", "go1 OK done")
	w.ask(c, b, "go2 FETCH 1 (FLAGS)", "* 1 FETCH (FLAGS ())", "go2 OK done")
}

func TestHoldOfNobody(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.ps.hold("nemo", "old")
		w.confirmed(0, 0, "")
		w.ps.activate("nemo", "home")
		w.resumed(0, 0, 0)
	})
}

func TestFlipAuthenticated(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		c, old := w.login("anna")
		w.ps.hold("anna", "old")
		w.confirmed(1, 0, "")
		old.silent()
		w.ps.activate("anna", "home")
		b, cmd := w.resumes("OK [RESUMED] go on")
		if cmd != "RESUME NIL (ENABLED ())" {
			t.Errorf("got %q", cmd)
		}
		w.resumed(1, 0, 0)
		old.end()
		w.goesOn(c, b)
		if r := w.con.asked[1]; r.Route.Store.Name != "home" || r.CheckPassword || r.Password != "" {
			t.Errorf("asked for %+v", r)
		}
	})
}

func TestFlipSelected(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		c, old := w.selected("anna", 3)
		w.ask(c, old, "e ENABLE CONDSTORE", "* ENABLED CONDSTORE", "e OK done")
		w.ps.hold("anna", "old")
		answerView(old, 11, 12, 20)
		w.confirmed(1, 0, "")
		c.sendLine("n1 NOOP") // waits
		w.ps.activate("anna", "home")
		b, cmd := w.resumes("OK [RESUMED] go on")
		if want := "RESUME INBOX (UIDVALIDITY 77 MODSEQ 99 VIEW 11:12,20 ENABLED (CONDSTORE))"; cmd != want {
			t.Errorf("got  %q\nwant %q", cmd, want)
		}
		b.expect("n1 NOOP")
		b.send("* 4 EXISTS\r\nn1 OK done\r\n")
		c.expect("* 4 EXISTS")
		c.expect("n1 OK")
		w.resumed(1, 0, 0)
		old.end()
		w.goesOn(c, b)
	})
}

func TestFlipExaminedAndEmpty(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		c, old := w.login("anna")
		w.ask(c, old, "s EXAMINE \"a b\"", "* 0 EXISTS", "* OK [UIDVALIDITY 7] x", "s OK [READ-ONLY] done")
		w.ps.hold("anna", "old")
		w.confirmed(1, 0, "")
		w.ps.activate("anna", "home")
		b, cmd := w.resumes("OK [RESUMED] go on")
		if want := `RESUME "a b" (UIDVALIDITY 7 MODSEQ 0 READONLY)`; cmd != want {
			t.Errorf("got  %q\nwant %q", cmd, want)
		}
		w.resumed(1, 0, 0)
		w.goesOn(c, b)
	})
}

// TestFlipInIdle: the client sees nothing but its news.
func TestFlipInIdle(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		c, old := w.selected("anna", 2)
		w.ask(c, old, "i IDLE", "+ idling")
		w.ps.hold("anna", "old")
		old.expect("DONE")
		old.send("* 3 EXISTS\r\ni OK done\r\n") // news before the end
		c.expect("* 3 EXISTS")
		answerView(old, 11, 12, 13)
		w.confirmed(1, 0, "")
		w.ps.activate("anna", "home")
		b, cmd := w.resumes("OK [RESUMED] go on")
		if !strings.Contains(cmd, "VIEW 11:13)") {
			t.Errorf("got %q", cmd)
		}
		b.expect("i IDLE")
		b.sendLine("+ idling again")
		b.sendLine("* 4 EXISTS")
		c.expect("* 4 EXISTS")
		w.resumed(1, 0, 0)
		c.sendLine("DONE")
		b.expect("DONE")
		b.sendLine("i OK done")
		c.expect("i OK done")
		w.goesOn(c, b)
	})
}

// TestFlipWithDoneUnderWay: the client ends IDLE during the hold.
func TestFlipWithDoneUnderWay(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		c, old := w.selected("anna", 1)
		w.ask(c, old, "i IDLE", "+ idling")
		w.ps.hold("anna", "old")
		old.expect("DONE")
		c.send("DONE\r\nx NOOP\r\n")
		old.sendLine("i OK done")
		answerView(old, 11)
		w.confirmed(1, 0, "")
		c.silent()
		w.ps.activate("anna", "home")
		b, _ := w.resumes("OK [RESUMED] go on")
		b.expect("i IDLE")
		b.silent() // DONE waits for the continuation
		b.sendLine("+ idling")
		b.expect("DONE")
		b.sendLine("i OK done")
		b.expect("x NOOP")
		b.sendLine("x OK done")
		c.expect("i OK done")
		c.expect("x OK done")
		w.resumed(1, 0, 0)
	})
}

// TestHoldWaitsForCommands: what is in flight ends at the old store, what comes
// later waits for the new one.
func TestHoldWaitsForCommands(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		c, old := w.selected("anna", 1)
		c.send("a FETCH 1 BODY[]\r\nb STORE 1 +FLAGS (x)\r\n")
		old.expect("a FETCH")
		old.expect("b STORE")
		old.send("* 1 FETCH (BODY[] {6}\r\nab")
		w.ps.hold("anna", "old")
		synctest.Wait()
		c.sendLine("d NOOP")
		synctest.Wait()
		old.silent()
		old.send("\r\nc)\r\na OK done\r\nb OK done\r\n")
		answerViewAfter(c, old)
		w.confirmed(1, 0, "")
		w.ps.activate("anna", "home")
		b, _ := w.resumes("OK [RESUMED] go on")
		b.expect("d NOOP")
		b.sendLine("d OK done")
		c.expect("d OK")
		w.resumed(1, 0, 0)
	})
}

func answerViewAfter(c, old *peer) {
	c.t.Helper()
	for _, l := range []string{"* 1 FETCH (BODY[] {6}", "ab", "c)", "a OK", "b OK"} {
		c.expect(l)
	}
	answerView(old, 11)
}

// TestHoldInTheMiddleOfAnAppend: the literal goes on, and the command is
// answered, before the session rests.
func TestHoldInTheMiddleOfAnAppend(t *testing.T) {
	for _, form := range []string{"{10}", "{10+}"} {
		t.Run(form, func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				c, old := w.login("anna")
				c.send("a APPEND INBOX " + form + "\r\n")
				old.expect("a APPEND INBOX " + form)
				if form == "{10}" {
					old.sendLine("+ go")
					c.expect("+ go")
				}
				c.send("01234")
				w.ps.hold("anna", "old")
				synctest.Wait()
				c.send("56789\r\nb NOOP\r\n")
				old.expect("0123456789")
				synctest.Wait()
				old.silent()
				old.sendLine("a OK [APPENDUID 1 2] done")
				c.expect("a OK")
				w.confirmed(1, 0, "")
				w.ps.activate("anna", "home")
				b, _ := w.resumes("OK [RESUMED] go on")
				b.expect("b NOOP")
				b.sendLine("b OK")
				c.expect("b OK")
				w.resumed(1, 0, 0)
			})
		})
	}
}

func TestAbort(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		idler, idle := w.selected("anna", 1)
		w.ask(idler, idle, "i IDLE", "+ idling")
		reader, read := w.selected("anna", 2)
		auth, bare := w.login("anna")
		other, theirs := w.login("bernd")
		w.ps.hold("anna", "old")
		idle.expect("DONE")
		idle.sendLine("i OK done")
		answerView(idle, 11)
		answerView(read, 11, 12)
		w.confirmed(3, 0, "")
		reader.sendLine("w NOOP")
		w.goesOn(other, theirs) // nobody else is touched
		w.ps.activate("anna", "old")
		idle.expect("i IDLE")
		idle.sendLine("+ idling")
		idle.sendLine("* 2 EXISTS")
		idler.expect("* 2 EXISTS")
		read.expect("w NOOP")
		read.sendLine("w OK")
		reader.expect("w OK")
		w.goesOn(auth, bare)
		w.resumed(0, 3, 0)
		idler.sendLine("DONE")
		idle.expect("DONE")
		idle.sendLine("i OK done")
		idler.expect("i OK")
		// And once more: nothing is left of the first hold.
		w.ps.hold("anna", "old")
		answerView(idle, 11, 12)
		answerView(read, 11, 12)
		w.confirmed(3, 0, "")
		w.ps.activate("anna", "home")
		for range 3 {
			w.resumes("OK [RESUMED] go on")
		}
		w.resumed(3, 0, 0)
	})
}

// TestHoldRefusedByALongCommand: twice the user's hold is refused, the third
// time that session goes.
func TestHoldRefusedByALongCommand(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		c, old := w.selected("anna", 1)
		c.sendLine("a SEARCH TEXT x")
		old.expect("a SEARCH")
		for range 2 {
			begin := time.Now()
			w.ps.hold("anna", "old")
			w.confirmed(0, 0, "SEARCH runs for more than 2s")
			if d := time.Since(begin); d != 2*time.Second {
				t.Errorf("confirmed after %v", d)
			}
			w.ps.activate("anna", "old")
			w.resumed(0, 1, 0)
		}
		w.ps.hold("anna", "old")
		c.expect("* BYE [UNAVAILABLE]")
		c.end()
		old.end()
		w.confirmed(0, 0, "")
		w.ps.activate("anna", "home")
		w.resumed(0, 0, 0)
	})
}

func TestHoldRefusedThenTheCommandEnds(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		c, old := w.selected("anna", 1)
		c.sendLine("a SEARCH TEXT x")
		old.expect("a SEARCH")
		w.ps.hold("anna", "old")
		w.confirmed(0, 0, "SEARCH")
		old.sendLine("a OK done") // after the refusal, before the table's word
		c.expect("a OK")
		answerView(old, 11)
		w.ps.activate("anna", "old")
		w.resumed(0, 1, 0)
		w.goesOn(c, old)
	})
}

func TestLoginWaitsForTheHold(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.ps.hold("anna", "old")
		w.confirmed(0, 0, "")
		c := w.client()
		c.sendLine("l LOGIN anna secret")
		time.Sleep(3 * time.Second) // fake time
		c.silent()
		w.ps.activate("anna", "home")
		b := w.backend()
		c.expect("l OK")
		w.goesOn(c, b)
		if s := w.con.asked[0].Route.Store.Name; s != "home" || len(w.con.asked) != 1 {
			t.Errorf("connected to %s, %d times", s, len(w.con.asked))
		}
		r := <-w.ps.resumed
		if len(r.Pauses) != 1 || r.Pauses[0] < 3*time.Second {
			t.Errorf("pauses %v", r.Pauses)
		}
	})
}

func TestLoginWaitsForTheHoldInVain(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.ps.hold("anna", "old")
		c := w.client()
		begin := time.Now()
		c.sendLine("l LOGIN anna secret")
		c.expect("l NO [UNAVAILABLE]")
		if d := time.Since(begin); d != 10*time.Second {
			t.Errorf("after %v", d)
		}
		w.ps.activate("anna", "old")
		c.sendLine("m LOGIN anna secret")
		c.expect("m OK")
	})
}

// TestLoginAfterARestartDuringAHold: the table says so, no news came.
func TestLoginAfterARestartDuringAHold(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.ps.known["anna"] = backend.Placement{User: "anna", State: backend.PlacementHolding, Store: "old", Epoch: 5}
		c := w.client()
		c.sendLine("l LOGIN anna secret")
		synctest.Wait()
		c.silent()
		w.ps.activate("anna", "home")
		w.backend()
		c.expect("l OK")
	})
}

// TestHoldDuringALogin: a login that is connecting to the old store lets go and
// waits.
func TestHoldDuringALogin(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.con.answer = make(chan struct{})
		c := w.client()
		c.sendLine("l LOGIN anna secret")
		synctest.Wait()
		w.ps.hold("anna", "old")
		w.confirmed(0, 0, "")
		close(w.con.answer)
		synctest.Wait()
		c.silent()
		if len(w.con.conns) > 0 {
			t.Fatal("a connection to the old store was made during the hold")
		}
		w.ps.activate("anna", "home")
		b := w.backend()
		c.expect("l OK")
		w.goesOn(c, b)
	})
}

// TestEndsDuringTheHold: whoever goes away is gone, and nobody waits for it.
func TestEndsDuringTheHold(t *testing.T) {
	t.Run("client", func(t *testing.T) {
		inWorld(t, nil, func(w *world) {
			c, old := w.selected("anna", 1)
			w.ps.hold("anna", "old")
			answerView(old, 11)
			w.confirmed(1, 0, "")
			c.Close()
			old.end()
			synctest.Wait()
			w.ps.activate("anna", "home")
			w.resumed(0, 0, 0)
		})
	})
	t.Run("store", func(t *testing.T) {
		inWorld(t, nil, func(w *world) {
			c, old := w.selected("anna", 1)
			w.ps.hold("anna", "old")
			old.line()
			old.Close()
			w.confirmed(0, 0, "")
			c.expect("* BYE [UNAVAILABLE]")
			c.end()
			w.ps.activate("anna", "home")
			w.resumed(0, 0, 0)
		})
	})
	t.Run("dead migrator", func(t *testing.T) {
		inWorld(t, nil, func(w *world) {
			c, old := w.selected("anna", 1)
			w.ps.hold("anna", "old")
			answerView(old, 11)
			w.confirmed(1, 0, "")
			time.Sleep(time.Hour) // fake time
			c.silent()
			w.ps.activate("anna", "old")
			w.resumed(0, 1, 0)
			w.goesOn(c, old)
		})
	})
}

// TestFlipThatWasMissed: a session must not stay at the old store although no
// hold was seen.
func TestFlipThatWasMissed(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		c, old := w.selected("anna", 1)
		w.ps.activate("anna", "home")
		answerView(old, 11)
		b, _ := w.resumes("OK [RESUMED] go on")
		w.resumed(1, 0, 0)
		w.goesOn(c, b)
	})
}
