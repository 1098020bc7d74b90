package scenario

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"mailferry/internal/mailtest"
)

// program builds mailferry once for all tests of this package.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "mailferry-program-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "mailferry")
	args := []string{"build", "-o", path}
	if raceEnabled {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "mailferry/cmd/mailferry")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := program(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// node is `mailferry serve` as a process of its own.
type node struct {
	imap, lmtp string
	pop3       string
	config     string
	data       string
	program    string
	log        *os.File

	mu  sync.Mutex
	cmd *exec.Cmd
	// exited is closed when the present process is gone.
	exited chan struct{}
}

// newNode configures a node in front of the farm and starts it.
func newNode(t *testing.T, f *farm) *node {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	n := &node{
		program: path,
		imap:    fmt.Sprintf("127.0.0.1:%d", mailtest.FreePort(t)),
		lmtp:    fmt.Sprintf("127.0.0.1:%d", mailtest.FreePort(t)),
		pop3:    fmt.Sprintf("127.0.0.1:%d", mailtest.FreePort(t)),
		data:    filepath.Join(f.dir, "data"),
	}
	n.config = f.config(t, n)
	if n.log, err = os.Create(filepath.Join(f.dir, "node.log")); err != nil {
		t.Fatal(err)
	}
	n.start(t)
	t.Cleanup(func() {
		n.kill()
		if t.Failed() {
			t.Logf("the node's log ends with:\n%s", tail(n.log.Name(), 16<<10))
		}
		n.log.Close()
	})
	return n
}

// start runs the node and returns when it greets IMAP clients.
func (n *node) start(t *testing.T) {
	t.Helper()
	cmd := exec.Command(n.program, "serve", "--config", n.config)
	cmd.Stdout, cmd.Stderr = n.log, n.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	n.mu.Lock()
	n.cmd, n.exited = cmd, exited
	n.mu.Unlock()
	n.awaitGreeting(t)
}

func (n *node) awaitGreeting(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if greets(n.imap) {
			return
		}
		select {
		case <-n.exited:
			t.Fatalf("mailferry serve ended:\n%s", tail(n.log.Name(), 8<<10))
		case <-tick.C:
		}
		if time.Now().After(deadline) {
			t.Fatalf("no greeting on %s:\n%s", n.imap, tail(n.log.Name(), 8<<10))
		}
	}
}

func greets(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	b := make([]byte, 4)
	k, _ := c.Read(b)
	return strings.HasPrefix(string(b[:k]), "* OK")
}

// kill ends the node as a power cut would, and waits until it is gone.
func (n *node) kill() {
	n.mu.Lock()
	cmd, exited := n.cmd, n.exited
	n.mu.Unlock()
	_ = cmd.Process.Kill()
	<-exited
}

// run executes a mailferry command against the node and returns what it
// printed and its exit code.
func (n *node) run(ctx context.Context, args ...string) (stdout, stderr string, code int) {
	cmd := exec.CommandContext(ctx, n.program, append(args, "--config", n.config)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if cmd.ProcessState != nil {
		code = cmd.ProcessState.ExitCode()
	} else if err != nil {
		code = -1
		errs.WriteString(err.Error())
	}
	return out.String(), errs.String(), code
}

// bodiesFetched is how many message bodies our store has given out since the
// node was started.
func (n *node) bodiesFetched(t *testing.T) int {
	t.Helper()
	return n.counter(t, "mailferry_imap_bodies_fetched_total")
}

// counter reads a metric of the node.
func (n *node) counter(t *testing.T, name string) int {
	t.Helper()
	text := n.metrics(t)
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\d+)$`).FindSubmatch(text)
	if m == nil {
		t.Fatalf("no %s in the metrics:\n%s", name, text)
	}
	return number(t, m[1])
}

func number(t *testing.T, text []byte) int {
	t.Helper()
	n, err := strconv.Atoi(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) metrics(t *testing.T) []byte {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(n.data, "admin.sock"))
	}}}
	defer client.CloseIdleConnections()
	answer, err := client.Get("http://node/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// tail is the end of a file.
func tail(path string, n int64) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > n {
		_, _ = f.Seek(-n, 2)
	}
	var b bytes.Buffer
	_, _ = b.ReadFrom(f)
	return b.String()
}
