package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

func cmdPop3(args []string) error {
	c := newCommon("pop3")
	conns := c.fs.Int("c", 1, "concurrent sessions, each for its own user")
	reps := c.fs.Int("reps", 1, "sessions per user, one after the other")
	cold := c.fs.Bool("cold", false, "drop the page cache first")
	pipeline := c.fs.Int("pipeline", 1, "RETR commands in flight")
	if err := c.fs.Parse(args); err != nil {
		return err
	}
	var e errs
	var login, stat, list, uidl, retr, session lat
	var msgs, by atomic.Int64
	r := c.newResult("pop3")
	r["cold"] = false
	if *cold {
		r["cold"] = dropCaches()
	}
	one := func(w int) error {
		t0 := time.Now()
		nc, err := c.dial(c.pop3Addr)
		if err != nil {
			return err
		}
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(c.timeout))
		p := &popConn{nc, bufio.NewReaderSize(nc, 64<<10), bufio.NewWriter(nc)}
		if _, err := p.ok(); err != nil {
			return err
		}
		if _, err := p.cmd("USER %s", c.user(w)); err != nil {
			return err
		}
		if _, err := p.cmd("PASS %s", c.pass); err != nil {
			return err
		}
		login.add(time.Since(t0))
		t1 := time.Now()
		st, err := p.cmd("STAT")
		if err != nil {
			return err
		}
		stat.add(time.Since(t1))
		f := strings.Fields(st)
		n, _ := strconv.Atoi(f[1])
		for _, q := range []struct {
			name string
			l    *lat
		}{{"LIST", &list}, {"UIDL", &uidl}} {
			t1 = time.Now()
			if _, err := p.cmd(q.name); err != nil {
				return err
			}
			if _, k, err := p.multiline(); err != nil || k != n {
				return fmt.Errorf("%s: %d lines, want %d: %v", q.name, k, n, err)
			}
			q.l.add(time.Since(t1))
		}
		sent := 0
		for k := 1; k <= n; k++ {
			t1 = time.Now()
			for sent < n && sent < k-1+*pipeline {
				sent++
				fmt.Fprintf(p.w, "RETR %d\r\n", sent)
			}
			if err := p.w.Flush(); err != nil {
				return err
			}
			if _, err := p.ok(); err != nil {
				return err
			}
			b, _, err := p.multiline()
			if err != nil {
				return err
			}
			retr.add(time.Since(t1))
			by.Add(b)
			msgs.Add(1)
		}
		p.cmd("QUIT")
		session.add(time.Since(t0))
		return nil
	}
	m := c.startMeter()
	parallel(*conns, func(w int) {
		for k := 0; k < *reps; k++ {
			if err := one(w); err != nil {
				e.add(err)
			}
		}
	})
	wall := m.stop(r).Seconds()
	r["conns"], r["messages"], r["bytes"], r["mb_s"] = *conns, msgs.Load(), by.Load(), round(float64(by.Load())/1e6/wall)
	r["login"], r["stat"], r["list"], r["uidl"], r["retr"], r["session"] = login.summary(), stat.summary(), list.summary(), uidl.summary(), retr.summary(), session.summary()
	perMsg(r, msgs.Load())
	e.into(r)
	r.primary("messages retrieved/s", float64(msgs.Load())/wall, "/s", "higher")
	return r.print()
}

// ---- IDLE ----

type idler struct {
	i    *imapConn
	last atomic.Int64 // highest EXISTS seen
	at   chan time.Time
}

func cmdIdle(args []string) error {
	c := newCommon("idle-notify")
	n := c.fs.Int("n", 100, "idle connections, spread over the users")
	msgs := c.fs.Int("messages", 30, "messages to deliver, one after the other")
	gap := c.fs.Duration("gap", 200*time.Millisecond, "longest pause between a notification and the next delivery (random)")
	wait := c.fs.Duration("wait", 35*time.Second, "give up on a notification after this long")
	if err := c.fs.Parse(args); err != nil {
		return err
	}
	co, err := c.loadCorpus()
	if err != nil {
		return err
	}
	r := c.newResult("idle-notify")
	root := parsePID(c.serverPID)
	var rss0, pss0, priv0 int64
	if root > 0 {
		t := tree(root)
		rss0 = treeRSS(t)
		pss0, priv0 = treePSS(t)
	}
	ids := make([]*idler, *n)
	var e errs
	parallel(8, func(w int) {
		for k := w; k < *n; k += 8 {
			i, err := c.imapUser(k)
			if err != nil {
				e.add(err)
				continue
			}
			if err := i.cmd(nil, "SELECT INBOX"); err != nil {
				e.add(err)
				continue
			}
			i.send("IDLE")
			i.w.Flush()
			if err := i.plus(); err != nil {
				e.add(err)
				continue
			}
			d := &idler{i: i, at: make(chan time.Time, 64)}
			d.last.Store(int64(i.exists))
			ids[k] = d
		}
	})
	for _, d := range ids {
		if d == nil {
			e.into(r)
			r.primary("notification p50", 0, "ms", "lower")
			return r.print()
		}
	}
	if root > 0 {
		time.Sleep(500 * time.Millisecond)
		t := tree(root)
		rss := treeRSS(t)
		pss, priv := treePSS(t)
		r["rss_kb_per_idle"] = round(float64(rss-rss0) / 1024 / float64(*n))
		r["pss_kb_per_idle"] = round(float64(pss-pss0) / 1024 / float64(*n))
		r["private_kb_per_idle"] = round(float64(priv-priv0) / 1024 / float64(*n))
	}
	for _, d := range ids {
		d.i.c.SetDeadline(time.Time{})
		go func(d *idler) {
			for {
				l, err := d.i.line()
				if err != nil {
					return
				}
				now := time.Now()
				if bytes.HasSuffix(l, []byte(" EXISTS\r\n")) {
					v, _ := strconv.ParseInt(string(l[2:len(l)-9]), 10, 64)
					if v > d.last.Load() {
						d.last.Store(v)
						select {
						case d.at <- now:
						default:
						}
					}
				}
			}
		}(d)
	}
	s, err := c.dialSMTP(true)
	if err != nil {
		return err
	}
	rng := rand.New(rand.NewSource(c.seed))
	var fromAck, fromDot lat
	lost := 0
	m := c.startMeter()
	for k := 0; k < *msgs; k++ {
		u := rng.Intn(min(*n, c.users))
		msg := co.msg(k)
		dot := time.Now()
		ack, whole, _, err := s.deliver("sender@load.example", []string{c.rcpt(u)}, co.idLine(k), msg.stuffed, false)
		if err != nil {
			e.add(err)
			break
		}
		acked := dot.Add(whole)
		dot = acked.Add(-ack)
		for j := u; j < *n; j += c.users {
			select {
			case at := <-ids[j].at:
				fromAck.add(max(0, at.Sub(acked)))
				fromDot.add(at.Sub(dot))
			case <-time.After(*wait):
				lost++
			}
		}
		if *gap > 0 {
			time.Sleep(time.Duration(rng.Int63n(int64(*gap))))
		}
	}
	m.stop(r)
	s.quit()
	for _, d := range ids {
		d.i.c.Close()
	}
	r["idle_conns"], r["lost"] = *n, lost
	r["after_ack"], r["after_dot"] = fromAck.summary(), fromDot.summary()
	e.into(r)
	r.primary("EXISTS after ack p50", ms(fromAck.quantile(.5)), "ms", "lower")
	return r.print()
}

// ---- mixed ----

func cmdMixed(args []string) error {
	c := newCommon("mixed")
	clients := c.fs.Int("c", 8, "concurrent clients")
	n := c.fs.Int("n", 0, "sessions (0: until -t)")
	t := c.fs.Duration("t", 20*time.Second, "duration")
	rate := c.fs.Float64("deliver-rate", 20, "messages per second delivered by LMTP meanwhile (0: none)")
	idle := c.fs.Duration("idle", 50*time.Millisecond, "time spent in IDLE in each session")
	newest := c.fs.Int("newest", 30, "newest messages whose headers are fetched")
	if err := c.fs.Parse(args); err != nil {
		return err
	}
	co, err := c.loadCorpus()
	if err != nil {
		return err
	}
	var mu sync.Mutex
	byOp := map[string]*lat{}
	rec := func(op string, d time.Duration) {
		mu.Lock()
		l := byOp[op]
		if l == nil {
			l = &lat{}
			byOp[op] = l
		}
		mu.Unlock()
		l.add(d)
	}
	var e errs
	var sessions, ops, by atomic.Int64
	var whole lat
	session := func(rng *rand.Rand, u int) error {
		t0 := time.Now()
		step := func(op string, f func() error) error {
			t1 := time.Now()
			if err := f(); err != nil {
				return fmt.Errorf("%s: %w", op, err)
			}
			rec(op, time.Since(t1))
			ops.Add(1)
			return nil
		}
		var i *imapConn
		if err := step("login", func() (err error) { i, err = c.imapUser(u); return }); err != nil {
			return err
		}
		defer func() { by.Add(i.nbytes); i.c.Close() }()
		simple := func(op, format string, a ...any) error {
			return step(op, func() error { return i.cmd(nil, format, a...) })
		}
		if err := simple("list", `LIST "" "*"`); err != nil {
			return err
		}
		if err := simple("status", `STATUS INBOX (MESSAGES UNSEEN UIDNEXT)`); err != nil {
			return err
		}
		if err := simple("select", "SELECT INBOX"); err != nil {
			return err
		}
		if i.exists == 0 {
			i.logout()
			return nil
		}
		from := max(1, i.exists-*newest+1)
		var uids []uint32
		err := step("headers", func() error {
			return i.cmd(func(l []byte) {
				if p := bytes.Index(l, []byte("UID ")); p > 0 {
					v := uint32(0)
					for _, ch := range l[p+4:] {
						if ch < '0' || ch > '9' {
							break
						}
						v = v*10 + uint32(ch-'0')
					}
					uids = append(uids, v)
				}
			}, "FETCH %d:* (UID FLAGS RFC822.SIZE INTERNALDATE BODY.PEEK[HEADER.FIELDS (Date From To Cc Subject Message-ID References Content-Type)])", from)
		})
		if err != nil {
			return err
		}
		for k := 0; k < 2 && len(uids) > 0; k++ {
			uid := uids[rng.Intn(len(uids))]
			if err := simple("structure", "UID FETCH %d (BODYSTRUCTURE)", uid); err != nil {
				return err
			}
			if err := simple("body", "UID FETCH %d (BODY.PEEK[])", uid); err != nil {
				return err
			}
			if err := simple("flag", "UID STORE %d +FLAGS.SILENT (\\Seen)", uid); err != nil {
				return err
			}
		}
		if rng.Intn(5) == 0 {
			if err := simple("search", "UID SEARCH UNSEEN"); err != nil {
				return err
			}
		}
		if rng.Intn(10) == 0 {
			i.cmd(nil, "CREATE Sent")
			k := rng.Intn(1 << 20)
			err := step("append", func() error {
				_, err := i.appendMsgs("Sent", co, []int{k}, i.has("LITERAL+"), 100)
				return err
			})
			if err != nil {
				return err
			}
		}
		if rng.Intn(10) == 0 && i.has("MOVE") && len(uids) > 10 {
			i.cmd(nil, "CREATE Trash")
			if err := simple("move", "UID MOVE %d Trash", uids[0]); err != nil {
				return err
			}
		}
		if *idle > 0 && i.has("IDLE") {
			err := step("idle", func() error {
				tag := i.send("IDLE")
				i.w.Flush()
				if err := i.plus(); err != nil {
					return err
				}
				time.Sleep(*idle)
				i.w.WriteString("DONE\r\n")
				i.w.Flush()
				return i.wait(tag, nil)
			})
			if err != nil {
				return err
			}
		}
		if err := simple("logout", "LOGOUT"); err != nil && err != io.EOF {
			return err
		}
		whole.add(time.Since(t0))
		sessions.Add(1)
		return nil
	}
	b := newBudget(*n, *t)
	stop := make(chan struct{})
	var delivered atomic.Int64
	var ack lat
	var bg sync.WaitGroup
	m := c.startMeter()
	if *rate > 0 {
		bg.Add(1)
		go func() {
			defer bg.Done()
			s, err := c.dialSMTP(true)
			if err != nil {
				e.add(err)
				return
			}
			defer s.quit()
			rng := rand.New(rand.NewSource(c.seed + 77))
			tick := time.NewTicker(time.Duration(float64(time.Second) / *rate))
			defer tick.Stop()
			for k := 0; ; k++ {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				a, _, _, err := s.deliver("sender@load.example", []string{c.rcpt(rng.Intn(c.users))}, co.idLine(k), co.msg(k).stuffed, strings.Contains(s.caps, "PIPELINING"))
				if err != nil {
					e.add(err)
					return
				}
				ack.add(a)
				delivered.Add(1)
			}
		}()
	}
	parallel(*clients, func(w int) {
		rng := rand.New(rand.NewSource(c.seed*100 + int64(w)))
		for {
			k, ok := b.take()
			if !ok {
				return
			}
			if err := session(rng, k*31); err != nil {
				e.add(err)
				time.Sleep(10 * time.Millisecond)
			}
		}
	})
	close(stop)
	bg.Wait()
	r := c.newResult("mixed")
	wall := m.stop(r).Seconds()
	perOp := map[string]any{}
	for op, l := range byOp {
		s := l.summary()
		perOp[op] = map[string]any{"n": s["n"], "p50_ms": s["p50_ms"], "p99_ms": s["p99_ms"]}
	}
	r["clients"], r["sessions"], r["ops"], r["ops_s"] = *clients, sessions.Load(), ops.Load(), round(float64(ops.Load())/wall)
	r["session"], r["by_op"] = whole.summary(), perOp
	r["delivered"], r["deliver_ack"], r["bytes"] = delivered.Load(), ack.summary(), by.Load()
	perMsg(r, sessions.Load())
	e.into(r)
	r.primary("sessions/s", float64(sessions.Load())/wall, "/s", "higher")
	return r.print()
}
