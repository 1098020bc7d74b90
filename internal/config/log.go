package config

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"mailferry/internal/logs"
)

var (
	logLevels   = []string{"debug", "info", "warn", "error"}
	logFormats  = []string{"text", "json"}
	logServices = []string{"imap", "pop3", "managesieve", "lmtp", "proxy", "submission", "directory", "store", "migrate", "placements",
		"cluster", "admin", "tls"}
)

// checkLog reports what is wrong with the section log, but for its level.
func checkLog(l *Log, r *report) {
	oneOf(r, "log.format", l.Format, logFormats)
	for service, level := range l.Levels {
		oneOf(r, "log.levels."+service, service, logServices)
		oneOf(r, "log.levels."+service, level, logLevels)
	}
	for i := range l.Outputs {
		checkOutput(&l.Outputs[i], fmt.Sprintf("log.outputs[%d]", i), r)
	}
}

func checkOutput(o *LogOutput, key string, r *report) {
	if o.To == "" {
		return
	}
	oneOf(r, key+".to", o.To, []string{"stderr", "file", "syslog"})
	if o.Format != "" {
		oneOf(r, key+".format", o.Format, logFormats)
	}
	for i, s := range o.Services {
		oneOf(r, fmt.Sprintf("%s.services[%d]", key, i), s, logServices)
	}
	switch o.To {
	case "file":
		if o.Path == "" {
			r.add(key+".path", "is required for a file")
		}
		if o.Keep%(24*time.Hour) != 0 {
			r.add(key+".keep", "%s is not a number of whole days: write 24h, 168h, 720h", o.Keep)
		}
		if o.MaxSize < 1<<20 {
			r.add(key+".max_size", "is below 1MiB")
		}
		if o.Files < 0 {
			r.add(key+".files", "is below zero")
		}
	case "syslog":
		if _, _, err := logs.ParseSyslog(o.Address); err != nil {
			r.add(key+".address", "%v", err)
		}
		oneOf(r, key+".facility", o.Facility, slices.Sorted(maps.Keys(logs.Facilities)))
	}
}
