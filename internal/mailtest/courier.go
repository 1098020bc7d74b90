package mailtest

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// CourierOptions describes a Courier. In the zero value every user exists.
type CourierOptions struct {
	Users    map[string]string // when set only these exist, with these passwords
	Password string            // of every user otherwise; default "secret"
	CA       *CA               // of its certificate; default a new one
	Extra    string            // more shell assignments, for example IMAP_ENHANCEDIDLE=1
}

// Courier is a running Courier 5 with Debian's settings but for AUTH=PLAIN and
// AUTH=LOGIN, which are offered: IMAP and POP3 with STARTTLS and plain-text
// logins. Its separator is "." and everything is below "INBOX."; it has no
// administrator who may log in for others, no LMTP and no ManageSieve. Its
// storage is Maildir++; a user's is made at the first login.
type Courier struct {
	IMAP, IMAPS, POP3, POP3S string // host:port

	Separator, Prefix string
	Password          string
	CA                *CA

	home string // of the users, as seen outside of the root
	d    *daemon
	seq  atomic.Int64 // of files delivered
}

// CourierRoot is the root directory in which Courier is installed.
func CourierRoot() string { return envOr("COURIER_ROOT", filepath.Join(cacheDir(), "courier")) }

// StartCourier starts a Courier in a directory of its own below CourierRoot.
func StartCourier(t testing.TB, o CourierOptions) *Courier {
	t.Helper()
	Require(t, "courier")
	c := &Courier{IMAP: freeAddr(t), IMAPS: freeAddr(t), POP3: freeAddr(t), POP3S: freeAddr(t),
		Separator: ".", Prefix: "INBOX.", Password: orString(o.Password, "secret"), CA: certOf(t, o.CA)}
	dir := tempDir(t, filepath.Join(CourierRoot(), "tmp"), "courier")
	c.home = filepath.Join(dir, "mail")
	for _, sub := range []string{"mail", "etc", "run/authdaemon"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c.writeConfig(t, dir, o)
	c.d = &daemon{name: "courier", dir: dir, addr: []string{c.IMAP, c.IMAPS, c.POP3, c.POP3S},
		argv: []string{"/bin/sh", "-c", courierEnter, "courier", dir, CourierRoot()}}
	c.d.run(t)
	return c
}

func (c *Courier) writeConfig(t testing.TB, dir string, o CourierOptions) {
	t.Helper()
	for _, name := range []string{"imapd", "imapd-ssl", "pop3d", "pop3d-ssl", "authdaemonrc", "dhparams.pem"} {
		b, err := os.ReadFile(filepath.Join(CourierRoot(), "etc/courier", name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, strings.Replace(string(b), `authmodulelist="authpam"`, `authmodulelist="authpipe"`, 1), dir, "etc", name)
	}
	cert, _ := os.ReadFile(c.CA.Server)
	key, _ := os.ReadFile(c.CA.Key)
	write(t, string(key)+string(cert), dir, "etc/cert.pem")
	var users strings.Builder
	for _, u := range slices.Sorted(maps.Keys(o.Users)) {
		fmt.Fprintf(&users, "%s\t%s\n", u, o.Users[u])
	}
	if o.Users == nil {
		fmt.Fprintf(&users, "*\t%s\n", c.Password)
	}
	write(t, users.String(), dir, "etc/users")
	in := strings.TrimPrefix(c.home, strings.TrimSuffix(CourierRoot(), "/"))
	r := strings.NewReplacer("{mail}", in, "{uid}", fmt.Sprint(mailUID), "{extra}", o.Extra,
		"{imap}", port(c.IMAP), "{imaps}", port(c.IMAPS), "{pop3}", port(c.POP3), "{pop3s}", port(c.POP3S))
	write(t, r.Replace(courierStart), dir, "etc/start")
	if err := os.Chmod(write(t, r.Replace(courierAuth), dir, "etc/authProg"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// Where Courier looks for its settings and its authentication socket is fixed,
// hence a mount namespace. Its servers and their sessions leave our process
// group, hence a process namespace: they end with its first process, which
// gets the signal that unshare does not hear.
const courierEnter = `unshare --mount --pid --fork --kill-child /bin/sh -c 'mount --bind "$1/etc" "$2/etc/courier" &&
	mount --bind "$1/run" "$2/run/courier" && exec chroot "$2" /bin/sh /etc/courier/start' courier "$@" &
trap 'trap "" TERM; kill 0' TERM
while kill -0 $!; do wait $!; done 2>/dev/null`

// The start runs all servers and ends them, and their sessions, with itself.
// Courier's locks ask a file monitor, gam_server, which is one per instance by
// GAM_CLIENT_ID.
const courierStart = `set -a
trap 'trap "" TERM; kill -TERM -1; wait; exit 0' TERM
cd /etc/courier
. ./authdaemonrc
rm -f /run/courier/authdaemon/*
/usr/lib/courier/courier-authlib/authdaemond &
until perl -MIO::Socket::UNIX -e 'exit !IO::Socket::UNIX->new("/run/courier/authdaemon/socket")'; do
	kill -0 $! && sleep 0.02 || exit 1
done
. ./imapd
. ./imapd-ssl
. ./pop3d
. ./pop3d-ssl
IMAP_CAPABILITY="$IMAP_CAPABILITY AUTH=PLAIN AUTH=LOGIN"
POP3AUTH="PLAIN LOGIN"
IMAP_STARTTLS=YES
POP3_STARTTLS=YES
TLS_CERTFILE=/etc/courier/cert.pem
TLS_CACHEFILE=
TLS_TRUSTCERTS=
GAM_CLIENT_ID={imap}
{extra}
tcpd() { /usr/sbin/couriertcpd -address=127.0.0.1 -maxprocs=2000 -maxperip=2000 -nodnslookup -noidentlookup "$@" & }
lib=/usr/lib/courier/courier
tls="/usr/bin/couriertls -server -tcpd -user=courier"
tcpd {imap} $lib/imaplogin /usr/bin/imapd Maildir
tcpd {pop3} $lib/courierpop3login $lib/courierpop3d Maildir
IMAP_TLS=1
tcpd {imaps} $tls $lib/imaplogin /usr/bin/imapd Maildir
POP3_TLS=1
tcpd {pop3s} $tls $lib/courierpop3login $lib/courierpop3d Maildir
wait
`

// The program that authdaemond asks: every user of etc/users, or everybody,
// with a Maildir that is made when it is not there.
const courierAuth = `#!/usr/bin/perl
use strict;
$| = 1;
my %pass;
open(my $f, '<', '/etc/courier/users') or die;
while (<$f>) { chomp; my ($u, $p) = split /\t/; $pass{$u} = $p }
sub known { my $u = shift; return undef if $u eq '' || $u =~ m{/|^\.}; return exists $pass{$u} ? $pass{$u} : $pass{'*'} }
sub account {
	my ($u) = @_;
	my ($p, $home) = (known($u), "{mail}/$u");
	return print "FAIL\n" unless defined $p;
	for my $d ($home, map { "$home/Maildir$_" } '', '/tmp', '/new', '/cur') {
		mkdir $d, 0700 and chown {uid}, {uid}, $d;
	}
	print "UID={uid}\nGID={uid}\nHOME=$home\nADDRESS=$u\nPASSWD2=$p\n.\n";
}
while (my $line = <STDIN>) {
	if ($line =~ /^PRE \S+ \S+ (.*)$/) { account($1) }
	elsif ($line =~ /^AUTH (\d+)$/) {
		read(STDIN, my $data, $1) == $1 or last;
		my ($service, $type, $u, $p) = split /\n/, $data;
		my $want = known($u);
		if ($type eq 'login' && defined $want && $p eq $want) { account($u) } else { print "FAIL\n" }
	} elsif ($line =~ /^ENUMERATE/) { print ".\n" }
	else { print "FAIL\n" }
}
`

// Maildir is the user's Maildir; it is there once the user has logged in.
func (c *Courier) Maildir(user string) string { return filepath.Join(c.home, user, "Maildir") }

// Deliver files a message (CRLF or LF) as new mail the way a delivery agent
// does: a file of tmp, moved to new. box is "" or a folder such as ".Sent".
// The Maildir must be there.
func (c *Courier) Deliver(t testing.TB, user, box, message string) {
	t.Helper()
	dir := filepath.Join(c.Maildir(user), box)
	// Its POP3 lists by name, hence by this time.
	name := fmt.Sprintf("%d.M%06dP%d.mailferry", time.Now().Unix(), c.seq.Add(1), os.Getpid())
	tmp := write(t, strings.ReplaceAll(message, "\r\n", "\n"), dir, "tmp", name)
	if err := os.Chown(tmp, mailUID, mailUID); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, "new", name)); err != nil {
		t.Fatal(err)
	}
}

// Log returns the end of what the servers wrote.
func (c *Courier) Log() string { return tail(c.d.out, 64<<10) }

// Pid is the process that holds all others.
func (c *Courier) Pid() int { return c.d.pid() }

// Stop ends the servers and all sessions; Start runs them again with the same
// mail and ports.
func (c *Courier) Stop() { c.d.stop() }

// Kill ends all its processes at once, without warning.
func (c *Courier) Kill() { c.d.kill() }

// Start runs a stopped server again.
func (c *Courier) Start(t testing.TB) { t.Helper(); c.d.start(t) }
