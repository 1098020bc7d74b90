package migrate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// secretsName is the file with the passwords that a batch was given, beside its
// journal. It goes when every user of the batch has moved.
const secretsName = "secrets"

// LogIn says as whom a user's mail at the old store is read, where the options
// say more than the store's configuration.
func (o *UserOptions) LogIn(t *remote.Target) error {
	if o.Login != "" {
		t.User = o.Login
	}
	if o.Password != "" {
		t.Password = o.Password
	}
	if o.PasswordFile == "" {
		return nil
	}
	text, err := os.ReadFile(o.PasswordFile)
	if err != nil {
		return backend.Errorf(backend.KindInvalid, "The file with the user's password cannot be read.", "%w", err)
	}
	t.Password = backend.Secret(strings.TrimRight(string(text), "\r\n"))
	return nil
}

// writeSecrets keeps the passwords of a batch, readable by this process's user alone.
func writeSecrets(dir string, spec *BatchSpec) error {
	secrets := map[string]string{}
	for u, o := range spec.Each {
		if o.Password != "" {
			secrets[u] = o.Password.Reveal()
		}
	}
	if len(secrets) == 0 {
		return nil
	}
	text, err := json.Marshal(secrets)
	if err != nil {
		return err
	}
	return writeSynced(filepath.Join(dir, secretsName), text)
}

// readSecrets puts them back after a restart.
func readSecrets(dir string, spec *BatchSpec) error {
	text, err := os.ReadFile(filepath.Join(dir, secretsName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	secrets := map[string]string{}
	if err := json.Unmarshal(text, &secrets); err != nil {
		return fmt.Errorf("%s: %w", secretsName, err)
	}
	for u, s := range secrets {
		o := spec.Each[u]
		o.Password = backend.Secret(s)
		if spec.Each == nil {
			spec.Each = map[string]UserOptions{}
		}
		spec.Each[u] = o
	}
	return nil
}

// forgetSecrets removes them.
func forgetSecrets(dir string) error {
	err := os.Remove(filepath.Join(dir, secretsName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
