package main

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"mailferry/internal/app"
	"mailferry/internal/config"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"mailferry": func() { os.Exit(run()) }})
}

// anyPort has a node listen where there is room.
const anyPort = `listen:
  imap: ["127.0.0.1:0"]
  imaps: ["127.0.0.1:0"]
  lmtp: ["127.0.0.1:0"]
  submission: ["127.0.0.1:0"]
  submissions: ["127.0.0.1:0"]
  pop3: ["127.0.0.1:0"]
  pop3s: ["127.0.0.1:0"]
  admin: ["127.0.0.1:0"]
`

// TestScripts runs testdata/*.txtar. Besides the program they have the command
// "node DIR [FILE]", which starts a node in the test's process that serves when
// it returns.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"node": startNode, "exits": exits},
	})
}

func startNode(ts *testscript.TestScript, _ bool, args []string) {
	file := ts.MkAbs("node.yaml")
	if len(args) > 1 {
		file = ts.MkAbs(args[1])
	} else {
		ts.Check(os.WriteFile(file, []byte(anyPort), 0o600))
	}
	o := config.Options{File: file, Data: ts.MkAbs(args[0]), LookupEnv: func(string) (string, bool) { return "", false }}
	node, err := app.New(context.Background(), app.Options{Load: func() (*config.Config, error) { return config.Load(o) }})
	ts.Check(err)
	ts.Check(node.Start(context.Background()))
	ts.Defer(func() { ts.Check(node.Stop()) })
	ts.Setenv("DATA", o.Data)
	for _, name := range []string{"imap", "imaps", "lmtp", "submission", "submissions", "admin"} {
		ts.Setenv(strings.ToUpper(name), node.Addr(name))
	}
}

// exits runs "exits CODE mailferry ARGS..." and compares the exit code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	code := "0"
	if exit, ok := err.(*exec.ExitError); ok {
		code = exit.ProcessState.String()[len("exit status "):]
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if code != args[0] {
		ts.Fatalf("exit code %s, want %s", code, args[0])
	}
}

// TestServe runs the program as its own process: it serves on default settings,
// hears SIGHUP and ends on SIGTERM with code 0.
func TestServe(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "mailferry.yaml")
	if err := os.WriteFile(file, []byte(anyPort), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("mailferry", "serve", "--config", file, "--data", filepath.Join(dir, "data"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	logs, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill() // harmless when it has ended
	if line := await(t, out, "serves"); !strings.Contains(line, dir) {
		t.Errorf("first line %q", line)
	}
	log := bufio.NewReader(logs)
	signalProcess(t, cmd, syscall.SIGHUP)
	await(t, log, "configuration is reloaded")
	signalProcess(t, cmd, syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

func signalProcess(t *testing.T, cmd *exec.Cmd, s os.Signal) {
	t.Helper()
	if err := cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// await reads lines until one contains text.
func await(t *testing.T, r interface{ Read([]byte) (int, error) }, text string) string {
	t.Helper()
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if strings.Contains(lines.Text(), text) {
			return lines.Text()
		}
	}
	t.Fatalf("ended without %q: %v", text, lines.Err())
	return ""
}

// TestKilledNodeStartsAgain: what a kill leaves (socket, lock) is in nobody's
// way, and what was acknowledged is there.
func TestKilledNodeStartsAgain(t *testing.T) {
	dir := t.TempDir()
	file, data := filepath.Join(dir, "mailferry.yaml"), filepath.Join(dir, "data")
	if err := os.WriteFile(file, []byte(anyPort), 0o600); err != nil {
		t.Fatal(err)
	}
	start := func() *exec.Cmd {
		cmd := exec.Command("mailferry", "serve", "--config", file, "--data", data)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		await(t, out, "serves")
		return cmd
	}
	first := start()
	add := exec.Command("mailferry", "user", "add", "anna@example.org", "--password-stdin", "--data", data)
	add.Stdin = strings.NewReader("secret\n")
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait() // it was killed
	second := start()
	if out, err := exec.Command("mailferry", "user", "show", "anna@example.org", "--data", data).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := exec.Command("mailferry", "fsck", "--bodies", "--data", data).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	signalProcess(t, second, syscall.SIGTERM)
	if err := second.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}
