package proxy

import (
	"context"
	"log/slog"
	"net"
)

// address is written as text, when it is written.
type address struct{ net.Addr }

// LogValue implements slog.LogValuer.
func (a address) LogValue() slog.Value { return slog.StringValue(a.String()) }

// labelled is a logger with attributes that are put together only when
// something is logged: most sessions log little, and none what is switched off.
// The zero value logs nothing. Safe for concurrent use.
type labelled struct {
	l     *slog.Logger
	attrs [2]slog.Attr
}

func label(l *slog.Logger, a, b slog.Attr) labelled { return labelled{l, [2]slog.Attr{a, b}} }

// on reports whether lines of a level are kept.
func (l labelled) on(level slog.Level) bool {
	return l.l != nil && l.l.Enabled(context.Background(), level)
}

func (l labelled) log(level slog.Level, msg string, args []any) {
	if l.on(level) {
		l.l.With(l.attrs[0], l.attrs[1]).Log(context.Background(), level, msg, args...)
	}
}

func (l labelled) Debug(msg string, args ...any) { l.log(slog.LevelDebug, msg, args) }
func (l labelled) Info(msg string, args ...any)  { l.log(slog.LevelInfo, msg, args) }
func (l labelled) Warn(msg string, args ...any)  { l.log(slog.LevelWarn, msg, args) }
