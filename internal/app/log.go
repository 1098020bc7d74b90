package app

import (
	"errors"
	"io"
	"log/slog"

	"mailferry/internal/config"
)

// newLogger writes to w what level lets through; setLevel changes it later.
func newLogger(w io.Writer, c config.Log, level *slog.LevelVar) *slog.Logger {
	setLevel(level, c.Level)
	if w == nil {
		w = io.Discard
	}
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// setLevel takes a level that the configuration has checked.
func setLevel(level *slog.LevelVar, name string) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(name)); err != nil {
		l = slog.LevelInfo
	}
	level.Set(l)
}

func joinErrors(errs ...error) error { return errors.Join(errs...) }
