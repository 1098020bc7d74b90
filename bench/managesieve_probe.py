#!/usr/bin/env python3
"""Black-box probe for a ManageSieve front proxy: the twin of proxy_probe.py.

It starts its own fake ManageSieve backend on loopback, talks to the proxy under test like a client
would, and prints one line per case: PASS, FAIL or SKIP, with what was seen.

Set the proxy up first so that:
  user "alice" (any password but "badpass")  -> 127.0.0.1:<--backend>, without TLS
  user "dead"                                -> a loopback port where nothing listens  (optional)
  nobody else is in the directory; no default backend, or a default that is not --backend

With --real alice lives on a real store with the password "pw": cases that look at what the backend
received are skipped.

Example: managesieve_probe.py --name ours --sieve 4190 --backend 28303 --starttls
Only Python's standard library is used. Nothing here is product code.
"""
import argparse, asyncio, base64, re, socket, ssl, sys, threading, time

A = argparse.ArgumentParser()
A.add_argument("--name", default="proxy")
A.add_argument("--host", default="127.0.0.1")
A.add_argument("--sieve", type=int, required=True, help="proxy ManageSieve port (cleartext, maybe STARTTLS)")
A.add_argument("--backend", type=int, default=28303)
A.add_argument("--real", action="store_true", help="alice lives on a real store")
A.add_argument("--starttls", action="store_true", help="the port offers STARTTLS")
A.add_argument("--dead", action="store_true", help="user 'dead' is routed to a closed port")
A.add_argument("--slow", action="store_true", help="also run the cases that take a minute")
o = A.parse_args()

CAPS = b'"IMPLEMENTATION" "fake"\r\n"SASL" "PLAIN"\r\n"SIEVE" "fileinto backend-mark"\r\n"VERSION" "1.0"\r\nOK\r\n'
seen = []                             # what the backend received, command by command


async def backend(r, w):
    w.write(CAPS)
    try:
        while True:
            line = await r.readline()
            if not line:
                break
            cmd = line
            while True:
                m = re.search(rb"\{(\d+)\+\}\r\n$", cmd)
                if not m:
                    break
                cmd += await r.readexactly(int(m.group(1)))
                cmd += await r.readline()
            seen.append(cmd)
            verb = cmd.split(None, 1)[0].upper() if cmd.split() else b""
            if verb == b"CAPABILITY":
                w.write(CAPS)
            elif verb == b"AUTHENTICATE" and b"badpass" in (credentials(cmd) or [b"", b"", b""])[2]:
                w.write(b'NO "no"\r\n')
            elif verb == b"GETSCRIPT":
                w.write(b"{11}\r\nOK\r\nNO\r\nkee\r\nOK\r\n")
            else:
                w.write(b"OK\r\n")
            await w.drain()
            if verb == b"LOGOUT":
                break
    except Exception:
        pass
    w.close()


def credentials(cmd):
    """[authzid, user, password] of an AUTHENTICATE PLAIN, or None."""
    for tok in re.findall(rb"[A-Za-z0-9+/=]{4,}", cmd):
        try:
            d = base64.b64decode(tok, validate=True).split(b"\0")
        except Exception:
            continue
        if len(d) == 3:
            return d
    return None


def run_backend(ready):
    async def main():
        s = await asyncio.start_server(backend, "127.0.0.1", o.backend)
        ready.set()
        await s.serve_forever()
    asyncio.run(main())


if not o.real:
    ready = threading.Event()
    threading.Thread(target=run_backend, args=(ready,), daemon=True).start()
    ready.wait(5)

END = rb"^(OK|NO|BYE)\b.*\n"


class Conn:
    def __init__(self):
        self.s = socket.create_connection((o.host, o.sieve), 5)
        self.eof = False
        self.greet = self.read(5, END)

    def read(self, secs, until=None, count=1):
        out, end = b"", time.time() + secs
        while time.time() < end:
            self.s.settimeout(max(0.05, end - time.time()))
            try:
                d = self.s.recv(65536)
            except (socket.timeout, TimeoutError):
                break
            except OSError:
                self.eof = True; break
            if not d:
                self.eof = True; break
            out += d
            if until and len(re.findall(until, out, re.M)) >= count:
                break
        return out

    def send(self, b):
        try:
            self.s.sendall(b)
        except OSError:
            self.eof = True

    def ask(self, b, secs=8):
        self.send(b)
        return self.read(secs, END)

    def login(self, user=b"alice", password=b"pw"):
        return self.ask(b'AUTHENTICATE "PLAIN" "' + plain(user, password) + b'"\r\n', 20)

    def close(self):
        try:
            self.s.close()
        except OSError:
            pass


def plain(user, password, authzid=b""):
    return base64.b64encode(authzid + b"\0" + user + b"\0" + password)


def ok(out):
    return re.search(rb"^OK\b", out, re.M) is not None


results = []


def case(name, fake=False):
    def deco(f):
        seen.clear()
        try:
            good, note = (None, "needs the fake backend") if fake and o.real else f()
        except Exception as e:      # a refused or reset connection is a result, too
            good, note = False, "exception %r" % e
        verdict = "SKIP" if good is None else ("PASS" if good else "FAIL")
        results.append(verdict)
        print("%-10s %-4s %-28s %s" % (o.name, verdict, name, str(note)[:150]), flush=True)
        return f
    return deco


@case("greeting-capabilities")
def _():
    c = Conn(); c.close()
    names = [n.upper() for n in re.findall(rb'^"([^"]+)"', c.greet, re.M)]
    want = [b"IMPLEMENTATION", b"SASL", b"SIEVE", b"VERSION"]
    return all(n in names for n in want) and ok(c.greet), names


@case("plain-initial-response")
def _():
    c = Conn(); out = c.login(); c.close()
    return ok(out), out


@case("plain-literal-exact", fake=True)
def _():
    pw = b'p\\q"r {5+}'
    m = plain(b"alice", pw)
    c = Conn(); out = c.ask(b'AUTHENTICATE "PLAIN" {%d+}\r\n%s\r\n' % (len(m), m)); c.close()
    got = [x for x in map(credentials, seen) if x]
    return ok(out) and got and got[-1][2] == pw, got[-1:]


@case("plain-two-step")
def _():
    c = Conn(); c.send(b'AUTHENTICATE "PLAIN"\r\n')
    cont = c.read(4, rb"\n")
    out = c.ask(b'"' + plain(b"alice", b"pw") + b'"\r\n', 20); c.close()
    return cont in (b'""\r\n', b"{0}\r\n\r\n") and ok(out), (cont, out)


@case("login-two-step")
def _():
    c = Conn(); c.send(b'AUTHENTICATE "LOGIN"\r\n'); first = c.read(4, rb"\n")
    if not first.startswith((b'"', b"{")):
        c.close(); return False, first
    c.send(b'"' + base64.b64encode(b"alice") + b'"\r\n'); c.read(4, rb"\n")
    out = c.ask(b'"' + base64.b64encode(b"pw") + b'"\r\n', 20); c.close()
    return ok(out), out


@case("sasl-cancelled")
def _():
    c = Conn(); c.send(b'AUTHENTICATE "PLAIN"\r\n'); c.read(4, rb"\n")
    out = c.ask(b'"*"\r\n'); nxt = c.login(); c.close()
    return out.startswith(b"NO") and ok(nxt), (out, nxt)


@case("pipelined-after-login")
def _():
    c = Conn(); c.send(b'AUTHENTICATE "PLAIN" "' + plain(b"alice", b"pw") + b'"\r\nNOOP\r\nLISTSCRIPTS\r\n')
    out = c.read(10, rb"^OK", 3); c.close()
    return len(re.findall(rb"^OK", out, re.M)) == 3, out


@case("backend-caps-after-login", fake=True)
def _():
    c = Conn(); c.login(); out = c.ask(b"CAPABILITY\r\n"); c.close()
    return b"backend-mark" in out, out


@case("script-looks-like-protocol")
def _():
    script = b"# OK\r\n# NO {3+}\r\n# LOGOUT\r\nkeep;\r\n"
    c = Conn(); c.login()
    out = c.ask(b'PUTSCRIPT "probe" {%d+}\r\n%s\r\n' % (len(script), script))
    c.send(b'GETSCRIPT "probe"\r\n'); c.read(5, rb"^(OK|NO)[ \r].*\n|^(OK|NO)\r\n")
    c.send(b'DELETESCRIPT "probe"\r\n'); c.read(5, END)
    last = c.ask(b"LOGOUT\r\n"); c.close()
    return ok(out) and ok(last) and (o.real or not any(x.startswith(b"# LOGOUT") for x in seen)), (out, last)


@case("wrong-then-right-password")
def _():
    c = Conn(); bad = c.login(password=b"badpass"); e = c.eof
    out = b"" if e else c.login(); c.close()
    return bad.startswith(b"NO") and ok(out), "closed after the failure" if e else out


@case("unknown-user-not-routed")
def _():
    notes = []
    for u in (b"*", b"al*", b"alice)(uid=*", b"nosuch)(|(uid=alice)", b"al%2ae"):
        c = Conn(); out = c.login(u); c.close()
        if ok(out) or not out:
            notes.append((u, out))
    return not notes, notes


@case("crlf-in-sasl-user")
def _():
    c = Conn(); out = c.login(b'alice\r\nDELETESCRIPT "a"'); c.close()
    return not ok(out) and not any(x.startswith(b"DELETESCRIPT") for x in seen), out


@case("crlf-in-sasl-pass")
def _():
    c = Conn(); out = c.login(b"alice", b'pw\r\nDELETESCRIPT "a"'); c.close()
    return not ok(out) and not any(x.startswith(b"DELETESCRIPT") for x in seen), out


@case("command-before-login-refused")
def _():
    c = Conn(); out = c.ask(b"LISTSCRIPTS\r\n"); c.close()
    return out.startswith(b"NO") and not seen, out


@case("huge-literal-refused")
def _():
    c = Conn(); out = c.ask(b'AUTHENTICATE "PLAIN" {104857600+}\r\n', 4); c.close()
    return not ok(out), out or ("closed" if c.eof else "silent")


@case("endless-line-cut")
def _():
    c = Conn(); sent = 0
    try:
        while sent < 4 << 20 and not c.eof:
            c.s.settimeout(4); c.s.sendall(b"x" * 65536); sent += 65536
    except OSError:
        c.eof = True
    out = c.read(3); c.close()
    alive = Conn(); alive.close()
    return (c.eof or bool(out)) and ok(alive.greet), "after %d KiB: eof=%s %r" % (sent >> 10, c.eof, out[:60])


@case("starttls")
def _():
    if not o.starttls:
        return None, "no STARTTLS on this port"
    c = Conn(); c.ask(b"STARTTLS\r\n"); c.s.settimeout(5)
    c.s = ssl._create_unverified_context().wrap_socket(c.s)
    caps = c.read(5, END); out = c.login(); c.close()
    return b'"STARTTLS"' not in caps and b'"SASL"' in caps and ok(out), (caps[-60:], out)


@case("starttls-injection-dropped")
def _():
    if not o.starttls:
        return None, "no STARTTLS on this port"
    c = Conn(); c.send(b'STARTTLS\r\nNOOP "injected"\r\n'); c.read(2, END)
    c.s.settimeout(5)
    try:
        c.s = ssl._create_unverified_context().wrap_socket(c.s)
    except (ssl.SSLError, OSError) as e:
        return True, "handshake refused: %s" % e
    out = c.ask(b'NOOP "mine"\r\n') + c.read(1); c.close()
    return b"injected" not in out, out


@case("backend-down-tempfail")
def _():
    if not o.dead:
        return None, "no 'dead' user configured"
    c = Conn(); out = c.login(b"dead"); e = c.eof
    nxt = b"" if e else c.ask(b"NOOP\r\n"); c.close()
    return out.startswith(b"NO (TRYLATER)") and ok(nxt), (out, "closed" if e else "kept open")


@case("logout")
def _():
    c = Conn(); out = c.ask(b"LOGOUT\r\n"); out += c.read(3); c.close()
    return ok(out) and c.eof, out


@case("silent-client-cut-in-70s")
def _():
    if not o.slow:
        return None, "use --slow"
    c = Conn(); t = time.time(); c.read(70); c.close()
    return c.eof, "%.0fs" % (time.time() - t)


print("%-10s total: %d pass, %d fail, %d skipped" % (o.name, results.count("PASS"), results.count("FAIL"), results.count("SKIP")))
sys.exit(1 if "FAIL" in results else 0)
