package migrate

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A batch tells its hooks: a web server that fails twice and a command; what is
// posted is signed. A hook that hangs holds nobody up.
func TestEngineTellsHooks(t *testing.T) {
	var mu sync.Mutex
	var events []HookEvent
	fails := 2
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		body, _ := io.ReadAll(r.Body)
		if fails--; fails >= 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if got, want := r.Header.Get("X-Mailferry-Signature"), hookSignature("s3cret", r.Header.Get("X-Mailferry-Timestamp"), body); got != want {
			t.Errorf("signature %q, want %q", got, want)
		}
		var ev HookEvent
		if err := json.Unmarshal(body, &ev); err != nil {
			t.Error(err)
		}
		events = append(events, ev)
	}))
	defer srv.Close()
	hang := make(chan struct{})
	stuck := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer stuck.Close()
	defer close(hang)
	out := filepath.Join(t.TempDir(), "out")
	r := newRig(t, 2, 3)
	r.opt.Hooks = []Hook{
		{Name: "web", URL: srv.URL, Secret: "s3cret"},
		{Name: "script", Command: []string{"/bin/sh", "-c", `echo "$MAILFERRY_USER $MAILFERRY_STATE $MAILFERRY_TO" >> ` + out + `; cat >> ` + out},
			States: []State{Final}},
		{Name: "stuck", URL: stuck.URL, Timeout: 50 * time.Millisecond},
		{Name: "other", URL: srv.URL, Named: true},
	}
	results := map[string]int{}
	r.opt.Metrics.Hook = func(hook, result string) {
		mu.Lock()
		defer mu.Unlock()
		results[hook+" "+result]++
	}
	e := r.engine(t)
	wait(t, e, start(t, e, BatchSpec{Users: r.users()}))
	e.Close()
	r.complete(t)
	mu.Lock()
	defer mu.Unlock()
	var way []string
	for _, ev := range events {
		if ev.User == "u00" {
			way = append(way, ev.State.String())
			if ev.State == Final && (ev.Messages != 3 || ev.From != "old" || ev.To != "home" || ev.ID == "") {
				t.Errorf("event %+v", ev)
			}
		}
	}
	if got := strings.Join(way, " "); got != "copying following ready holding flipped final" {
		t.Errorf("told of %s", got)
	}
	text, err := os.ReadFile(out)
	if err != nil || strings.Count(string(text), " final home\n") != 2 || strings.Count(string(text), `"state":"final"`) != 2 {
		t.Errorf("the command wrote %q %v", text, err)
	}
	if results["web told"] != 12 || results["script told"] != 2 || results["stuck told"] > 0 || results["other told"] > 0 {
		t.Errorf("results %v", results)
	}
}

// A command that hangs is killed with all that it started, and tried again; one that
// leaves something in the background has done its part. None sees the node's settings.
func TestHookCommands(t *testing.T) {
	t.Setenv("MAILFERRY_STORES_OLD_PASSWORD", "s3cret")
	t.Setenv("LIKE_ANY_OTHER", "kept")
	dir := t.TempDir()
	var log strings.Builder
	results := map[string]int{}
	tell := func(script string) {
		h := newHookRunner(Hook{Name: "h", Command: []string{"/bin/sh", "-c", "cd " + dir + "\n" + script}, Timeout: 300 * time.Millisecond},
			slog.New(slog.NewTextHandler(&log, nil)), func(_, result string) { results[result]++ }, time.Millisecond)
		h.tell(t.Context(), HookEvent{User: "anna", State: Final})
	}
	lines := func(name string) []string {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(string(text))
	}
	tell(`sh -c 'echo $$ >> pids; sleep 1000'; true`)
	pids := lines("pids")
	for _, pid := range pids {
		n, err := strconv.Atoi(pid)
		if err != nil {
			t.Fatal(err)
		}
		// Whoever adopts the orphan may not have reaped it: then it is a zombie.
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n)); err == nil && !strings.Contains(string(stat), ") Z ") {
			t.Errorf("a process of a hook that hung is left: %s", stat)
		}
	}
	if len(pids) != hookAttempts || results["failed"] != 1 || !strings.Contains(log.String(), "it took longer than 300ms") {
		t.Errorf("%d attempts, %v\n%s", len(pids), results, log.String())
	}
	tell(`echo once >> runs; sleep 3 & env > env`)
	if got := lines("runs"); len(got) != 1 || results["told"] != 1 {
		t.Errorf("ran %d times, %v", len(got), results)
	}
	env := strings.Join(lines("env"), "\n")
	if strings.Contains(env, "s3cret") || !strings.Contains(env, "LIKE_ANY_OTHER=kept") || !strings.Contains(env, "MAILFERRY_USER=anna") {
		t.Errorf("environment:\n%s", env)
	}
}

// What a hook says for good is not asked again; a full queue drops and counts.
func TestHookGivesUpAndDrops(t *testing.T) {
	asked := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		w.WriteHeader(http.StatusNotFound)
	}))
	defer srv.Close()
	results := map[string]int{}
	var log strings.Builder
	h := newHookRunner(Hook{Name: "h", URL: srv.URL + "/?token=s3cret", Secret: "s3cret"}, slog.New(slog.NewTextHandler(&log, nil)), func(_, result string) { results[result]++ }, time.Millisecond)
	h.tell(t.Context(), HookEvent{User: "anna"})
	if asked != 1 || results["failed"] != 1 {
		t.Errorf("asked %d times, %v", asked, results)
	}
	srv.Close()
	h.tell(t.Context(), HookEvent{User: "anna"})
	for range hookQueue + 5 {
		h.offer(HookEvent{})
	}
	if results["dropped"] != 5 || results["failed"] != 2 || strings.Contains(log.String(), "s3cret") {
		t.Errorf("%v\n%s", results, log.String())
	}
}
