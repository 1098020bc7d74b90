package main

import (
	"bytes"
	"fmt"
	"math/rand"
	"sync/atomic"
	"time"
)

const internalLayout = "02-Jan-2006 15:04:05 -0700"

// arrival spreads INTERNALDATEs: one message per quarter of an hour.
func arrival(i int) string {
	base := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	return base.Add(time.Duration(i) * 15 * time.Minute).Format(internalLayout)
}

func cmdAppend(args []string) error {
	c := newCommon("append")
	conns := c.fs.Int("c", 1, "concurrent connections, each for its own user")
	n := c.fs.Int("n", 1000, "messages in all (0: until -t)")
	t := c.fs.Duration("t", 0, "duration")
	multi := c.fs.Int("multi", 1, "messages per APPEND command (MULTIAPPEND when > 1)")
	box := c.fs.String("box", "INBOX", "mailbox")
	create := c.fs.Bool("create", false, "CREATE the mailbox first (failure ignored)")
	syncLit := c.fs.Bool("sync-literal", false, "use synchronising literals even if LITERAL+ is offered")
	seen := c.fs.Int("seen-pct", 50, "per cent of messages appended with \\Seen")
	upTo := c.fs.Bool("up-to", false, "-n is the number each connection's mailbox shall hold in the end")
	if err := c.fs.Parse(args); err != nil {
		return err
	}
	co, err := c.loadCorpus()
	if err != nil {
		return err
	}
	var e errs
	var l lat
	var msgs, by atomic.Int64
	cs := make([]*imapConn, *conns)
	have := make([]int, *conns)
	for w := range cs {
		i, err := c.imapUser(w)
		if err != nil {
			return err
		}
		if *create {
			i.cmd(nil, "CREATE %s", quote(*box))
		}
		if *multi > 1 && !i.has("MULTIAPPEND") {
			return fmt.Errorf("server does not offer MULTIAPPEND")
		}
		if *upTo {
			if err := i.cmd(nil, "SELECT %s", quote(*box)); err != nil {
				return err
			}
			have[w] = i.exists
			if err := i.cmd(nil, "CLOSE"); err != nil {
				return err
			}
		}
		cs[w] = i
	}
	total := *n
	if *upTo {
		total = 0
	}
	b := newBudget(total, *t)
	m := c.startMeter()
	parallel(*conns, func(w int) {
		i := cs[w]
		plus := !*syncLit && i.has("LITERAL+")
		mine := have[w]
		for {
			var group []int
			for len(group) < *multi {
				if *upTo {
					if mine >= *n || *t > 0 && time.Now().After(b.until) {
						break
					}
					group = append(group, mine)
					mine++
					continue
				}
				k, ok := b.take()
				if !ok {
					break
				}
				group = append(group, k)
			}
			if len(group) == 0 {
				break
			}
			t0 := time.Now()
			size, err := i.appendMsgs(*box, co, group, plus, *seen)
			if err != nil {
				e.add(err)
				if _, ok := err.(imapError); !ok {
					break
				}
				continue
			}
			l.add(time.Since(t0))
			msgs.Add(int64(len(group)))
			by.Add(size)
		}
	})
	r := c.newResult("append")
	wall := m.stop(r).Seconds()
	for _, i := range cs {
		i.logout()
	}
	r["conns"], r["multi"], r["messages"], r["bytes"] = *conns, *multi, msgs.Load(), by.Load()
	r["mb_s"] = round(float64(by.Load()) / 1e6 / wall)
	r["command"] = l.summary()
	perMsg(r, msgs.Load())
	e.into(r)
	r.primary("appends/s", float64(msgs.Load())/wall, "/s", "higher")
	return r.print()
}

func (i *imapConn) appendMsgs(box string, co *corpus, group []int, plus bool, seenPct int) (int64, error) {
	i.c.SetDeadline(time.Now().Add(i.timeout))
	i.tag++
	tag := fmt.Sprintf("a%d", i.tag)
	fmt.Fprintf(i.w, "%s APPEND %s", tag, quote(box))
	var size int64
	for _, k := range group {
		m := co.msg(k)
		id := co.idLine(k)
		n := len(id) + len(m.rest)
		size += int64(n)
		flags := "()"
		if k*37%100 < seenPct {
			flags = "(\\Seen)"
		}
		p := ""
		if plus {
			p = "+"
		}
		fmt.Fprintf(i.w, " %s \"%s\" {%d%s}\r\n", flags, arrival(k), n, p)
		if !plus {
			if err := i.w.Flush(); err != nil {
				return 0, err
			}
			if err := i.plus(); err != nil {
				return 0, err
			}
		}
		i.w.WriteString(id)
		i.w.Write(m.rest)
	}
	i.w.WriteString("\r\n")
	if err := i.w.Flush(); err != nil {
		return 0, err
	}
	return size, i.wait(tag, nil)
}

func cmdFetch(args []string) error {
	c := newCommon("fetch")
	mode := c.fs.String("mode", "body", "body: random UID FETCH BODY.PEEK[]; all: every message once by UID FETCH BODY.PEEK[]; list: FETCH 1:* of -items")
	conns := c.fs.Int("c", 1, "concurrent connections, each for its own user")
	box := c.fs.String("box", "INBOX", "mailbox")
	n := c.fs.Int("n", 0, "fetches in all (0: until -t)")
	t := c.fs.Duration("t", 0, "duration")
	items := c.fs.String("items", "(FLAGS UID RFC822.SIZE INTERNALDATE ENVELOPE)", "items in mode list")
	reps := c.fs.Int("reps", 1, "repetitions in mode list, on a fresh connection each")
	cold := c.fs.Bool("cold", false, "drop the page cache before each list, or before the run")
	chunk := c.fs.Int("chunk", 1, "messages per FETCH command in mode all")
	if err := c.fs.Parse(args); err != nil {
		return err
	}
	if *mode == "list" {
		return c.fetchList(*box, *items, *conns, *reps, *cold)
	}
	if *n == 0 && *t == 0 && *mode == "body" {
		*t = 10 * time.Second
	}
	cs := make([]*imapConn, *conns)
	us := make([][]uint32, *conns)
	for w := range cs {
		i, err := c.imapUser(w)
		if err != nil {
			return err
		}
		if err := i.cmd(nil, "SELECT %s", quote(*box)); err != nil {
			return err
		}
		if us[w], err = i.uids(); err != nil {
			return err
		}
		i.nbytes = 0
		cs[w] = i
	}
	r := c.newResult("fetch")
	r["mode"], r["conns"], r["cold"] = *mode, *conns, false
	if *cold {
		r["cold"] = dropCaches()
	}
	var e errs
	var l lat
	var got atomic.Int64
	b := newBudget(*n, *t)
	m := c.startMeter()
	parallel(*conns, func(w int) {
		rng := rand.New(rand.NewSource(c.seed*1000 + int64(w)))
		i := cs[w]
		next := 0
		for {
			var set string
			if *mode == "all" {
				if next >= len(us[w]) {
					break
				}
				end := min(next+*chunk, len(us[w]))
				set = fmt.Sprint(us[w][next])
				if end-next > 1 {
					set += fmt.Sprintf(":%d", us[w][end-1])
				}
				next = end
			} else {
				if _, ok := b.take(); !ok {
					break
				}
				set = fmt.Sprint(us[w][rng.Intn(len(us[w]))])
			}
			t0 := time.Now()
			cnt := 0
			err := i.cmd(func(l []byte) {
				if bytes.Contains(l, []byte(" FETCH (")) {
					cnt++
				}
			}, "UID FETCH %s (BODY.PEEK[])", set)
			if err == nil && cnt == 0 {
				err = fmt.Errorf("uid %s: no FETCH response", set)
			}
			if err != nil {
				e.add(err)
				break
			}
			l.add(time.Since(t0))
			got.Add(int64(cnt))
		}
	})
	wall := m.stop(r).Seconds()
	var by int64
	for _, i := range cs {
		by += i.nbytes
		i.logout()
	}
	r["messages"], r["bytes"], r["mb_s"] = got.Load(), by, round(float64(by)/1e6/wall)
	r["command"] = l.summary()
	perMsg(r, got.Load())
	e.into(r)
	r.primary("messages fetched/s", float64(got.Load())/wall, "/s", "higher")
	return r.print()
}

func (c *common) fetchList(box, items string, conns, reps int, cold bool) error {
	r := c.newResult("fetch")
	r["mode"], r["conns"], r["items"], r["cold"] = "list", conns, items, false
	var e errs
	var l, first, both lat
	var by, msgs atomic.Int64
	m := c.startMeter()
	for k := 0; k < reps; k++ {
		if cold {
			r["cold"] = dropCaches()
		}
		parallel(conns, func(w int) {
			i, err := c.imapUser(w)
			if err != nil {
				e.add(err)
				return
			}
			defer i.logout()
			ts := time.Now()
			if err := i.cmd(nil, "SELECT %s", quote(box)); err != nil {
				e.add(err)
				return
			}
			i.nbytes = 0
			cnt := 0
			t0 := time.Now()
			err = i.cmd(func(l []byte) {
				if cnt == 0 {
					first.add(time.Since(t0))
				}
				if bytes.Contains(l, []byte(" FETCH (")) {
					cnt++
				}
			}, "FETCH 1:* %s", items)
			if err != nil {
				e.add(err)
				return
			}
			l.add(time.Since(t0))
			both.add(time.Since(ts))
			by.Add(i.nbytes)
			msgs.Add(int64(cnt))
		})
	}
	m.stop(r)
	r["first_response"] = first.summary()
	r["command"] = l.summary()
	r["messages"], r["bytes"] = msgs.Load(), by.Load()
	perMsg(r, msgs.Load())
	e.into(r)
	r["select_and_fetch"] = both.summary()
	r.primary("SELECT + FETCH p50", ms(both.quantile(.5)), "ms", "lower")
	return r.print()
}

func cmdStore(args []string) error {
	c := newCommon("store-flags")
	box := c.fs.String("box", "INBOX", "mailbox")
	flag := c.fs.String("flag", "\\Flagged", "flag to set and clear")
	silent := c.fs.Bool("silent", false, "use .SILENT")
	reps := c.fs.Int("reps", 3, "times to set and clear")
	each := c.fs.Int("each", 0, "instead of 1:*, store on this many single messages, one command each")
	if err := c.fs.Parse(args); err != nil {
		return err
	}
	i, err := c.imapUser(0)
	if err != nil {
		return err
	}
	if err := i.cmd(nil, "SELECT %s", quote(*box)); err != nil {
		return err
	}
	s := ""
	if *silent {
		s = ".SILENT"
	}
	i.cmd(nil, "STORE 1:* -FLAGS.SILENT (%s)", *flag)
	var e errs
	var set, clear lat
	var changed atomic.Int64
	r := c.newResult("store-flags")
	m := c.startMeter()
	one := func(seq, sign string, l *lat) {
		t0 := time.Now()
		err := i.cmd(func(b []byte) {
			if bytes.Contains(b, []byte(" FETCH (")) {
				changed.Add(1)
			}
		}, "STORE %s %sFLAGS%s (%s)", seq, sign, s, *flag)
		if err != nil {
			e.add(err)
			return
		}
		l.add(time.Since(t0))
	}
	ops := int64(0)
	if *each > 0 {
		for k := 0; k < *each; k++ {
			one(fmt.Sprint(1+k*7919%i.exists), "+", &set)
			ops++
		}
	} else {
		for k := 0; k < *reps; k++ {
			one("1:*", "+", &set)
			one("1:*", "-", &clear)
			ops += 2
		}
	}
	m.stop(r)
	exists := i.exists
	i.logout()
	r["exists"], r["changed"], r["set"], r["clear"], r["silent"] = exists, changed.Load(), set.summary(), clear.summary(), *silent
	perMsg(r, ops)
	e.into(r)
	if *each > 0 {
		r.primary("STORE one message p50", ms(set.quantile(.5)), "ms", "lower")
	} else {
		r.primary("STORE 1:* p50", ms(set.quantile(.5)), "ms", "lower")
	}
	return r.print()
}

func cmdSelect(args []string) error {
	c := newCommon("select")
	box := c.fs.String("box", "INBOX", "mailbox")
	reps := c.fs.Int("n", 50, "SELECTs")
	fresh := c.fs.Bool("fresh", false, "a fresh connection for each; the latency is that of SELECT alone")
	cold := c.fs.Bool("cold", false, "drop the page cache before each (implies -fresh)")
	qresync := c.fs.Bool("qresync", false, "SELECT with QRESYNC from the current state")
	if err := c.fs.Parse(args); err != nil {
		return err
	}
	var e errs
	var l lat
	exists := 0
	r := c.newResult("select")
	r["cold"] = false
	var i *imapConn
	var err error
	arg := ""
	m := c.startMeter()
	for k := 0; k < *reps; k++ {
		if *cold {
			r["cold"] = dropCaches()
		}
		if i == nil {
			if i, err = c.imapUser(0); err != nil {
				return err
			}
			if *qresync {
				if err := i.cmd(nil, "ENABLE QRESYNC"); err != nil {
					return err
				}
			}
		}
		if *qresync && arg == "" {
			var uv, hm string
			grab := func(b []byte, key string) string {
				p := bytes.Index(b, []byte(key))
				if p < 0 {
					return ""
				}
				rest := b[p+len(key):]
				return string(rest[:bytes.IndexByte(rest, ']')])
			}
			i.cmd(func(b []byte) {
				if s := grab(b, "[UIDVALIDITY "); s != "" {
					uv = s
				}
				if s := grab(b, "[HIGHESTMODSEQ "); s != "" {
					hm = s
				}
			}, "SELECT %s", quote(*box))
			arg = fmt.Sprintf(" (QRESYNC (%s %s))", uv, hm)
			i.cmd(nil, "CLOSE")
		}
		t0 := time.Now()
		if err := i.cmd(nil, "SELECT %s%s", quote(*box), arg); err != nil {
			e.add(err)
			break
		}
		l.add(time.Since(t0))
		exists = i.exists
		if *fresh || *cold {
			i.logout()
			i = nil
		} else if err := i.cmd(nil, "CLOSE"); err != nil {
			e.add(err)
			break
		}
	}
	m.stop(r)
	if i != nil {
		i.logout()
	}
	r["exists"], r["fresh"], r["command"] = exists, *fresh || *cold, l.summary()
	perMsg(r, int64(*reps))
	e.into(r)
	r.primary("SELECT p50", ms(l.quantile(.5)), "ms", "lower")
	return r.print()
}
