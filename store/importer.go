package store

import "mailferry/backend"

// Importer is the store's side of a move.
func (s *Store) Importer() backend.Importer { return nil }
