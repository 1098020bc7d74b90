package mailtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Ran is what a run of a real client shows: its exit code, what it printed, and
// what it has got or sent as far as that is in files.
type Ran struct {
	Code   int
	Output string
	Got    string
}

// ran runs a client to its end. That it cannot be run fails the test.
func ran(t testing.TB, env []string, input string, argv ...string) Ran {
	t.Helper()
	out, err := run(env, input, argv...)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v\n%s", argv[0], err, out)
	}
	r := Ran{Output: out}
	if exit != nil {
		r.Code = exit.ExitCode()
	}
	return r
}

// with adds what a run has left in a file.
func (r Ran) with(path string) Ran {
	b, err := os.ReadFile(path)
	if err != nil {
		r.Got = err.Error()
		return r
	}
	r.Got = string(b)
	return r
}

// Fetchmail fetches all mail by protocol (imap or pop3), which stays there. Got
// is all messages, one behind the other.
func Fetchmail(t testing.TB, protocol string, a Account) Ran {
	t.Helper()
	Require(t, "fetchmail")
	home := t.TempDir()
	box := filepath.Join(home, "box")
	rc := write(t, fmt.Sprintf("poll 127.0.0.1 protocol %s port %s user %q password %q keep fetchall sslproto '' no rewrite mda \"cat >> %s\"\n",
		protocol, port(a.Addr), a.User, a.Password, box), home, "rc")
	if err := os.Chmod(rc, 0o600); err != nil {
		t.Fatal(err)
	}
	return ran(t, []string{"HOME=" + home, "FETCHMAILHOME=" + home, "LC_ALL=C"}, "",
		"fetchmail", "-f", rc, "-i", filepath.Join(home, "ids"), "--pidfile", filepath.Join(home, "pid"), "-N", "--invisible").with(box)
}

// nobodyUID is Debian's user without rights; getmail wants one with a name.
const nobodyUID = 65534

// GetmailClient is getmail with what it remembers between runs.
type GetmailClient struct {
	home, box string
}

// NewGetmail sets up getmail to fetch by protocol (IMAP or POP3) all mail, or
// what it has not fetched before. The mail stays there.
func NewGetmail(t testing.TB, protocol string, a Account, all bool) *GetmailClient {
	t.Helper()
	Require(t, "getmail", "setpriv")
	home := tempDir(t, "", "getmail")
	t.Cleanup(func() { os.RemoveAll(home) })
	g := &GetmailClient{home: home, box: write(t, "", home, "box")}
	rc := write(t, fmt.Sprintf("[retriever]\ntype = Simple%sRetriever\ntimeout = 20\nserver = 127.0.0.1\nport = %s\nusername = %s\npassword = %s\n"+
		"[destination]\ntype = Mboxrd\npath = %s\n[options]\nread_all = %t\ndelete = false\ndelivered_to = false\nreceived = false\n",
		protocol, port(a.Addr), a.User, a.Password, g.box, all), home, "rc")
	for _, path := range []string{home, g.box, rc} {
		if err := os.Chown(path, nobodyUID, nobodyUID); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

// getmailScript runs getmail, but for how it waits for the child that files a
// message: it installs its handler of SIGCHLD behind the fork and may miss a
// child that is quick, or a signal just before it waits. Then it stands still.
const getmailScript = `import os, runpy, shutil, sys
import getmailcore.baseclasses as base
def wait(self, pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
base.ForkingBase._prepare_child = lambda self: None
base.ForkingBase._wait_for_child = wait
sys.argv[0] = shutil.which("getmail")
runpy.run_path(sys.argv[0], run_name="__main__")
`

// Run fetches mail. Got is all that was fetched so far, in mbox format. It does
// not run as root, to whom getmail gives no mailbox.
func (g *GetmailClient) Run(t testing.TB) Ran {
	t.Helper()
	return ran(t, []string{"HOME=" + g.home}, "", "setpriv", fmt.Sprintf("--reuid=%d", nobodyUID), fmt.Sprintf("--regid=%d", nobodyUID), "--clear-groups",
		"/usr/bin/python3", "-c", getmailScript, "--getmaildir", g.home, "--rcfile", filepath.Join(g.home, "rc")).with(g.box)
}

// Imapfilter searches, flags and copies messages of the INBOX to a mailbox that
// it makes, and prints what it finds.
func Imapfilter(t testing.TB, a Account, mailbox string) Ran {
	t.Helper()
	Require(t, "imapfilter")
	home := t.TempDir()
	rc := write(t, fmt.Sprintf(imapfilterScript, port(a.Addr), a.User, a.Password, mailbox), home, "config.lua")
	makeDir(t, filepath.Join(home, ".imapfilter"))
	return ran(t, []string{"HOME=" + home}, "", "imapfilter", "-c", rc)
}

const imapfilterScript = `options.timeout = 60
options.starttls = false
options.create = true
options.subscribe = true
a = IMAP { server = '127.0.0.1', port = %s, username = '%s', password = '%s' }
boxes, folders = a:list_all()
table.sort(boxes)
for _, m in ipairs(boxes) do print('box', m) end
print(a['INBOX']:check_status())
for _, m in ipairs(a['INBOX']:contain_subject('parts')) do
  box, uid = table.unpack(m)
  print('parts', uid, box[uid]:fetch_size(), box[uid]:fetch_date())
  print(box[uid]:fetch_header())
  print(box[uid]:fetch_body())
end
r = a['INBOX']:contain_from('anna') + a['INBOX']:is_larger(600)
print('found', #r)
r:mark_flagged()
r:copy_messages(a['%[4]s'])
print(a['%[4]s']:check_status())
for _, m in ipairs(a['INBOX']:is_flagged()) do
  box, uid = table.unpack(m)
  for _, f in ipairs(box[uid]:fetch_flags()) do print('flag', uid, f) end
end
`

// SieveConnect runs one action of sieve-connect, for example "--list", or
// "--upload", "--localsieve", FILE, "--remotesieve", NAME.
func SieveConnect(t testing.TB, a Account, action ...string) Ran {
	t.Helper()
	Require(t, "sieve-connect")
	argv := append([]string{"sieve-connect", "--server", "127.0.0.1", "--port", port(a.Addr), "--user", a.User,
		"--authmech", "PLAIN", "--clearchan", "--notlsverify", "--passwordfd", "0"}, action...)
	return ran(t, []string{"HOME=" + t.TempDir()}, a.Password+"\n", argv...)
}

// Swaks sends a message by LMTP to recipients, separated by commas.
func Swaks(t testing.TB, addr, to, message string) Ran {
	t.Helper()
	Require(t, "swaks")
	return ran(t, []string{"HOME=" + t.TempDir()}, message, "swaks", "--protocol", "LMTP", "--server", "127.0.0.1", "--port", port(addr),
		"--helo", "mx.example.org", "--from", "sender@example.org", "--to", to, "--data", "-", "--no-strip-from")
}

// ImapFlow runs a program on Node.js that works with an account by the library
// ImapFlow, as an agent or a web mailer does, and prints what it sees as JSON.
func ImapFlow(t testing.TB, a Account, mailbox string) Ran {
	t.Helper()
	Require(t, "imapflow")
	script := write(t, imapflowScript, t.TempDir(), "client.js")
	return ran(t, []string{"NODE_PATH=" + filepath.Join(imapflowDir(), "node_modules")}, "", "node", script, port(a.Addr), a.User, a.Password, mailbox)
}

func imapflowDir() string { return filepath.Join(cacheDir(), "imapflow") }

const imapflowScript = `const { ImapFlow } = require('imapflow');
const [port, user, pass, target] = process.argv.slice(2);
const c = new ImapFlow({ host: '127.0.0.1', port: Number(port), secure: false, doSTARTTLS: false, auth: { user, pass }, logger: false });
const say = (what, x) => console.log(what + ' ' + JSON.stringify(x, (k, v) =>
  typeof v === 'bigint' ? String(v) : v instanceof Set ? [...v].sort() : v instanceof Map ? [...v].sort() :
  v && v.type === 'Buffer' ? Buffer.from(v.data).toString('latin1') : v));
(async () => {
  await c.connect();
  for (const m of (await c.list()).sort((x, y) => x.path < y.path ? -1 : 1)) say('list', [m.path, m.delimiter, m.specialUse, m.subscribed]);
  say('created', (await c.mailboxCreate(target)).created);
  say('status', await c.status('INBOX', { messages: true, unseen: true, uidNext: true }));
  const lock = await c.getMailboxLock('INBOX');
  const heard = new Promise(ok => c.once('exists', ok));
  try {
    for await (const m of c.fetch('1:*', { uid: true, flags: true, envelope: true, bodyStructure: true, size: true, internalDate: true, source: true }))
      say('message', [m.seq, m.uid, m.flags, m.envelope, m.bodyStructure, m.size, m.internalDate, m.source.toString('latin1')]);
    const part = await c.download('2', '1');
    let text = '';
    for await (const chunk of part.content) text += chunk;
    say('part', [part.meta.contentType, text]);
    say('search', await c.search({ subject: 'parts' }));
    say('flagged', await c.messageFlagsAdd('1', ['\\Flagged', '$Work']));
    const copied = await c.messageCopy('1:2', target);
    say('copied', [copied.path, [...(copied.uidMap || [])]]);
    const put = await c.append('INBOX', 'Subject: put\r\n\r\nhere\r\n', ['\\Seen'], new Date(Date.UTC(2010, 0, 2)));
    say('put', [put.destination, put.uid]);
    say('heard', (await heard).count);
    say('moved', [...((await c.messageMove('*', target)).uidMap || [])]);
    say('wrong', await c.messageCopy('1', target + 'none').catch(e => e.responseText));
  } finally { lock.release(); }
  say('status', await c.status(target, { messages: true }));
  say('deleted', (await c.mailboxDelete(target)).path);
  await c.logout();
})().catch(e => { console.log('error ' + e.message + ' ' + (e.responseText || '')); process.exit(1); });
`
