package enginetest

import (
	"encoding/binary"
	"encoding/json"
	"fmt"

	"mailferry/cluster/engine"
)

// Op is one step of a command for Machine.
type Op struct {
	Do    string `json:"do"`
	Key   string `json:"key,omitempty"`
	Value string `json:"value,omitempty"`
	// Body is the position of a body that came with the command; By refers to a
	// body by the key under which it was filed.
	Body int    `json:"body,omitempty"`
	By   string `json:"by,omitempty"`
}

// Machine is a small machine for tests. A command is a JSON list of Ops:
//
//	set, delete     Key
//	deleterange     Key to Value
//	add             1 to the counter at Key
//	append          Value to the list at Key: the order of commands
//	get             Key; its value becomes the result
//	scan            the pairs from Key to Value become the result
//	file            Body under Key, with one more owner
//	share           the body filed under By under Key as well
//	unfile          Key, with one owner less for its body
//	publish         Key
//	index           the command's index becomes the result
type Machine struct{}

// Command encodes ops.
func Command(ops ...Op) []byte {
	b, err := json.Marshal(ops)
	if err != nil {
		panic(err) // strings and integers always encode
	}
	return b
}

// Apply implements engine.Machine.
func (Machine) Apply(tx engine.Tx, _ engine.ShardID, cmd []byte) []byte {
	var ops []Op
	if err := json.Unmarshal(cmd, &ops); err != nil {
		return []byte("bad command: " + err.Error())
	}
	var result []byte
	for _, op := range ops {
		result = apply(tx, op, result)
	}
	return result
}

func apply(tx engine.Tx, op Op, result []byte) []byte {
	key := []byte(op.Key)
	switch op.Do {
	case "set":
		tx.Set(key, []byte(op.Value))
	case "delete":
		tx.Delete(key)
	case "deleterange":
		tx.DeleteRange(key, []byte(op.Value))
	case "add":
		n := binary.BigEndian.AppendUint64(nil, Counter(get(tx, key))+1)
		tx.Set(key, n)
		return n
	case "append":
		tx.Set(key, append(get(tx, key), op.Value...))
	case "get":
		return get(tx, key)
	case "scan":
		return scan(tx, key, []byte(op.Value))
	case "file":
		file(tx, key, tx.Body(op.Body))
	case "share":
		file(tx, key, FiledBody(get(tx, []byte(op.By))))
	case "unfile":
		tx.ReleaseBody(FiledBody(get(tx, key)))
		tx.Delete(key)
	case "publish":
		tx.Publish(op.Key)
	case "index":
		return binary.BigEndian.AppendUint64(nil, tx.Index())
	}
	return result
}

func get(tx engine.Tx, key []byte) []byte {
	v, err := tx.Get(key)
	if err != nil {
		return nil
	}
	return v
}

func scan(tx engine.Tx, lower, upper []byte) []byte {
	var out []byte
	it := tx.Iter(lower, upper)
	for ok := it.First(); ok; ok = it.Next() {
		out = fmt.Appendf(out, "%s=%s;", it.Key(), it.Value())
	}
	if err := it.Close(); err != nil {
		return []byte(err.Error())
	}
	return out
}

func file(tx engine.Tx, key []byte, id engine.BodyID) {
	tx.RetainBody(id)
	tx.Set(key, binary.BigEndian.AppendUint64(nil, uint64(id)))
}

// Counter decodes the value of a counter; 0 when there is none.
func Counter(v []byte) uint64 {
	if len(v) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(v)
}

// FiledBody decodes the value under which a body is filed; 0 when there is none.
func FiledBody(v []byte) engine.BodyID { return engine.BodyID(Counter(v)) }
