// Package app wires the rooms of a node together and runs them: listeners are
// bound before anything is served, parts start in order and stop in reverse,
// and a reload that fails leaves the old state running. Several nodes can run
// in one process.
package app
