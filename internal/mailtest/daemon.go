package mailtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// startLimit bounds the wait for a foreign daemon's first answer and for its
// end; machines that build and test at once are slow.
const startLimit = 60 * time.Second

// waitFor asks every few milliseconds until ok says yes or the limit is over,
// and reports which. It is for foreign programs only, which cannot tell us
// that they are ready.
func waitFor(limit time.Duration, ok func() bool) bool {
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-timeout.C:
			return ok()
		}
	}
	return true
}

// FreePort returns a TCP port of 127.0.0.1 on which nothing listens. It is
// below the range from which the kernel takes ports of outgoing connections,
// and reserved among all processes that use this package until the test ends.
func FreePort(t testing.TB) int {
	t.Helper()
	for range 1000 {
		port := 10000 + rand.IntN(22000)
		// An abstract socket is a reservation that ends with its process.
		mark, err := net.Listen("unix", fmt.Sprintf("@mailferry-port-%d", port))
		if err != nil {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			mark.Close()
			continue
		}
		l.Close()
		t.Cleanup(func() { mark.Close() })
		return port
	}
	t.Fatal("no free port")
	return 0
}

// freeAddr is FreePort as an address.
func freeAddr(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("127.0.0.1:%d", FreePort(t))
}

// tempDir makes a directory with a short path, for the sake of Unix sockets,
// that other users may enter, because servers give up root. The caller's
// daemon removes it.
func tempDir(t testing.TB, parent, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp(parent, "mailferry-"+name+"-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// write makes a file of a peer's set-up, readable for all.
func write(t testing.TB, content string, path ...string) string {
	t.Helper()
	name := filepath.Join(path...)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// daemon is a foreign server in the foreground, in a process group of its own.
// The guard, a process that waits for our end, kills the group and removes the
// directory even when this process is killed.
type daemon struct {
	name string
	dir  string
	argv []string
	addr []string // where it must listen before start returns
	out  string   // file that takes its output
	logs []string // further files to show when the test fails

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{}
	guard  io.Closer
	guards *exec.Cmd
}

// run starts the daemon and arranges its end with the test's.
func (d *daemon) run(t testing.TB) {
	t.Helper()
	d.out = filepath.Join(d.dir, d.name+".out")
	t.Cleanup(func() {
		if t.Failed() {
			for _, log := range append([]string{d.out}, d.logs...) {
				t.Logf("the end of %s:\n%s", log, tail(log, 4000))
			}
			t.Logf("the processes of %s:\n%s", d.name, groupStates(d.pid()))
		}
		d.kill()
		os.RemoveAll(d.dir)
	})
	d.start(t)
}

// start runs the program and returns when all its addresses answer.
func (d *daemon) start(t testing.TB) {
	t.Helper()
	if err := d.launch(); err != nil {
		t.Fatalf("%s: %v", d.name, err)
	}
	for _, addr := range d.addr {
		ready := waitFor(startLimit, func() bool { return !d.alive() || answers(addr) })
		if !ready || !d.alive() {
			t.Fatalf("%s does not listen on %s:\n%s", d.name, addr, tail(d.out, 4000))
		}
	}
}

func (d *daemon) launch() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	out, err := os.OpenFile(d.out, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(d.argv[0], d.argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = d.dir, out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	go func() {
		cmd.Wait()
		close(exited)
	}()
	d.cmd, d.exited = cmd, exited
	return d.watch()
}

// watch starts the guard: its input ends when we stop the daemon or die.
func (d *daemon) watch() error {
	const script = `cat >/dev/null; kill -s KILL -- "-$1" 2>/dev/null; [ -d "$2" ] || exit 0
		[ "$(cat "$2/keep" 2>/dev/null)" = yes ] || rm -rf -- "$2"`
	g := exec.Command("/bin/sh", "-c", script, "guard", fmt.Sprint(d.cmd.Process.Pid), d.dir)
	g.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := g.StdinPipe()
	if err != nil {
		return err
	}
	d.guard, d.guards = in, g
	return g.Start()
}

// alive reports whether the program runs.
func (d *daemon) alive() bool {
	select {
	case <-d.exited:
		return false
	default:
		return true
	}
}

// stop ends the daemon politely, then surely. The directory stays for another
// start; run's clean-up removes it.
func (d *daemon) stop() { d.end(syscall.SIGTERM) }

// kill ends the daemon and all its processes without warning.
func (d *daemon) kill() { d.end(syscall.SIGKILL) }

func (d *daemon) end(sig syscall.Signal) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cmd == nil {
		return
	}
	group := -d.cmd.Process.Pid
	if sig == syscall.SIGKILL {
		syscall.Kill(group, sig)
	} else {
		d.cmd.Process.Signal(sig)
	}
	select {
	case <-d.exited:
	case <-time.After(startLimit):
	}
	os.WriteFile(filepath.Join(d.dir, "keep"), []byte("yes"), 0o644)
	d.guard.Close()
	d.guards.Wait()
	waitFor(startLimit, func() bool { return !groupRuns(-group) })
	os.Remove(filepath.Join(d.dir, "keep"))
	<-d.exited
	d.cmd = nil
}

// groupRuns reports whether a process group has a member that still holds
// files and ports; one that has ended but was not yet waited for does not.
func groupRuns(group int) bool {
	if errors.Is(syscall.Kill(-group, 0), syscall.ESRCH) {
		return false
	}
	for f := range groupMembers(group) {
		if f[0] != "Z" && f[0] != "X" {
			return true
		}
	}
	return false
}

// groupMembers gives, for each process of a group, what /proc/PID/stat says
// behind its name, from the state on (proc(5)), and its pid.
func groupMembers(group int) iter.Seq2[[]string, string] {
	return func(yield func([]string, string) bool) {
		stats, _ := filepath.Glob("/proc/[0-9]*/stat")
		for _, name := range stats {
			b, err := os.ReadFile(name)
			if err != nil {
				continue
			}
			// pid (name) state ppid pgrp
			f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
			if len(f) > 12 && f[2] == strconv.Itoa(group) && !yield(f, filepath.Base(filepath.Dir(name))) {
				return
			}
		}
	}
}

// groupStates shows what the processes of a group are at: a daemon that answers
// no more and logs nothing may be computing, or wait in the kernel.
func groupStates(group int) string {
	var b strings.Builder
	for f, pid := range groupMembers(group) {
		of := func(file string) string {
			text, _ := os.ReadFile(filepath.Join("/proc", pid, file))
			return strings.TrimSpace(strings.ReplaceAll(string(text), "\x00", " "))
		}
		user, _ := strconv.Atoi(f[11])
		system, _ := strconv.Atoi(f[12])
		// A tick is a hundredth of a second on every Linux that runs Go.
		fmt.Fprintf(&b, "%s %s %.2fs of CPU, in %q: %s\n", pid, f[0], float64(user+system)/100, of("wchan"), of("cmdline"))
		if stack := of("stack"); stack != "" {
			fmt.Fprintf(&b, "\t%s\n", strings.ReplaceAll(stack, "\n", "\n\t"))
		}
	}
	return b.String()
}

// pid is the process id of the program started last.
func (d *daemon) pid() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cmd == nil {
		return 0
	}
	return d.cmd.Process.Pid
}

// answers reports whether something accepts connections there.
func answers(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// tail returns the end of a file.
func tail(path string, n int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(b) > n {
		b = b[len(b)-n:]
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			b = b[i+1:]
		}
	}
	return string(b)
}

// port is the number in host:port.
func port(addr string) string {
	_, p, _ := net.SplitHostPort(addr)
	return p
}
