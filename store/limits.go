package store

// MaxStructure bounds the blob kept with a message.
const MaxStructure = 32 << 10
