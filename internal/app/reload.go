package app

import (
	"fmt"
	"reflect"

	"mailferry/internal/config"
)

// Reload reads the configuration again and takes over certificates,
// directories and what is logged where. When anything is wrong, nothing
// changes. It logs what it did.
func (a *App) Reload() error {
	a.reloading.Lock()
	defer a.reloading.Unlock()
	next, err := a.o.Load()
	if err == nil {
		err = a.reload(next)
	}
	if err != nil {
		a.log.Error("configuration is not reloaded, the old one stays", "error", err)
		return err
	}
	a.log.Info("configuration is reloaded", "needs_restart", needRestart(a.conf, next))
	return nil
}

func (a *App) reload(next *config.Config) error {
	if err := a.logs.Reload(logOptions(a.o.Log, &next.Log)); err != nil {
		return err
	}
	if err := a.reloadRest(next); err != nil {
		return joinErrors(err, a.logs.Reload(logOptions(a.o.Log, &a.logConf)))
	}
	a.logConf = next.Log
	return nil
}

func (a *App) reloadRest(next *config.Config) error {
	dirs, err := a.makeDirectories(next)
	if err != nil {
		return fmt.Errorf("directories: %w", err)
	}
	if err := a.reloadClients(&next.TLS); err != nil {
		return joinErrors(err, dirs.close())
	}
	if _, err := acmeRoots(next.TLS.ACME); err != nil {
		return joinErrors(err, dirs.close())
	}
	if err := a.admins.load(&next.Admin); err != nil {
		return joinErrors(err, dirs.close())
	}
	if err := a.certs.load(next.TLS.Certificates, a.path(dirTLS), a.o.Now()); err != nil {
		return joinErrors(err, dirs.close())
	}
	a.reloadACME(next.TLS.ACME)
	if err := a.dirs.exchange(dirs); err != nil {
		a.log.Warn("old directories", "error", err)
	}
	return nil
}

// reloadClients takes over who signs users' certificates. Whether clients are
// asked for one at all needs a restart.
func (a *App) reloadClients(t *config.TLS) error {
	if a.conf.TLS.ClientCA == "" {
		return nil
	}
	if err := a.clients.load(t); err != nil {
		return fmt.Errorf("tls.client_ca: %w", err)
	}
	return nil
}

// needRestart names the settings that a reload leaves as they were.
func needRestart(was, is *config.Config) []string {
	var names []string
	v, w := reflect.ValueOf(*was), reflect.ValueOf(*is)
	for i := range v.NumField() {
		switch name := v.Type().Field(i).Tag.Get("mapstructure"); name {
		case "tls":
			names = append(names, needRestartTLS(&was.TLS, &is.TLS)...)
		case "directories", "cache", "log", "admin":
		default:
			if !reflect.DeepEqual(v.Field(i).Interface(), w.Field(i).Interface()) {
				names = append(names, name)
			}
		}
	}
	return names
}

// needRestartTLS: certificates and authorities are read again at a reload, what
// listeners do with them is not.
func needRestartTLS(was, is *config.TLS) (names []string) {
	if was.CleartextLogin != is.CleartextLogin {
		names = append(names, "tls.cleartext_login")
	}
	if was.SessionTickets != is.SessionTickets {
		names = append(names, "tls.session_tickets")
	}
	if (was.ClientCA == "") != (is.ClientCA == "") {
		names = append(names, "tls.client_ca")
	}
	return names
}
