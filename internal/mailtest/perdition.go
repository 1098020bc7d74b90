package mailtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// PerditionOptions describe a Perdition in IMAP mode.
type PerditionOptions struct {
	Dir    string   // from PerditionDir
	Config string   // lines of its configuration file
	Args   []string // further options of the command line
}

// Perdition is a running Perdition.
type Perdition struct {
	Addr   string // IMAP, host:port
	Config string // the file
}

// PerditionDir makes a directory for maps, gone when the test ends.
func PerditionDir(t testing.TB) string {
	t.Helper()
	Require(t, "perdition")
	dir := tempDir(t, "", "perdition")
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// PerditionLibrary is the path of a module of Perdition: gdbm, posix_regex, ldap.
func PerditionLibrary(t testing.TB, name string) string {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/*/libperditiondb_" + name + ".so.0")
	if len(found) == 0 {
		t.Fatalf("no module %s of perdition", name)
	}
	return found[0]
}

// MakeGDBM makes the database of a popmap beside it and returns its path.
func MakeGDBM(t testing.TB, popmap string) string {
	t.Helper()
	in, err := os.Open(popmap)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	db := popmap + ".gdbm.db"
	cmd := exec.Command("makegdbm", db)
	cmd.Stdin = in
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("makegdbm: %v\n%s", err, out)
	}
	return db
}

// StartPerdition runs Perdition on a free port of 127.0.0.1. stop ends it; the
// end of the test does, too.
func StartPerdition(t testing.TB, o PerditionOptions) (p *Perdition, stop func()) {
	t.Helper()
	bin, err := program("perdition")
	if err != nil {
		t.Fatal(err)
	}
	addr := freeAddr(t)
	p = &Perdition{Addr: addr, Config: write(t, "bind_address "+addr+"\n"+o.Config, o.Dir, fmt.Sprintf("perdition-%s.conf", port(addr)))}
	d := &daemon{name: "perdition", dir: tempDir(t, "", "perdition"), addr: []string{addr}, argv: append([]string{bin,
		"--no_daemon", "--protocol", "IMAP4", "--username", "root", "--group", "root",
		"--pid_file", "", "--log_facility", "+", "--config_file", p.Config}, o.Args...)}
	d.run(t)
	return p, d.kill
}
