package cluster

import (
	"context"
	"fmt"
	"log/slog"
)

// raftLogger passes Raft's messages on; most are of interest to nobody but a
// developer.
type raftLogger struct{ log *slog.Logger }

func (l raftLogger) put(level slog.Level, format string, args []any) {
	if !l.log.Enabled(context.Background(), level) {
		return
	}
	text := ""
	if format != "" {
		text = fmt.Sprintf(format, args...)
	} else {
		text = fmt.Sprint(args...)
	}
	l.log.Log(context.Background(), level, "raft: "+text)
}

func (l raftLogger) Debug(v ...any)                   { l.put(slog.LevelDebug-4, "", v) }
func (l raftLogger) Debugf(format string, v ...any)   { l.put(slog.LevelDebug-4, format, v) }
func (l raftLogger) Info(v ...any)                    { l.put(slog.LevelDebug, "", v) }
func (l raftLogger) Infof(format string, v ...any)    { l.put(slog.LevelDebug, format, v) }
func (l raftLogger) Warning(v ...any)                 { l.put(slog.LevelDebug, "", v) }
func (l raftLogger) Warningf(format string, v ...any) { l.put(slog.LevelDebug, format, v) }
func (l raftLogger) Error(v ...any)                   { l.put(slog.LevelWarn, "", v) }
func (l raftLogger) Errorf(format string, v ...any)   { l.put(slog.LevelWarn, format, v) }

// Fatal and Panic are Raft's assertions: the replica cannot go on. The panic is
// recovered where Raft is called and stops the node.
func (l raftLogger) Fatal(v ...any)                 { panic(fmt.Sprint(v...)) }
func (l raftLogger) Fatalf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }
func (l raftLogger) Panic(v ...any)                 { panic(fmt.Sprint(v...)) }
func (l raftLogger) Panicf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }
