package app

import (
	"errors"
	"io"
	"log/slog"

	"mailferry/internal/config"
	"mailferry/internal/logs"
)

// logOptions turns the configuration into what the log understands; w stands
// for standard error.
func logOptions(w io.Writer, c *config.Log) logs.Options {
	o := logs.Options{Level: levelOf(c.Level), Levels: map[string]slog.Level{}}
	for service, level := range c.Levels {
		o.Levels[service] = levelOf(level)
	}
	if len(c.Outputs) == 0 {
		o.Outputs = []logs.Output{{JSON: c.Format == "json", Writer: w}}
	}
	for i := range c.Outputs {
		p := &c.Outputs[i]
		out := logs.Output{JSON: p.Format == "json" || p.Format == "" && c.Format == "json", Services: p.Services}
		switch p.To {
		case "file":
			out.File = &logs.File{Path: p.Path, MaxSize: int64(p.MaxSize), Keep: p.Keep, Files: p.Files}
		case "syslog":
			out.Syslog = &logs.Syslog{Address: p.Address, Facility: p.Facility}
		default:
			out.Writer = w
		}
		o.Outputs = append(o.Outputs, out)
	}
	return o
}

// levelOf takes a level that the configuration has checked.
func levelOf(name string) slog.Level {
	var l slog.Level
	if err := l.UnmarshalText([]byte(name)); err != nil {
		return slog.LevelInfo
	}
	return l
}

func joinErrors(errs ...error) error { return errors.Join(errs...) }
