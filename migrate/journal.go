package migrate

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// journal is one batch on disk: DIR/journal, JSON lines that are only ever
// added. Lines that announce what cannot be done twice are synced before it is
// begun; the others with the next of those, or when the journal is closed. The last
// line may be torn by a crash; it is cut off at the next start.
type journal struct {
	dir string

	// syncing is held while f is synced, for all lines that are there by then: users
	// who are moved at the same time share the cost. It is taken before mu.
	syncing sync.Mutex

	mu sync.Mutex
	f  journalFile // nil when it is closed; guarded by mu
	// size is where the last whole line ends; guarded by mu
	size int64
	// parked: the batch is finished, and a line may come now and then; guarded by mu
	parked bool
	err    error // why it can never be written again; guarded by mu
	// Lines written, and those of them that are durable; guarded by mu.
	written, synced uint64

	alike certificateLines

	fresh bool // the directory is not durable yet; guarded by syncing
}

// journalFile is what a journal needs of its file, opened for appending.
type journalFile interface {
	io.WriteCloser
	Sync() error
	Truncate(size int64) error
}

// record is one line. Exactly one of its parts is set.
type record struct {
	Time  time.Time   `json:"time"`
	Batch *BatchSpec  `json:"batch,omitempty"` // the first line
	User  string      `json:"user,omitempty"`
	Move  *Move       `json:"move,omitempty"`
	Route *savedRoute `json:"route,omitempty"`
	// Messages and Octets beside the Move of a user who is done: what was copied.
	Messages int64 `json:"messages,omitempty"`
	Octets   int64 `json:"octets,omitempty"`
	// Order is an operator's: pause, continue, stop.
	Order string `json:"order,omitempty"`
	// Why a batch paused itself.
	Why string `json:"why,omitempty"`
}

// replayed is what a journal says.
type replayed struct {
	spec   BatchSpec
	moves  map[string]Move
	routes map[string]savedRoute
	order  string
	why    string // of a pause that nobody ordered
	// forgiven failed before an operator last went on.
	forgiven map[string]bool
	cutover  map[string]bool // users whose flip was ordered; the empty name: all
	figures  map[string]figures
}

const journalName = "journal"

// errNotBegun is a batch whose beginning was cut off before it was in its journal:
// nobody was told of it.
var errNotBegun = errors.New("no batch in it")

// createJournal begins a batch. It fails when the batch exists; what fails
// otherwise leaves nothing. What it wrote is durable when begun has returned.
func createJournal(dir string, spec *BatchSpec, now time.Time) (j *journal, err error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removeNotBegun(dir))
		}
	}()
	if err := writeSecrets(dir, spec); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, journalName), os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	j = &journal{dir: dir, f: f, fresh: true}
	if err := j.note(record{Time: now, Batch: spec}); err != nil {
		j.close()
		return nil, err
	}
	return j, nil
}

// removeNotBegun removes a batch that was not begun; what does not belong to one
// stays.
func removeNotBegun(dir string) error {
	for _, name := range []string{secretsName, journalName, ""} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// begun returns when the first line is durable.
func (j *journal) begun() error { return j.durable(1) }

// openJournal reads a batch and goes on behind its last whole line.
func openJournal(dir string) (*journal, *replayed, error) {
	f, err := os.OpenFile(filepath.Join(dir, journalName), os.O_RDWR|os.O_APPEND, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("journal of %s: %w", filepath.Base(dir), errNotBegun)
	}
	if err != nil {
		return nil, nil, err
	}
	r, size, err := replay(f)
	if err == nil {
		err = f.Truncate(size)
	}
	if err == nil {
		err = readSecrets(dir, &r.spec)
	}
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("journal of %s: %w", filepath.Base(dir), err)
	}
	return &journal{dir: dir, f: f, size: size}, r, nil
}

// replay reads whole lines; size is where they end. Only the last may be torn:
// rubbish before it is damage, and an error.
func replay(r io.Reader) (*replayed, int64, error) {
	out := &replayed{moves: make(map[string]Move), routes: make(map[string]savedRoute), figures: map[string]figures{}}
	br := bufio.NewReaderSize(r, 64<<10)
	var size int64
	var bad error
	for n := 1; ; n++ {
		line, err := br.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break // what is left has no end: torn
		}
		if err != nil {
			return nil, 0, err
		}
		if bad != nil {
			return nil, 0, bad
		}
		var rec record
		if err := json.Unmarshal(bytes.TrimSpace(line), &rec); err != nil {
			bad = fmt.Errorf("line %d: %w", n, err)
			continue
		}
		out.apply(&rec)
		size += int64(len(line))
	}
	switch {
	case out.spec.ID != "":
		return out, size, nil
	case size == 0 && bad == nil:
		return nil, 0, errNotBegun
	case bad == nil:
		bad = errors.New("it does not begin with a batch")
	}
	return nil, 0, bad
}

func (r *replayed) apply(rec *record) {
	switch {
	case rec.Batch != nil:
		r.spec = *rec.Batch
	case rec.Move != nil:
		r.moves[rec.User] = *rec.Move
		if rec.Messages > 0 || rec.Octets > 0 {
			r.figures[rec.User] = figures{users: 1, messages: rec.Messages, messagesDone: rec.Messages, octets: rec.Octets, octetsDone: rec.Octets}
		}
	case rec.Route != nil:
		r.routes[rec.User] = *rec.Route
	case rec.Order == orderCutover:
		if r.cutover == nil {
			r.cutover = map[string]bool{}
		}
		r.cutover[rec.User] = true
	case rec.Order != "":
		r.order, r.why = rec.Order, rec.Why
		if rec.Order != orderContinue {
			return
		}
		r.forgiven = map[string]bool{}
		for u, m := range r.moves {
			if m.State == Failed {
				r.forgiven[u] = true
			}
		}
	}
}

// move records where a user stands; durable when it returns.
func (j *journal) move(user string, m Move, now time.Time) error {
	return j.write(record{Time: now, User: user, Move: &m})
}

// moved is move with what was copied for the user; later: it need not be durable
// before another line is.
func (j *journal) moved(user string, m Move, f figures, now time.Time, later bool) error {
	r := record{Time: now, User: user, Move: &m, Messages: f.messagesDone, Octets: f.octetsDone}
	if later {
		return j.note(r)
	}
	return j.write(r)
}

// route is durable with the next line that is.
func (j *journal) route(user string, r savedRoute, now time.Time) error {
	return j.note(record{Time: now, User: user, Route: &r})
}

// order records what was ordered: rec's Order and Why.
func (j *journal) order(rec record) error { return j.write(rec) }

// write adds a line; it is durable when write returns.
func (j *journal) write(rec record) error {
	n, err := j.add(rec)
	if err != nil {
		return err
	}
	return j.durable(n)
}

// note adds a line that outlives this process at once, and the machine as soon as a
// later one is durable.
func (j *journal) note(rec record) error {
	_, err := j.add(rec)
	return err
}

// add writes a line and gives its number.
func (j *journal) add(rec record) (n uint64, err error) {
	line, err := json.Marshal(rec)
	if err != nil {
		return 0, err
	}
	line = append(line, '\n')
	j.mu.Lock()
	defer j.mu.Unlock()
	parked := j.f == nil && j.parked
	if parked {
		f, err := os.OpenFile(filepath.Join(j.dir, journalName), os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return 0, err
		}
		j.f = f
	}
	if j.f == nil {
		return 0, j.closed()
	}
	if _, err = j.f.Write(line); err != nil {
		// Half a line may be there. Without it the journal is as it was: the disk may
		// have room again later.
		if e2 := j.f.Truncate(j.size); e2 != nil {
			j.broke(errors.Join(err, e2))
		} else if parked {
			j.shut()
		}
		return 0, err
	}
	j.size += int64(len(line))
	j.written++
	if parked {
		j.shut()
	}
	return j.written, j.err
}

// durable returns when line n is, or with the error that forbids to tell.
func (j *journal) durable(n uint64) error {
	j.syncing.Lock()
	defer j.syncing.Unlock()
	j.mu.Lock()
	f, upTo, done := j.f, j.written, j.synced >= n
	j.mu.Unlock()
	if done {
		return nil
	}
	if f == nil {
		j.mu.Lock()
		defer j.mu.Unlock()
		return j.closed()
	}
	err := j.sync(f)
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil {
		j.broke(err)
		return err
	}
	j.synced = upTo
	return nil
}

// sync makes f durable, with its place at the first time; callers hold syncing.
func (j *journal) sync(f journalFile) error {
	err := f.Sync()
	if err == nil && j.fresh {
		err = errors.Join(syncDir(j.dir), syncDir(filepath.Dir(j.dir)))
		j.fresh = err != nil
	}
	return err
}

// closed is why nothing can be written; callers hold mu.
func (j *journal) closed() error { return cmp.Or(j.err, errors.New("journal is closed")) }

// broke ends the journal: half a line may be there, and nothing may follow it.
// Callers hold mu.
func (j *journal) broke(err error) {
	if j.f != nil {
		j.f.Close()
	}
	j.f, j.err, j.parked = nil, cmp.Or(j.err, err), false
}

// shut makes what is there durable and closes the file; callers hold mu and, while
// it is fresh, syncing; nobody syncs.
func (j *journal) shut() {
	if j.f == nil {
		return
	}
	if j.synced < j.written {
		if err := j.sync(j.f); err != nil {
			j.broke(err)
			return
		}
		j.synced = j.written
	}
	j.f.Close()
	j.f = nil
}

// usable reports that another line may be taken some time.
func (j *journal) usable() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err == nil && (j.f != nil || j.parked)
}

// compact replaces the journal of a finished batch by one that says where each
// user ended, in a line for the move and one for the route. A crash leaves the
// one or the other; what is written next follows in the new one. A journal that is
// not even twice as long is left alone.
func (j *journal) compact(spec *BatchSpec, moves map[string]Move, copied func(user string) figures, routes *routeTable, stopped bool) error {
	j.syncing.Lock()
	defer j.syncing.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.f == nil {
		return nil
	}
	path := filepath.Join(j.dir, journalName)
	now := time.Now().UTC().Truncate(time.Second)
	records := []record{{Time: now, Batch: spec}}
	for _, u := range spec.Users {
		if r, ok := routes.get(u); ok {
			records = append(records, record{Time: now, User: u, Route: &r})
		}
		m := moves[u]
		f := copied(u)
		records = append(records, record{Time: now, User: u, Move: &m, Messages: f.messagesDone, Octets: f.octetsDone})
	}
	if stopped {
		records = append(records, record{Time: now, Order: orderStop})
	}
	var b bytes.Buffer
	for _, r := range records {
		line, err := json.Marshal(r)
		if err != nil {
			return err
		}
		b.Write(append(line, '\n'))
	}
	if 2*int64(b.Len()) >= j.size {
		return nil
	}
	if err := writeSynced(path+".new", b.Bytes()); err != nil {
		return errors.Join(err, os.Remove(path+".new"))
	}
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		f.Close()
		return err
	}
	j.f.Close()
	j.f, j.size, j.fresh = f, int64(b.Len()), true // the name is not durable yet
	if err := j.sync(f); err != nil {
		j.broke(err)
		return err
	}
	j.synced = j.written
	return nil
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

func (j *journal) close() { _ = j.park(false) }

// park makes all lines durable and closes the journal; with more, lines may still
// come, each by itself.
func (j *journal) park(more bool) error {
	j.syncing.Lock()
	defer j.syncing.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	j.shut()
	j.parked = more && j.err == nil
	return errors.Join(j.err, j.alike.close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// batches lists the batches on disk, oldest name first.
func batches(dir string) ([]BatchID, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var ids []BatchID
	for _, e := range entries {
		if e.IsDir() && validID(BatchID(e.Name())) {
			ids = append(ids, BatchID(e.Name()))
		}
	}
	slices.Sort(ids)
	return ids, err
}
