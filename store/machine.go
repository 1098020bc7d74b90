package store

import (
	"fmt"

	"mailferry/backend"
	"mailferry/cluster/engine"
)

// A command begins with one octet that names it. What follows is fixed for
// ever, since logs keep commands: a change of its fields is a new command.
// 0xFF belongs to the engine.
const (
	cmdUserCreate = 1
	cmdUserUpdate = 2
	cmdUserRemove = 3

	cmdAccountCreate = 10
	cmdAccountRemove = 11
	cmdPurge         = 12
	cmdCreate        = 13
	cmdDelete        = 14
	cmdRename        = 15
	cmdSubscribe     = 16
	cmdClaimRecent   = 17

	cmdAppend     = 20
	cmdStoreFlags = 21
	cmdExpunge    = 22
	cmdCopy       = 23
	cmdDeliver    = 24
	cmdSettle     = 25
	// cmdDeliver, with a structure blob before the users
	cmdDeliverParsed = 26

	cmdImportBegin     = 30
	cmdImportOpen      = 31
	cmdImportRemove    = 32
	cmdImportSubscribe = 33
	cmdImportPut       = 34
	cmdImportFlags     = 35
	cmdImportVanish    = 36
	cmdImportSeal      = 37
	cmdImportActivate  = 38
	cmdImportReopen    = 39
	cmdImportPOP3      = 40
	// cmdImportPut, with a structure blob in each message
	cmdImportPutParsed = 41
	cmdImportSide      = 42
	cmdImportRename    = 50
	cmdImportCopies    = 51
)

// handler applies one kind of command. It refuses with a backend.Error before
// its first write; there is no way back after it.
type handler func(tx engine.Tx, d *decoder) ([]byte, error)

// handlers is a function, not a variable: nobody can change it.
func handlers(cmd byte) handler {
	switch cmd {
	case cmdUserCreate:
		return applyUserCreate
	case cmdUserUpdate:
		return applyUserUpdate
	case cmdUserRemove:
		return applyUserRemove
	case cmdAccountCreate:
		return applyAccountCreate
	case cmdAccountRemove:
		return applyAccountRemove
	case cmdPurge:
		return applyPurge
	case cmdCreate:
		return applyCreate
	case cmdDelete:
		return applyDelete
	case cmdRename:
		return applyRename
	case cmdSubscribe:
		return applySubscribe
	case cmdClaimRecent:
		return applyClaimRecent
	case cmdAppend:
		return applyAppend
	case cmdStoreFlags:
		return applyStoreFlags
	case cmdExpunge:
		return applyExpunge
	case cmdCopy:
		return applyCopy
	case cmdDeliver:
		return applyDeliver
	case cmdDeliverParsed:
		return applyDeliverParsed
	case cmdSettle:
		return applySettle
	}
	return importHandlers(cmd)
}

func importHandlers(cmd byte) handler {
	switch cmd {
	case cmdImportBegin:
		return applyImportBegin
	case cmdImportOpen:
		return applyImportOpen
	case cmdImportRemove:
		return applyImportRemove
	case cmdImportSubscribe:
		return applyImportSubscribe
	case cmdImportPut:
		return applyImportPut
	case cmdImportPutParsed:
		return applyImportPutParsed
	case cmdImportFlags:
		return applyImportFlags
	case cmdImportVanish:
		return applyImportVanish
	case cmdImportSeal:
		return applyImportSeal
	case cmdImportActivate:
		return applyImportActivate
	case cmdImportReopen:
		return applyImportReopen
	case cmdImportPOP3:
		return applyImportPOP3
	case cmdImportSide:
		return applyImportSide
	case cmdImportRename:
		return applyImportRename
	case cmdImportCopies:
		return applyImportCopies
	}
	return nil
}

// NewMachine returns the logic of the shards, for the engine.
func NewMachine() engine.Machine { return machine{} }

type machine struct{}

// Apply runs one command; see engine.Machine. The result is resultOK and the
// handler's answer, or resultRefused, the kind and the text. A command that
// cannot be decoded is refused, as all replicas agree on that; it panics only
// when the keyspace itself cannot be read.
func (machine) Apply(tx engine.Tx, _ engine.ShardID, cmd []byte) []byte {
	d := &decoder{b: cmd}
	h := handlers(d.byte())
	if h == nil {
		return refused(backend.NewError(backend.KindBug, "unknown command"))
	}
	answer, err := h(tx, d)
	if err != nil {
		return refused(err)
	}
	return append([]byte{resultOK}, answer...)
}

const (
	resultOK = iota
	resultRefused
)

func refused(err error) []byte {
	e := encoder{}
	e.byte(resultRefused)
	e.byte(byte(backend.KindOf(err)))
	e.string(backend.UserText(err))
	return e.b
}

// parseResult splits a result into the handler's answer and its refusal.
func parseResult(result []byte) (*decoder, error) {
	d := &decoder{b: result}
	switch d.byte() {
	case resultOK:
		return d, d.err
	case resultRefused:
		kind := backend.Kind(d.byte())
		return nil, backend.NewError(kind, d.string())
	default:
		return nil, fmt.Errorf("store: result of %d octets: %w", len(result), errCorrupt)
	}
}

// corrupt is the refusal of a command that cannot be decoded.
func corrupt(err error) error {
	return backend.Errorf(backend.KindBug, "malformed command", "%w", err)
}
