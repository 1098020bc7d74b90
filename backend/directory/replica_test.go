package directory

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"mailferry/backend"
	"mailferry/internal/mailtest"
)

// beat is how often feeds of tests are asked; real servers answer them.
const beat = 20 * time.Millisecond

func openReplica(t testing.TB, o ReplicaOptions) *Replica {
	t.Helper()
	if o.Poll == 0 {
		o.Poll = beat
	}
	r, err := NewReplica(o)
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	t.Cleanup(func() { r.Close() })
	return r
}

// until waits for a state of the replica.
func until(t testing.TB, r *Replica, what string, ok func() bool) {
	t.Helper()
	limit := time.NewTimer(30 * time.Second)
	defer limit.Stop()
	for {
		r.mu.Lock()
		changed := r.changed
		r.mu.Unlock()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-limit.C:
			t.Fatalf("not in time: %s; %+v", what, r.head)
		}
	}
}

// here reports what the replica knows of a name, without asking anybody.
func here(t testing.TB, r *Replica, name string) (e backend.Entry, sure bool) {
	t.Helper()
	e, err, sure := r.recall(t.Context(), name)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return e, sure
}

func storeOf(t testing.TB, r *Replica, name, store string) func() bool {
	return func() bool {
		e, sure := here(t, r, name)
		return sure && e.Store == store
	}
}

func gone(t testing.TB, r *Replica, name string) func() bool {
	return func() bool { e, _ := here(t, r, name); return e.User == "" }
}

func TestReplicaSuite(t *testing.T) {
	t.Parallel()
	s := startSlapd(t)
	for _, feed := range []string{FeedSyncrepl, FeedPoll} {
		t.Run(feed, func(t *testing.T) {
			testDirectory(t, func(t *testing.T) subject {
				s.SetAttr(t, "anna", "mailHost", "old1")
				s.SetAttr(t, "bernd", "mailHost")
				g := &gate{}
				o := ldapOptions(s)
				o.Dial = g.dial
				r := openReplica(t, ReplicaOptions{Source: openLDAP(t, o), Feed: feed})
				until(t, r, "live", r.Live)
				return subject{dir: r, known: true, away: g.shut}
			})
		})
	}
}

func TestReplicaFollows(t *testing.T) {
	t.Parallel()
	for _, feed := range []string{FeedAuto, FeedPoll} {
		t.Run(feed, func(t *testing.T) {
			s := startSlapd(t)
			var mu sync.Mutex
			told := map[string]bool{}
			r := openReplica(t, ReplicaOptions{Source: openLDAP(t, ldapOptions(s)), Feed: feed, Full: time.Second,
				Changed: func(_ string, ids, _ []string) {
					mu.Lock()
					defer mu.Unlock()
					for _, id := range ids {
						told[id] = true
					}
				}})
			until(t, r, "loaded", storeOf(t, r, "anna", "old1"))
			s.SetAttr(t, "anna", "mailHost", "old2")
			until(t, r, "modified", storeOf(t, r, "anna", "old2"))
			s.AddUsers(t, mailtest.LDAPUser{UID: "nina", MailHost: "old3"})
			until(t, r, "added", storeOf(t, r, "nina@example.org", "old3"))
			c := s.Dial(t)
			defer c.Close()
			if err := c.ModifyDN(ldap.NewModifyDNRequest(s.UserDN("nina"), "uid=nora", true, "")); err != nil {
				t.Fatal(err)
			}
			until(t, r, "renamed", storeOf(t, r, "nora", "old3"))
			until(t, r, "old name gone", gone(t, r, "nina"))
			if err := c.Del(ldap.NewDelRequest(s.UserDN("nora"), nil)); err != nil {
				t.Fatal(err)
			}
			until(t, r, "deleted", gone(t, r, "nora@example.org"))
			mu.Lock()
			defer mu.Unlock()
			for _, uid := range []string{"anna", "nora"} {
				if !told[s.UserDN(uid)] {
					t.Errorf("nobody was told of %s", uid)
				}
			}
		})
	}
}

// TestReplicaOutage: a restart in the middle of a day without any server.
func TestReplicaOutage(t *testing.T) {
	t.Parallel()
	s := startSlapd(t)
	var past atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(past.Load())) }
	o := ldapOptions(s)
	o.Now = now
	path := filepath.Join(t.TempDir(), "replica", "company")
	open := func() *Replica {
		return openReplica(t, ReplicaOptions{Source: openLDAP(t, o), Path: path, Stale: 48 * time.Hour})
	}
	r := open()
	until(t, r, "live", r.Live)
	s.Stop()
	until(t, r, "not live", func() bool { return !r.Live() })
	want := func(when string, name string, kind backend.Kind) {
		t.Helper()
		e, err := r.Lookup(t.Context(), name)
		if kind == 0 && (err != nil || e.User != name || e.Store != "old1") || kind != 0 && !backend.IsKind(err, kind) {
			t.Errorf("%s: %s: %+v, %v", when, name, e, err)
		}
	}
	want("down", "anna", 0)
	past.Store(int64(24 * time.Hour))
	want("after a day", "anna", 0)
	want("after a day", "nobody", backend.KindUnavailable)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r = open()
	want("after a restart", "anna", 0)
	want("after a restart", "nobody", backend.KindUnavailable)
	past.Store(int64(49 * time.Hour))
	want("too old", "anna", backend.KindUnavailable)
	s.Start(t)
	s.SetAttr(t, "anna", "mailHost", "old2")
	until(t, r, "caught up", storeOf(t, r, "anna", "old2"))
}

// TestReplicaGoesOn: changes made while nobody listened come with the cookie.
func TestReplicaGoesOn(t *testing.T) {
	t.Parallel()
	s := startSlapd(t)
	s.AddUsers(t, mailtest.LDAPUser{UID: "nina", MailHost: "old3"})
	path := filepath.Join(t.TempDir(), "company")
	d := openLDAP(t, ldapOptions(s))
	r := openReplica(t, ReplicaOptions{Source: d, Path: path})
	until(t, r, "live", r.Live)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	c := s.Dial(t)
	defer c.Close()
	if err := c.Del(ldap.NewDelRequest(s.UserDN("nina"), nil)); err != nil {
		t.Fatal(err)
	}
	s.SetAttr(t, "anna", "mailHost", "old2")
	s.AddUsers(t, mailtest.LDAPUser{UID: "nora", MailHost: "old4"})
	r = openReplica(t, ReplicaOptions{Source: d, Path: path})
	if len(r.head.Cookie) == 0 {
		t.Error("no cookie was kept")
	}
	until(t, r, "live", r.Live)
	until(t, r, "modified", storeOf(t, r, "anna", "old2"))
	until(t, r, "added", storeOf(t, r, "nora", "old4"))
	until(t, r, "deleted", gone(t, r, "nina"))
}

func TestReplicaMuteServer(t *testing.T) {
	t.Parallel()
	s := startSlapd(t)
	g := &gate{}
	o := ldapOptions(s)
	o.Dial, o.RequestTimeout, o.ConnectTimeout = g.dial, 200*time.Millisecond, 200*time.Millisecond
	r := openReplica(t, ReplicaOptions{Source: openLDAP(t, o)})
	until(t, r, "live", r.Live)
	g.hole()
	until(t, r, "noticed", func() bool { return !r.Live() })
	begin := time.Now()
	if e, err := r.Lookup(t.Context(), "anna"); err != nil || e.Store != "old1" || time.Since(begin) > lookupLimit {
		t.Errorf("%+v, %v after %v", e, err, time.Since(begin))
	}
	g.set("")
	until(t, r, "live again", r.Live)
}

func TestReplicaNeverSaysNobody(t *testing.T) {
	t.Parallel()
	s := startSlapd(t)
	d := openLDAP(t, ldapOptions(s))
	r := openReplica(t, ReplicaOptions{Source: d, Feed: FeedPoll, Poll: time.Hour})
	until(t, r, "live", r.Live)
	s.AddUsers(t, mailtest.LDAPUser{UID: "nina", MailHost: "old3"})
	if e, err := r.Lookup(t.Context(), "nina"); err != nil || e.Store != "old3" {
		t.Errorf("a user that the replica has not seen yet: %+v, %v", e, err)
	}
	// What we write ourselves is read back, however slow the feed.
	e, err := r.Lookup(t.Context(), "anna")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.SetStore(t.Context(), e, "home"); err != nil {
		t.Fatal(err)
	}
	if e, err = r.Lookup(t.Context(), "anna@example.org"); err != nil || e.Store != "home" {
		t.Errorf("after SetStore: %+v, %v", e, err)
	}
	s.SetAttr(t, "bernd", "mailHost", "old9")
	r.Invalidate("bernd")
	if e, err := r.Lookup(t.Context(), "bernd"); err != nil || e.Store != "old9" {
		t.Errorf("after Invalidate: %+v, %v", e, err)
	}
	r.Invalidate("otto")
	if _, err := r.Lookup(t.Context(), "otto"); err != nil {
		t.Error(err)
	}
	if _, sure := here(t, r, "otto"); !sure {
		t.Error("the source said the same, and there is doubt still")
	}
}

func TestReplicaAmbiguous(t *testing.T) {
	t.Parallel()
	s := startSlapd(t)
	s.AddUsers(t, mailtest.LDAPUser{UID: "twin1", Mail: "twin@example.org"}, mailtest.LDAPUser{UID: "twin2", Mail: "twin@example.org"})
	r := openReplica(t, ReplicaOptions{Source: openLDAP(t, ldapOptions(s))})
	until(t, r, "live", r.Live)
	s.Stop()
	if e, err := r.Lookup(t.Context(), "TWIN@example.org"); !backend.IsKind(err, backend.KindConflict) {
		t.Errorf("%+v, %v", e, err)
	}
	if e, err := r.Lookup(t.Context(), "Twin2"); err != nil || e.User != "twin2" {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestReplicaBounds(t *testing.T) {
	t.Parallel()
	s := startSlapd(t)
	r := openReplica(t, ReplicaOptions{Source: openLDAP(t, ldapOptions(s)), MaxUsers: 2})
	r.wg.Wait() // it gives up
	if _, err := r.Lookup(t.Context(), "anna"); err != nil || r.Live() || len(r.table.rows) > 2 {
		t.Errorf("%v, %d users", err, len(r.table.rows))
	}
	o := ldapOptions(s)
	o.Filter = "(|(uid={user})(cn={user}*))"
	if _, err := NewReplica(ReplicaOptions{Source: openLDAP(t, o)}); !backend.IsKind(err, backend.KindInvalid) {
		t.Errorf("a filter that only the server can answer: %v", err)
	}
}

func TestPasswordsAreRemembered(t *testing.T) {
	t.Parallel()
	s := startSlapd(t)
	var past atomic.Int64
	g := &gate{}
	o := ldapOptions(s)
	o.Dial, o.Now = g.dial, func() time.Time { return time.Now().Add(time.Duration(past.Load())) }
	o.RememberPasswords = time.Hour
	d := openLDAP(t, o)
	ask := func(user string, p backend.Secret) error {
		return d.Authenticate(t.Context(), backend.Entry{User: user, ID: s.UserDN(user)}, p)
	}
	if err := ask("anna", "secret"); err != nil {
		t.Fatal(err)
	}
	if err := ask("bernd", "secret"); err != nil {
		t.Fatal(err)
	}
	d.known.wg.Wait()
	if err := ask("bernd", "wrong"); !backend.IsKind(err, backend.KindAuthentication) {
		t.Fatal(err)
	}
	g.shut()
	for _, c := range []struct {
		user string
		p    backend.Secret
		kind backend.Kind
	}{{"anna", "secret", 0}, {"anna", "wrong", backend.KindUnavailable}, {"anna", "", backend.KindAuthentication},
		{"bernd", "secret", backend.KindUnavailable}, {"otto", "secret", backend.KindUnavailable}} {
		if err := ask(c.user, c.p); c.kind == 0 && err != nil || c.kind != 0 && !backend.IsKind(err, c.kind) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	past.Store(int64(time.Hour))
	if err := ask("anna", "secret"); !backend.IsKind(err, backend.KindUnavailable) {
		t.Errorf("after the time that counts: %v", err)
	}
}

func testADReplica(t *testing.T, s *mailtest.Samba) {
	path := filepath.Join(t.TempDir(), "ad")
	o := adOptions(s)
	open := func() *Replica { return openReplica(t, ReplicaOptions{Source: openAD(t, o), Path: path}) }
	r := open()
	until(t, r, "live", r.Live)
	if r.head.Feed != FeedDirSync || len(r.table.rows) < bulk {
		t.Errorf("feed %s, %d users", r.head.Feed, len(r.table.rows))
	}
	s.SetAttr(t, "clara", "extensionName", "old2")
	until(t, r, "modified", storeOf(t, r, `CORP\clara`, "old2"))
	s.Add(t, mailtest.SambaUser{Name: "nina", Attrs: map[string][]string{"mail": {"nina@example.org"}, "extensionName": {"old3"}}})
	until(t, r, "added", storeOf(t, r, "nina@example.org", "old3"))
	s.Delete(t, "nina")
	until(t, r, "deleted", gone(t, r, "nina"))
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	s.SetAttr(t, "clara", "extensionName", "old4")
	r = open()
	until(t, r, "caught up", storeOf(t, r, "c.lara@upn.example.org", "old4"))
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	defer s.Start(t)
	r = open()
	for _, name := range []string{"clara", `corp\clara`, "cl@alias.example.org", "clara@corp.example.org", "bulk7"} {
		if e, err := r.Lookup(t.Context(), name); err != nil || e.User == "" {
			t.Errorf("%s in an outage: %+v, %v", name, e, err)
		}
	}
}

func TestPackedEntries(t *testing.T) {
	in := ldap.NewEntry("uid=ä,dc=x", map[string][]string{"uid": {"ä"}, "mail": {"a@x", ""}})
	out, err := unpackEntry(packEntry(in))
	if err != nil || out.DN != in.DN || fmt.Sprint(out.GetAttributeValues("mail")) != "[a@x ]" {
		t.Errorf("%+v, %v", out, err)
	}
}

func FuzzUnpackEntry(f *testing.F) {
	f.Add(packEntry(ldap.NewEntry("uid=a", map[string][]string{"uid": {"a", "b"}})))
	f.Add("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
	f.Fuzz(func(t *testing.T, row string) {
		if in, err := unpackEntry(row); err == nil && len(packEntry(in)) > len(row) {
			t.Errorf("%q grows", row)
		}
	})
}

// BenchmarkReplicaMemory reports bytes per user with two names each, and the
// time of a lookup.
func BenchmarkReplicaMemory(b *testing.B) {
	d := openLDAP(b, LDAPOptions{Name: "x", Servers: []string{"ldap://a"}, Base: "dc=x", Filter: "(|(uid={user})(mail={user}))"})
	r, err := NewReplica(ReplicaOptions{Source: d})
	if err != nil {
		b.Fatal(err)
	}
	const users = 200_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range users {
		id := entryID{byte(i), byte(i >> 8), byte(i >> 16)}
		name := fmt.Sprintf("user%06d", i)
		r.table.put(id, ldap.NewEntry("uid="+name+",ou=people,dc=example,dc=org", map[string][]string{
			"uid": {name}, "mail": {name + "@example.org"}, "mailHost": {"store17.example.org"}}))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	r.live = true
	b.ResetTimer()
	for i := range b.N {
		if _, err := r.Lookup(context.Background(), fmt.Sprintf("user%06d@example.org", i%users)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/users, "B/user")
}

// TestReplicaTellsTheChain: what changes in the directory is forgotten by the
// cache in front, under every name that clients used.
func TestReplicaTellsTheChain(t *testing.T) {
	t.Parallel()
	s := startSlapd(t)
	var c *Chain
	told := make(chan struct{}, 100)
	r := openReplicaLater(t, ReplicaOptions{Source: openLDAP(t, ldapOptions(s)), Changed: func(d string, ids, names []string) {
		c.Changed(d, ids, names)
		told <- struct{}{}
	}})
	c = newChain(t, ChainOptions{Directories: []backend.Directory{r}})
	r.Start()
	until(t, r, "live", r.Live)
	for _, name := range []string{"anna", "ANNA@example.org"} {
		if e, err := c.Lookup(t.Context(), name); err != nil || e.Store != "old1" {
			t.Fatalf("%+v, %v", e, err)
		}
	}
	s.SetAttr(t, "anna", "mailHost", "old2")
	<-told
	for _, name := range []string{"anna", "ANNA@example.org"} {
		if e, err := c.Lookup(t.Context(), name); err != nil || e.Store != "old2" {
			t.Errorf("%+v, %v", e, err)
		}
	}
}

// openReplicaLater is openReplica without the start.
func openReplicaLater(t testing.TB, o ReplicaOptions) *Replica {
	t.Helper()
	o.Poll = beat
	r, err := NewReplica(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}
