package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write docs/configuration.md anew")

func noEnv(string) (string, bool) { return "", false }

// TestMistakes loads files with mistakes; each says on top what is to be reported.
func TestMistakes(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, ".good.yaml") {
			continue
		}
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for _, m := range regexp.MustCompile(`(?m)^# want: (.*)$`).FindAllStringSubmatch(string(text), -1) {
				want = append(want, file+":"+m[1])
			}
			_, err = Load(Options{File: file, LookupEnv: noEnv})
			var got Problems
			if !errors.As(err, &got) {
				t.Fatalf("Load: %v", err)
			}
			if diff := cmp.Diff(want, strings.Split(got.Error(), "\n")); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDefaultsAreAWholeSystem(t *testing.T) {
	c, err := Load(Options{LookupEnv: noEnv})
	if err != nil {
		t.Fatal(err)
	}
	if c.LocalStore() == nil || c.LocalStore().Name != "home" {
		t.Errorf("stores: %+v", c.Stores)
	}
	if len(c.Directories) != 1 || c.Directories[0].Store != "home" || c.Directories[0].Passwords != PasswordsBind {
		t.Errorf("directories: %+v", c.Directories)
	}
	if diff := cmp.Diff([]string{"127.0.0.1:1143"}, c.Listen.IMAP); diff != "" {
		t.Error(diff)
	}
}

func TestFullFile(t *testing.T) {
	c, err := Load(Options{File: "testdata/full.good.yaml", LookupEnv: noEnv})
	if err != nil {
		t.Fatal(err)
	}
	d := c.Directories[0]
	if d.BindPassword.Reveal() != "s3cret" || d.Write.Password.Reveal() != "s3cret" {
		t.Error("secrets were not read from their files")
	}
	if c.Cache.For != 10*time.Minute || c.Shutdown != time.Minute || c.Limits.Message != 100<<20 {
		t.Errorf("values: %v %v %v", c.Cache.For, c.Shutdown, c.Limits.Message)
	}
	if got := c.TLS.Certificates[0].Cert; got != filepath.Join("testdata", "mail.pem") {
		t.Errorf("certificate: %s", got)
	}
	shown, err := Show(c)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(shown, "s3cret") {
		t.Error("Show shows a secret")
	}
}

// TestShowLoads: what Show prints is a configuration again.
func TestShowLoads(t *testing.T) {
	c, err := Load(Options{File: "testdata/full.good.yaml", LookupEnv: noEnv})
	if err != nil {
		t.Fatal(err)
	}
	shown, err := Show(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parse([]byte(shown), Options{LookupEnv: noEnv}); err != nil {
		t.Errorf("%v\n%s", err, shown)
	}
}

func TestPortsMoveDefaultsOnly(t *testing.T) {
	c, err := Load(Options{File: "testdata/full.good.yaml", Ports: 20000, LookupEnv: noEnv})
	if err != nil {
		t.Fatal(err)
	}
	got := []string{c.Listen.IMAP[0], c.Listen.IMAPS[0], c.Listen.LMTP[0], c.Listen.Submissions[0], c.Listen.Admin[0]}
	want := []string{":143", "127.0.0.1:20001", "127.0.0.1:20005", "127.0.0.1:20008", "127.0.0.1:20009"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestEnvironment(t *testing.T) {
	env := map[string]string{"MAILFERRY_LOG_LEVEL": "debug", "MAILFERRY_LISTEN_IMAP": "127.0.0.1:1, 127.0.0.1:2"}
	lookup := func(k string) (string, bool) { v, ok := env[k]; return v, ok }
	c, err := Load(Options{LookupEnv: lookup})
	if err != nil {
		t.Fatal(err)
	}
	if c.Log.Level != "debug" || len(c.Listen.IMAP) != 2 || c.Listen.IMAP[1] != "127.0.0.1:2" {
		t.Errorf("log %+v, listen %+v", c.Log, c.Listen)
	}
	env["MAILFERRY_SHUTDOWN"] = "5"
	if _, err = Load(Options{LookupEnv: lookup}); err == nil || !strings.Contains(err.Error(), "MAILFERRY_SHUTDOWN") {
		t.Errorf("bad value in the environment: %v", err)
	}
}

// TestExample loads the example as it is and with every setting switched on.
func TestExample(t *testing.T) {
	if _, err := parse([]byte(Example), Options{LookupEnv: noEnv}); err != nil {
		t.Errorf("as it is: %v", err)
	}
	full := regexp.MustCompile(`(?m)^#( *[a-z-])`).ReplaceAllStringFunc(Example, func(s string) string {
		if strings.HasPrefix(s, "# ") && !strings.HasPrefix(s, "#  ") {
			return s
		}
		return s[1:]
	})
	c, err := parse([]byte(full), Options{LookupEnv: noEnv})
	if err != nil {
		t.Fatalf("with all settings: %v\n%s", err, full)
	}
	if len(c.Directories) != 2 || len(c.Stores) != 2 || len(c.MoveGroups) != 1 || len(c.TLS.Certificates) != 1 {
		t.Errorf("settings are missing:\n%s", full)
	}
}

// TestReference keeps docs/configuration.md true; -update writes it.
func TestReference(t *testing.T) {
	const page = "../../docs/configuration.md"
	if *update {
		if err := os.WriteFile(page, []byte(Reference()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Reference(), string(have)); diff != "" {
		t.Errorf("%s is behind the code; run: go test ./internal/config -update\n%s", page, diff)
	}
}

func TestEveryKeyIsDocumented(t *testing.T) {
	if strings.Contains(Reference(), "|  |\n") {
		t.Error("a key has no doc tag")
	}
}
