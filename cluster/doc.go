// Package cluster keeps the shards' data: it implements engine.Engine with one
// Raft group per shard (go.etcd.io/raft) on Pebble and body segments. One voter
// runs the same code as three. It knows names, epochs and bytes, not mail.
//
// # The way of a command
//
// Propose encodes the command and its bodies into one log entry and hands it to
// the driver loop, of which a node has one for all shards. The driver steps all
// groups that have work and passes on what Raft asks for: messages to the
// Transport; log entries to the log writer, which puts those of all groups into
// one Pebble batch and syncs it once; committed entries to the apply workers,
// each of which owns some of the shards and applies several commands of several
// shards in one batch. Propose returns after its entry is synced on a quorum and
// applied here. The driver neither syncs nor applies, so ticks and heartbeats
// wait for neither. With one voter nothing ticks.
//
// Only the leader's replica takes commands; others return engine.ErrNotLeader
// (LeaderOf names the leader), as forwarding could repeat a command. Changes of
// the Table, which a repetition cannot harm, are forwarded. View asks the leader
// from any replica (ReadIndex); a single voter answers at once.
//
// When the leader changes, commands under way end with
// engine.ErrUnknownOutcome.
//
// # Bodies
//
// The proposer compresses a body in blocks of 128 KiB, each a frame with a
// CRC32C. Up to 256 KiB of frames ride in the command's entry; of a larger body
// the frames go ahead in chunk entries, at most 4 of them under way. Apply copies
// frames into the worker's segment file and files a record (places, owners,
// SHA-256 of the original octets) in the state. A command some of whose chunks
// were lost in a change of leader is refused by every replica with
// engine.ErrNotLeader. Chunks whose command never comes are given up through the
// log: by their writer, or by the next leader once it serves, since chunks that
// came through another leader cannot be continued.
//
// With one voter, bodies that come in bulk (NewBulkBody) and what is larger than
// 256 KiB go the other way round: a placer appends their frames to a segment of
// its own while they come, Propose syncs that once for all bodies of the command,
// and the entry names the places instead of carrying the frames. Nothing is
// written twice and nothing waits in memory. Several voters cannot do so, as an
// entry has to bring all that a replica needs.
//
// # What is durable when
//
//	log/     Pebble: entries and hard states; synced before anything is acknowledged
//	state/   Pebble without a write-ahead log: keys, body records, the table and the
//	         applied index, always in one batch; durable when flushed
//	bodies/  segment files: the name is synced when a file is made, its contents at
//	         a checkpoint, those of a placer before the entry that names them; a
//	         file is written by one run of the process only
//
// A checkpoint, after each CheckpointBytes of log and at Close, does in this
// order: note the applied indexes, sync the segments, flush the state, cut the
// logs, remove the segments that had no live bytes before the flush. The log is
// cut behind the noted index, with several voters also only behind what all of
// them have on disk, which the leader tells through the log. So a voter that is
// away keeps the logs growing until it returns; there are no snapshots yet.
//
// What a crash leaves, and who cleans it up:
//
//	state behind the log             Raft hands out the entries again: replay
//	state flushed ahead of segments  Open verifies the frames of all entries between
//	                                 the last checkpoint and the applied index and
//	                                 writes damaged ones again from the log
//	frames the state knows nothing   not live: their segment goes at a checkpoint when
//	of (from before a replay, or     nothing else in it is live
//	placed without a command)
//	a torn end of a segment          never referred to, or repaired as above; new
//	                                 frames always go into a new file
//	chunks without a command         the next leader gives them up
//	a log not cut                    the next checkpoint cuts it
//
// # Faults
//
// The first error of a disk write, or a read that Raft or apply depends on, stops
// the whole node: it acknowledges nothing any more, writes nothing and returns
// engine.ErrStopped; Failed tells. So does a panic of the Machine. Pebble is
// shielded from write errors (see failStopFS), because it would end the process.
//
// # Bounds
//
// Proposals in flight are bounded in number and bytes (further ones wait in
// order), messages from other nodes in number (further ones are dropped, Raft
// repeats), chunks per body, entries per message and per apply in bytes.
package cluster
