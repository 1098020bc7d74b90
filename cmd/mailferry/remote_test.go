package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mailferry/internal/app"
	"mailferry/internal/config"
	"mailferry/internal/mailtest"
)

// TestAdminByCertificate: all commands work from afar with a certificate that
// the configuration names, and with no other; a reload changes who that is.
func TestAdminByCertificate(t *testing.T) {
	dir := t.TempDir()
	ours, theirs := mailtest.NewCA(t), mailtest.NewCA(t)
	file := filepath.Join(dir, "mailferry.yaml")
	write := func(admins string) {
		text := anyPort + fmt.Sprintf("tls: {certificates: [{cert: %q, key: %q}]}\nadmin: {client_ca: %q, clients: [%s]}\n", ours.Server, ours.Key, ours.Cert, admins)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("ops")
	o := config.Options{File: file, Data: filepath.Join(dir, "data"), LookupEnv: func(string) (string, bool) { return "", false }}
	var log bytes.Buffer
	node, err := app.New(context.Background(), app.Options{Load: func() (*config.Config, error) { return config.Load(o) }, Log: &log})
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	stopped := false
	defer func() {
		if !stopped {
			node.Stop()
		}
	}()
	run := func(args ...string) (string, error) {
		cmd := exec.Command("mailferry", append(args, "--admin", "https://"+node.Addr("admin"), "--ca", ours.Cert)...)
		cmd.Stdin = strings.NewReader("secret\n")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	as := func(ca *mailtest.CA, name string) []string {
		cert, key := ca.Issue(t, name)
		return []string{"--cert", cert, "--key", key}
	}
	ops, guest := as(ours, "ops"), as(ours, "guest")
	for _, args := range [][]string{{"user", "add", "anna@example.org", "--password-stdin"}, {"user", "list"}, {"who"}, {"explain", "anna@example.org"},
		{"verify-routes"}, {"drain", "status"}, {"placements"}, {"health"}, {"fsck"}} {
		if out, err := run(append(args, ops...)...); err != nil {
			t.Errorf("%q: %v\n%s", args, err, out)
		}
	}
	for name, tt := range map[string]struct {
		cert []string
		want string
	}{
		"none":                    {nil, "an admin's name and password are needed"},
		"not named":               {guest, "an admin's name and password are needed"},
		"of another authority":    {as(theirs, "ops"), "certificate"},
		"half":                    {ops[:2], "--cert and --key go together"},
		"key that does not match": {[]string{ops[0], ops[1], guest[2], guest[3]}, "private key does not match"},
	} {
		if out, err := run(append([]string{"user", "list"}, tt.cert...)...); err == nil || !strings.Contains(out, tt.want) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	if out, err := exec.Command("mailferry", "who", "--admin", "http://"+node.Addr("admin")).CombinedOutput(); err == nil || !strings.Contains(string(out), "write https://host:8443") {
		t.Errorf("%v\n%s", err, out)
	}
	write("guest")
	if err := node.Reload(); err != nil {
		t.Fatal(err)
	}
	if out, err := run(append([]string{"user", "list"}, ops...)...); err == nil {
		t.Errorf("after the reload ops is still an admin:\n%s", out)
	}
	if out, err := run(append([]string{"user", "list"}, guest...)...); err != nil {
		t.Errorf("after the reload guest is none: %v\n%s", err, out)
	}
	stopped = true
	if err := node.Stop(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "admin=ops") || strings.Contains(log.String(), "needs_restart=[admin]") {
		t.Errorf("log:\n%s", log.String())
	}
}
