package main

import (
	"bytes"
	"strings"
	"time"
)

func cmdSearch(args []string) error {
	c := newCommon("search")
	box := c.fs.String("box", "INBOX", "mailbox")
	reps := c.fs.Int("reps", 3, "repetitions of each key")
	cold := c.fs.Bool("cold", false, "drop the page cache before each search")
	keys := c.fs.String("keys", `FROM "linux";SUBJECT "spam";TEXT "viagra";BODY "debian";SINCE 1-Mar-2024;UNSEEN;TEXT "zzqqnotthere"`, "search keys, separated by ;; a key that starts with SORT or THREAD is a command of its own")
	if err := c.fs.Parse(args); err != nil {
		return err
	}
	for _, key := range strings.Split(*keys, ";") {
		r := c.newResult("search")
		r["case"] = c.kase + " " + key
		r["key"], r["cold"] = key, false
		var e errs
		var l lat
		hits, exists := 0, 0
		i, err := c.imapUser(0)
		if err != nil {
			return err
		}
		if err := i.cmd(nil, "SELECT %s", quote(*box)); err != nil {
			return err
		}
		exists = i.exists
		m := c.startMeter()
		for k := 0; k < *reps; k++ {
			if *cold {
				r["cold"] = dropCaches()
			}
			hits = 0
			cmd := key
			if !strings.HasPrefix(key, "SORT ") && !strings.HasPrefix(key, "THREAD ") {
				cmd = "SEARCH " + key
			}
			t0 := time.Now()
			err := i.cmd(func(l []byte) {
				switch {
				case bytes.HasPrefix(l, []byte("* SEARCH")), bytes.HasPrefix(l, []byte("* SORT")):
					hits += len(bytes.Fields(l)) - 2
				case bytes.HasPrefix(l, []byte("* THREAD")):
					hits += bytes.Count(l, []byte{'('}) // threads and branches
				}
			}, "%s", cmd)
			if err != nil {
				e.add(err)
				break
			}
			l.add(time.Since(t0))
		}
		m.stop(r)
		i.logout()
		r["hits"], r["exists"] = hits, exists
		r["command"] = l.summary()
		perMsg(r, int64(*reps))
		e.into(r)
		r.primary("search p50", ms(l.quantile(.5)), "ms", "lower")
		if err := r.print(); err != nil {
			return err
		}
	}
	return nil
}
