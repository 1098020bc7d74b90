package main

import (
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

func cmdLogin(args []string) error {
	c := newCommon("login")
	conns := c.fs.Int("c", 8, "concurrent clients")
	n := c.fs.Int("n", 0, "logins in all (0: until -t)")
	t := c.fs.Duration("t", 10*time.Second, "duration")
	sel := c.fs.Bool("select", false, "SELECT INBOX after the login")
	if err := c.fs.Parse(args); err != nil {
		return err
	}
	var e errs
	var l lat
	var ops atomic.Int64
	b := newBudget(*n, *t)
	m := c.startMeter()
	parallel(*conns, func(w int) {
		for {
			k, ok := b.take()
			if !ok {
				return
			}
			t0 := time.Now()
			i, err := c.imapUser(k)
			if err != nil {
				e.add(err)
				time.Sleep(20 * time.Millisecond)
				continue
			}
			if *sel {
				if err := i.cmd(nil, "SELECT INBOX"); err != nil {
					e.add(err)
				}
			}
			l.add(time.Since(t0))
			i.logout()
			ops.Add(1)
		}
	})
	r := c.newResult("login")
	wall := m.stop(r).Seconds()
	r["conns"], r["logins"], r["login"] = *conns, ops.Load(), l.summary()
	perMsg(r, ops.Load())
	e.into(r)
	r.primary("logins/s", float64(ops.Load())/wall, "/s", "higher")
	return r.print()
}

func cmdSetup(args []string) error {
	c := newCommon("setup")
	admin := c.fs.String("admin", "cyrus", "administrator's login name")
	adminPass := c.fs.String("admin-pass", "test", "administrator's password")
	format := c.fs.String("create", "user/%s", "mailbox to create for each user; %s is the login name")
	if err := c.fs.Parse(args); err != nil {
		return err
	}
	i, err := c.dialIMAP()
	if err != nil {
		return err
	}
	defer i.logout()
	if err := i.login(*admin, *adminPass); err != nil {
		return err
	}
	var e errs
	for k := 0; k < c.users; k++ {
		if err := i.cmd(nil, "CREATE %s", quote(fmt.Sprintf(*format, c.user(k)))); err != nil && !strings.Contains(err.Error(), "xists") {
			e.add(err)
		}
	}
	r := c.newResult("setup")
	r["mailboxes"] = c.users
	e.into(r)
	return r.print()
}

func cmdBoxstat(args []string) error {
	c := newCommon("boxstat")
	box := c.fs.String("box", "INBOX", "mailbox")
	n := c.fs.Int("n", 1, "number of users to ask")
	if err := c.fs.Parse(args); err != nil {
		return err
	}
	total := 0
	var sizes []int
	for w := 0; w < *n; w++ {
		i, err := c.imapUser(w)
		if err != nil {
			return err
		}
		if err := i.cmd(nil, "EXAMINE %s", quote(*box)); err != nil {
			fmt.Fprintln(os.Stderr, strings.TrimSpace(err.Error()))
		} else {
			total += i.exists
			if len(sizes) < 20 {
				sizes = append(sizes, i.exists)
			}
		}
		i.logout()
	}
	r := c.newResult("boxstat")
	r["box"], r["messages"], r["sizes"] = *box, total, sizes
	return r.print()
}
