package store

import "mailferry/cluster/engine"

// NewMachine returns the logic of the shards, for the engine.
func NewMachine() engine.Machine { return machine{} }

type machine struct{}

// Apply runs one command; see engine.Machine.
func (machine) Apply(tx engine.Tx, shard engine.ShardID, cmd []byte) []byte { return nil }
