package migrate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// secretsName is the file with the passwords that a batch was given, beside its
// journal, mode 0600. It goes when nobody of the batch needs them any more: see
// needsPassword.
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

// needsPassword reports that a user's password may be asked for again: by the batch
// itself, by a soak, by a retry, or by the cutover of a copy. Callers hold mu.
func (b *batch) needsPassword(user string) bool {
	switch m := b.moves[user]; {
	case m.State == Final, m.State == Checked && m.Done():
		return false
	case m.State == Soaking, m.held() && !m.Done():
		return true
	default:
		return !b.stopped
	}
}

// needPasswords are those users of a batch that has ended whose passwords are kept.
func (b *batch) needPasswords() (users []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ended || !b.secrets {
		return nil
	}
	for u, o := range b.spec.Each {
		if o.Password != "" && b.needsPassword(u) {
			users = append(users, u)
		}
	}
	if len(users) == 0 {
		b.forgetSecrets()
	}
	return users
}

// forgetSecrets removes the passwords of a batch from the disk; callers hold mu.
func (b *batch) forgetSecrets() {
	if err := forgetSecrets(b.journal.dir); err != nil {
		b.log.Error("passwords of a batch are left on the disk", "batch", b.spec.ID, "error", err)
		return
	}
	b.secrets = false
}

// sweepSecrets removes passwords that nobody needs any more: also those of users who
// have moved in a later batch.
func (e *Engine) sweepSecrets() {
	e.mu.Lock()
	list := slices.Collect(maps.Values(e.batches))
	e.mu.Unlock()
	for _, b := range list {
		users := b.needPasswords()
		if len(users) == 0 {
			continue
		}
		open := slices.ContainsFunc(users, func(u string) bool {
			return !slices.ContainsFunc(list, func(o *batch) bool { return o.spec.ID > b.spec.ID && o.state(u) == Final })
		})
		if !open {
			b.mu.Lock()
			b.forgetSecrets()
			b.mu.Unlock()
		}
	}
}

// state is where a user of a batch stands; Listed also for who is not part of it.
func (b *batch) state(user string) State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.moves[user].State
}

// forgetSecrets removes them.
func forgetSecrets(dir string) error {
	err := os.Remove(filepath.Join(dir, secretsName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
