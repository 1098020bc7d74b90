package app

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// banner prints how to connect: at the first start with passwords, later
// without. The file that marks a first start goes when they are out.
func (a *App) banner(made *credentials) error {
	if a.o.Banner == nil {
		return nil
	}
	var b strings.Builder
	if made == nil {
		fmt.Fprintf(&b, "mailferry serves; everything is kept in %s.\n", a.conf.Data)
		a.listAddresses(&b)
	} else {
		a.firstBanner(&b, made)
	}
	if _, err := a.o.Banner.Write([]byte(b.String())); err != nil {
		return err
	}
	if made != nil {
		return os.Remove(a.path(fileFirst))
	}
	return nil
}

func (a *App) listAddresses(b *strings.Builder) {
	for _, name := range []string{"imap", "imaps", "pop3", "pop3s", "managesieve", "lmtp", "submission", "submissions", "admin"} {
		if addr := a.listeners.addr(name); addr != "" {
			fmt.Fprintf(b, "  %-12s %s\n", name, addr)
		}
	}
}

// firstBanner shows the passwords, once, in commands that are ready to paste.
func (a *App) firstBanner(b *strings.Builder, c *credentials) {
	fmt.Fprintf(b, "mailferry serves; everything is kept in %s. These passwords are shown only now:\n\n", a.conf.Data)
	if c.userName != "" {
		fmt.Fprintf(b, "  %-16s %s\n", c.userName, c.userPassword.Reveal())
	}
	fmt.Fprintf(b, "  %-16s %s   (kept in %s)\n\n", c.adminName, c.adminPassword.Reveal(), a.path(fileSecret))
	a.listAddresses(b)

	curl := "curl"
	ca := ""
	if len(a.conf.TLS.Certificates) == 0 {
		ca = a.absolute(filepath.Join(dirTLS, "ca.pem"))
		curl += " --cacert " + ca
	}
	if c.userName != "" {
		a.userCommands(b, c.userName, c.userPassword.Reveal(), curl, ca)
	}
	if admin := clientAddr(a.Addr("admin")); admin != "" {
		fmt.Fprintf(b, "\nAdministrate:\n  mailferry user list --data %s\n  %s --user \"$(cat %s)\" https://%s/metrics\n\n",
			a.conf.Data, curl, a.path(fileSecret), admin)
	}
}

// userCommands read and send a user's mail.
func (a *App) userCommands(b *strings.Builder, user, password, curl, ca string) {
	login := user + ":" + password
	if imaps := clientAddr(a.Addr("imaps")); imaps != "" {
		fmt.Fprintf(b, "\nRead mail:\n")
		fmt.Fprintf(b, "  %s --user '%s' 'imaps://%s/INBOX?ALL'\n", curl, login, imaps)
		fmt.Fprintf(b, "  mutt -n -F /dev/null %s-e 'set folder=imaps://%s:%s@%s/ spoolfile=+INBOX record=+Sent postponed=+Drafts'\n",
			muttCA(ca), url.QueryEscape(user), password, imaps)
		fmt.Fprintf(b, "  openssl s_client -quiet -crlf %s-connect %s    # then type: a LOGIN %s %s\n", opensslCA(ca), imaps, user, password)
	}
	if smtp := clientAddr(a.Addr("submission")); smtp != "" {
		fmt.Fprintf(b, "\nSend mail, to yourself or to admin@localhost:\n")
		fmt.Fprintf(b, "  printf 'From: %[1]s\\r\\nTo: %[1]s\\r\\nSubject: hello\\r\\n\\r\\nIt works.\\r\\n' |\n"+
			"    %[2]s --ssl-reqd --user '%[3]s' --mail-from %[1]s --mail-rcpt %[1]s --upload-file - smtp://%[4]s\n", user, curl, login, smtp)
		fmt.Fprintf(b, "  echo 'It works.' | mutt -n -F /dev/null %s-e 'set from=%s smtp_url=smtp://%s:%s@%s/ copy=no' -s hello %[2]s\n",
			muttCA(ca), user, url.QueryEscape(user), password, smtp)
		fmt.Fprintf(b, "  openssl s_client -quiet -crlf -starttls smtp %s-connect %s    # then type: EHLO me\n", opensslCA(ca), smtp)
	}
}

func muttCA(ca string) string {
	if ca == "" {
		return ""
	}
	return fmt.Sprintf("-e 'set ssl_starttls=yes ssl_force_tls=yes certificate_file=%s' ", ca)
}

func opensslCA(ca string) string {
	if ca == "" {
		return ""
	}
	return "-CAfile " + ca + " "
}

func (a *App) absolute(name string) string {
	p, err := filepath.Abs(a.path(name))
	if err != nil {
		return a.path(name)
	}
	return p
}

// clientAddr is how a client on this machine reaches a listener; the generated
// certificate is for localhost.
func clientAddr(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return ""
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsLoopback() || ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}
