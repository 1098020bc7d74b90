package migrate

import (
	"testing"

	"mailferry/internal/mailtest"
)

// TestForeignRereadsOnce: a later run reads again from the target what it has
// sent itself, also where an older message comes only now, and nothing twice.
func TestForeignRereadsOnce(t *testing.T) {
	t.Parallel()
	j := mailtest.NewJudge(t)
	from, to := dovecotPeer(t, "from", mailtest.DovecotOptions{}), dovecotPeer(t, "to", mailtest.DovecotOptions{})
	manifest := j.Load(t, from.judge, "anna", "-messages", "120", "-big", "0")
	e := foreignEngine(t, t.TempDir(), from.store, to.store, nil)
	run := func(f *Filter, percent int) *Certificate {
		t.Helper()
		st := wait(t, e, begin(t, e, BatchSpec{Users: []string{"anna"}, To: "to", Filter: f, Reread: percent}))
		cert, err := e.Certificate("anna")
		if err != nil || st.Failed() > 0 {
			t.Fatalf("%v: %+v", err, st.Users)
		}
		return cert
	}
	small := &Filter{MaxSize: 3000}
	first := run(small, 100)
	if first.Reread == 0 || first.Reread != first.Streamed {
		t.Errorf("%d messages sent, %d read again", first.Streamed, first.Reread)
	}
	for _, percent := range []int{100, 10} {
		if c := run(small, percent); c.Streamed != 0 || c.Reread != 0 {
			t.Errorf("nothing new: %d sent, %d read again", c.Streamed, c.Reread)
		}
	}
	rest := run(nil, 100)
	if rest.Streamed == 0 || rest.Reread < rest.Streamed {
		t.Errorf("%d older messages sent, %d read again", rest.Streamed, rest.Reread)
	}
	if c := judged(t, j.Verify(t, manifest, to.judge, "anna")); !c.exact() {
		t.Errorf("%+v", c)
	}
}
