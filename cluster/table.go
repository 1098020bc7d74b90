package cluster

// Table is a small versioned table in the Meta shard.
type Table struct {
	n        *Node
	watchers watchers
}

func (w *worker) applyTable(g *group, index uint64, payload []byte) (result []byte, refused, err error) {
	return nil, nil, nil
}
