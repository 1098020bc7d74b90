package migrate

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"mailferry/backend"
)

// Hook is told of changes of users' states: by a command or by HTTP.
type Hook struct {
	Name string
	// Command and its arguments: run without a shell, with the event as JSON on
	// its standard input and the MAILFERRY_ variables of hookEnv.
	Command []string
	// URL gets the event as JSON by POST. With a Secret it is signed:
	// X-Mailferry-Signature is "sha256=" and the HMAC-SHA256, in hexadecimal, of
	// X-Mailferry-Timestamp (Unix seconds), a dot, and the body.
	URL    string
	Secret backend.Secret
	// States to tell of; empty: all.
	States []State
	// Named: only batches that name it have it; else all have.
	Named bool
	// Timeout of one attempt; default 10 s.
	Timeout time.Duration
}

// HookEvent is what hooks are told.
type HookEvent struct {
	// ID is the same in every attempt.
	ID       string    `json:"id"`
	Time     time.Time `json:"time"`
	Batch    BatchID   `json:"batch"`
	User     string    `json:"user"`
	Was      State     `json:"was"`
	State    State     `json:"state"`
	From     string    `json:"from,omitempty"`
	To       string    `json:"to,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	Tries    int       `json:"tries,omitempty"`
	Messages int64     `json:"messages"`
	Octets   int64     `json:"octets"`
}

const (
	// hookQueue events wait for a hook; more are dropped and counted, so that no
	// move ever waits for one.
	hookQueue    = 1024
	hookAttempts = 5
	// hookRest is how long the events that wait are still told when the engine is
	// closed.
	hookRest = 5 * time.Second
)

// hookRunner tells one hook, event after event, in the order of the changes.
type hookRunner struct {
	hook   Hook
	events chan HookEvent
	log    *slog.Logger
	count  func(hook, result string) // told, failed, dropped
	client *http.Client
	pause  time.Duration // before the second attempt, doubled before each other
}

func newHookRunner(h Hook, log *slog.Logger, count func(hook, result string), pause time.Duration) *hookRunner {
	if h.Timeout <= 0 {
		h.Timeout = 10 * time.Second
	}
	if count == nil {
		count = func(string, string) {}
	}
	return &hookRunner{hook: h, events: make(chan HookEvent, hookQueue), log: log.With("hook", h.Name), count: count, pause: pause,
		client: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// offer never waits.
func (r *hookRunner) offer(ev HookEvent) {
	if len(r.hook.States) > 0 && !slices.Contains(r.hook.States, ev.State) {
		return
	}
	select {
	case r.events <- ev:
	default:
		r.count(r.hook.Name, "dropped")
		r.log.Warn("a hook is behind: an event is dropped", "user", ev.User, "state", ev.State)
	}
}

// run tells events until ctx ends; those that wait then get a last chance.
func (r *hookRunner) run(ctx context.Context) {
	last, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(hookRest, cancel) })()
	for {
		select {
		case ev := <-r.events:
			r.tell(last, ev)
			continue
		default:
		}
		select {
		case ev := <-r.events:
			r.tell(last, ev)
		case <-ctx.Done():
			if len(r.events) == 0 {
				return
			}
		}
	}
}

func (r *hookRunner) tell(ctx context.Context, ev HookEvent) {
	body, err := json.Marshal(ev)
	pause := r.pause
	for n := 1; err == nil; n++ {
		again, failed := r.attempt(ctx, ev, body)
		if failed == nil {
			r.count(r.hook.Name, "told")
			return
		}
		if !again || n == hookAttempts || ctx.Err() != nil {
			err = failed
			break
		}
		await(ctx, nil, time.Now().Add(pause+time.Duration(rand.Int64N(int64(pause/2)+1))))
		pause *= 2
	}
	r.count(r.hook.Name, "failed")
	r.log.Error("a hook was not told", "user", ev.User, "state", ev.State, "error", err)
}

// attempt tells once; again: another attempt may help.
func (r *hookRunner) attempt(ctx context.Context, ev HookEvent, body []byte) (again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.hook.Timeout)
	defer cancel()
	if len(r.hook.Command) > 0 {
		return true, r.command(ctx, ev, body)
	}
	return r.post(ctx, ev, body)
}

func (r *hookRunner) command(ctx context.Context, ev HookEvent, body []byte) error {
	cmd := exec.CommandContext(ctx, r.hook.Command[0], r.hook.Command[1:]...)
	cmd.Stdin = bytes.NewReader(body)
	// The node's own settings may be in its environment, passwords among them.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, hookPrefix) })
	cmd.Env = append(cmd.Env, hookEnv(ev)...)
	// What it started ends with it when its time is over.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // what it left in the background may hold its output open
	out := &tail{}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay): // it was done, and well
		return nil
	case ctx.Err() != nil:
		err = fmt.Errorf("it took longer than %v: %w", r.hook.Timeout, err)
	}
	return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out.b)))
}

// hookPrefix begins the names of all variables of ours.
const hookPrefix = "MAILFERRY_"

func hookEnv(ev HookEvent) []string {
	return []string{"MAILFERRY_BATCH=" + string(ev.Batch), "MAILFERRY_USER=" + ev.User, "MAILFERRY_WAS=" + ev.Was.String(),
		"MAILFERRY_STATE=" + ev.State.String(), "MAILFERRY_FROM=" + ev.From, "MAILFERRY_TO=" + ev.To,
		"MAILFERRY_REASON=" + strings.ReplaceAll(ev.Reason, "\x00", "")}
}

// tail keeps the end of what a command prints.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	const most = 1 << 10
	t.b = append(t.b, p...)
	if len(t.b) > most {
		t.b = append(t.b[:0], t.b[len(t.b)-most:]...)
	}
	return len(p), nil
}

func (r *hookRunner) post(ctx context.Context, ev HookEvent, body []byte) (again bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.hook.URL, bytes.NewReader(body))
	if err != nil {
		return false, errors.New("the hook's url is no address") // which may hold a secret
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Mailferry-Event", ev.ID)
	if r.hook.Secret != "" {
		stamp := strconv.FormatInt(time.Now().Unix(), 10)
		req.Header.Set("X-Mailferry-Timestamp", stamp)
		req.Header.Set("X-Mailferry-Signature", hookSignature(r.hook.Secret, stamp, body))
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return true, errors.Unwrap(err) // the address may hold a secret
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection is used again
	switch c := resp.StatusCode; {
	case c/100 == 2:
		return false, nil
	default:
		return c/100 == 5 || c == http.StatusRequestTimeout || c == http.StatusTooManyRequests, fmt.Errorf("HTTP status %d", c)
	}
}

func hookSignature(secret backend.Secret, stamp string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret.Reveal()))
	mac.Write([]byte(stamp + "."))
	mac.Write(body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

// hooksOf are those that a batch has.
func (e *Engine) hooksOf(spec *BatchSpec) (list []*hookRunner) {
	for _, r := range e.hooks {
		if !r.hook.Named || slices.Contains(spec.Hooks, r.hook.Name) {
			list = append(list, r)
		}
	}
	return list
}

// checkHooks wants the hooks that a batch names to be configured.
func (e *Engine) checkHooks(spec *BatchSpec) error {
	for _, name := range spec.Hooks {
		if !slices.ContainsFunc(e.hooks, func(r *hookRunner) bool { return r.hook.Name == name }) {
			return backend.Errorf(backend.KindInvalid, "A hook is not configured.", "hook %q", name)
		}
	}
	return nil
}

// tellHooks offers a change of a user's state.
func (e *Engine) tellHooks(b *batch, user string, was, is State) {
	hooks := e.hooksOf(&b.spec)
	if len(hooks) == 0 {
		return
	}
	u, o, now := b.user(user), b.spec.of(user), time.Now().UTC()
	if r, ok := b.routes.get(user); ok {
		o.From, o.To = r.From, r.To
	}
	ev := HookEvent{ID: fmt.Sprintf("%s-%x-%x", b.spec.ID, now.UnixNano(), rand.Uint32()), Time: now, Batch: b.spec.ID, User: user,
		Was: was, State: is, From: o.From, To: o.To, Reason: u.Reason, Tries: u.Tries, Messages: u.MessagesDone, Octets: u.OctetsDone}
	for _, r := range hooks {
		r.offer(ev)
	}
}
