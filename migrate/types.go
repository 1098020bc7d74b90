package migrate

// BatchID names a batch of moves; it is a directory's name.
type BatchID string
