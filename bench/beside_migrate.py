"""Markdown of what the parts of migration measured (beside-migrate.sh), for beside.py.

A cell is the median of the rounds. A rate counts what arrived, in pass "first" of a row, and the users of pass
"again" per second; the time is that of the whole command, its start included.
"""
import contextlib
import io
import json
import os
import re
import statistics
import sys

PARTS = ("moves", "copy", "cyrus", "distance")
JUDGED = PARTS + ("correct", "correct-cyrus")
PEERS = ("doveadm-backup", "mbsync", "imapsync", "imapsync-go", "offlineimap")
COPY, OWN = "mailferry-copy", "mailferry"
CASES = {
    "big": "one mailbox of 20,000",
    "many-1": "20 mailboxes of 1,000, one at a time",
    "many-4": "the same, 4 at a time",
    "many-8": "the same, 8 at a time",
    "cyrus-big": "Cyrus, one mailbox of 5,000",
    "cyrus-many": "Cyrus, 4 mailboxes of 500, 4 at a time",
    "to-cyrus": "Dovecot to Cyrus, 4 mailboxes of 1,000, 4 at a time",
    "cyrus-to-cyrus": "Cyrus to Cyrus, 4 mailboxes of 500, 4 at a time",
    "near-big": "near, one mailbox of 2,000",
    "near-many": "near, 8 mailboxes of 400, 8 at a time",
    "near-20": "near, 20 mailboxes of 1,000, 8 at a time",
    "far-20000": "40 ms, one mailbox of 20,000",
    "far-big": "40 ms, one mailbox of 2,000",
    "far-many": "40 ms, 8 mailboxes of 400, all at a time",
    "far-20": "40 ms, 20 mailboxes of 1,000, all at a time",
}
STEPS = {"mailferry-again": OWN, "mailferry-steps": OWN, "mailferry-resumed": OWN}


def number(v):
    return "–" if v is None else f"{v:,.0f}" if v >= 100 else f"{v:.1f}" if v >= 10 else f"{v:.2f}"


def over(a, b):
    return a / b if a and b else None


def table(title, heads, rows):
    if rows:
        print(f"\n{title}\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
        for r in rows:
            print(f"| {' | '.join(r)} |")


class Migration:
    def __init__(self, run):
        self.run, self.rows, self.judged = run, {}, []
        self.at, self.load = [], []
        for part in PARTS:
            for r in self.lines(f"results-{part}.jsonl"):
                tool, case = r["label"].split(".", 1)
                self.rows.setdefault((tool, case, r.get("pass", "raw")), []).append(r)
        for part in JUDGED:
            self.judged += [r for r in self.lines(f"judged-{part}.jsonl") if "verify" in r or "live" in r]
        self.read = self.read_side()

    def lines(self, name):
        try:
            with open(os.path.join(self.run, "migrate", name)) as f:
                rows = [json.loads(line) for line in f if line.startswith("{")]
        except FileNotFoundError:
            return []
        self.at += [r["at"] for r in rows if "at" in r]
        self.load += [r["load"] for r in rows if "load" in r]
        return rows

    def value(self, tool, case, run, f):
        rs = self.rows.get((tool, case, run))
        return statistics.median(f(r) for r in rs) if rs else None

    def rate(self, tool, case):
        """Messages per second of a first pass, or of a yardstick."""
        v = self.value(tool, case, "raw", lambda r: r["raw"]["messages_per_s"])
        return v if v is not None else self.value(tool, case, "first", lambda r: r.get("msg_s", 0))

    def users(self, tool, case):
        """Users per second of a pass with nothing new."""
        if tool.startswith("nochange"):
            return self.value(tool, case, "raw", lambda r: over(r["raw"]["users"], r["raw"]["seconds"]))
        return self.value(tool, case, "again", lambda r: count(r["users"]) / r["wall_s"] if r["rc"] == 0 else 0)

    def best(self, case, f=None, among=PEERS):
        return max((v for p in among if (v := (f or self.rate)(p, case))), default=None)

    def read_side(self):
        """Figures of the Go benchmarks: the engine without a command and a protocol around it."""
        try:
            with open(os.path.join(self.run, "migrate-read", "results.txt")) as f:
                text = f.read()
        except FileNotFoundError:
            return {}
        return {n: float(v) for n, v in re.findall(r"^Benchmark(\S+?)(?:-\d+)?\s.*?([\d.]+) (?:msg|users)/s", text, re.M)}

    def speed(self):
        rows = []
        for case, name in CASES.items():
            v = {t: self.rate(t, case) for t in PEERS + ("drain", "pipe", COPY, OWN)}
            if any(v.values()):
                best = self.best(case)
                rows.append([name] + [number(v[t]) for t in PEERS + ("pipe", COPY, OWN, "drain")] +
                            [number(over(v[COPY], best)), number(over(v[COPY], v["pipe"])), number(over(v[OWN], best)), percent(over(v[OWN], v["drain"]))])
        table("**Messages per second**", ["", *PEERS, "MULTIAPPEND pipe", "mailferry copy", "mailferry migrate", "raw drain",
                                          "copy / best peer", "copy / pipe", "migrate / best peer", "migrate of drain"], rows)

    def again(self):
        rows = []
        for case, name in CASES.items():
            v = {t: self.users(t, case) for t in PEERS + ("nochange", "nochange2", COPY, "mailferry-again")}
            if v["nochange"] or v["nochange2"]:
                rows.append([name] + [number(v[t]) for t in PEERS + ("nochange2", COPY)] + [percent(over(v[COPY], v["nochange2"]))] +
                            [number(v["nochange"]), number(v["mailferry-again"]), percent(over(v["mailferry-again"], v["nochange"]))])
        table("**A second pass with nothing new, users per second**",
              ["", *PEERS, "`nochange`, both sides", "mailferry copy", "of `nochange`", "`nochange`, source alone", "mailferry migrate", "of `nochange`"], rows)

    def cost(self):
        """CPU seconds per 1,000 messages: tool + source + target, and how many cores that kept busy."""
        def cell(tool, case):
            rs = self.rows.get((tool, case, "first")) or self.rows.get((tool, case, "raw"))
            if not rs:
                return "–"
            r = rs[-1]
            n = r.get("messages") or r.get("raw", {}).get("messages")
            if not n:
                return "–"
            s, own = r.get("server_cpu_s", {}), r["user_s"] + r["sys_s"]
            parts = [1000 * x / n for x in (own, s.get("src", 0), s.get("dst", 0))]
            return " + ".join(f"{x:.2f}" for x in parts) + f" = {sum(parts):.2f} ({(own + sum(s.values())) / r['wall_s']:.1f})"
        rows = []
        for case, name in CASES.items():
            cells = [cell(t, case) for t in PEERS + ("pipe", COPY, OWN)]
            if set(cells) != {"–"}:
                rows.append([name, *cells])
        table("**CPU, s per 1,000 messages: tool + source + target = sum (cores busy)**; the engine of `migrate` runs in its target",
              ["", *PEERS, "MULTIAPPEND pipe", "mailferry copy", "mailferry migrate"], rows)

    def memory(self):
        node, rows = self.node_peak(), []
        for case in ("big", "many-1", "many-4", "many-8"):
            cells = [number(self.value(t, case, "first", lambda r: r["rss_peak_mb"] / 1.048576)) for t in PEERS + (COPY,)]
            if set(cells) != {"–"} or case in node:
                rows.append([CASES[case], *cells, number(node.get(case))])
        table("**Most memory, MiB**: the tool's processes, shared pages counted each time; for `migrate` the whole node, its store and caches included",
              ["", *PEERS, "mailferry copy", "mailferry migrate"], rows)

    def node_peak(self):
        return {r["label"]: r["peak_mib"] for r in self.lines("peak.jsonl")}

    def reading(self):
        r = self.read
        rows = [[name, number(r.get(drain)), number(r.get(read)), percent(over(r.get(read), r.get(drain))), number(r.get(store)), percent(over(r.get(store), r.get(drain)))]
                for name, drain, read, store in (("10,000 messages of the corpus", "Copy/drain", "Copy/read", "Copy/store"),
                                                 ("20,000 small messages", "Distance/drain/0", "Distance/big/0", ""),
                                                 ("20,000 small messages, 40 ms", "Distance/drain/20ms", "Distance/big/20ms", "")) if r.get(drain)]
        table("**The engine by itself (Go benchmarks), messages per second**", ["", "raw drain", "read, parsed, hashed", "of the drain", "into our store", "of the drain"], rows)
        rows = [[name, number(r.get(near)), number(r.get(far)), percent(over(r.get(far), r.get(near)))]
                for name, near, far in (("100 folders of one mailbox, read side", "Distance/folders/0", "Distance/folders/20ms"),
                                        ("24 mailboxes of 400, into our store, as many at a time as the engine chooses", "FarUsers/0", "FarUsers/20ms")) if r.get(near)]
        table("**The same, near and 40 ms away, messages per second**", ["", "near", "40 ms", "of near"], rows)

    def where(self):
        """Shares of the node's CPU while it moves 20 mailboxes, 8 at a time, from the stacks of a profile."""
        try:
            with open(os.path.join(self.run, "migrate", "where.traces")) as f:
                stacks = re.split(r"^-+\+-+\n", f.read(), flags=re.M)[1:]
        except FileNotFoundError:
            return
        kinds = (("garbage collection", r"runtime\.(gcBgMarkWorker|bgsweep|gcAssistAlloc|bgscavenge)"), ("zstd of the store", r"klauspost|zstd"),
                 ("SHA-256", r"sha256"), ("store: log, state, sync", r"mailferry/(store|cluster)|pebble"),
                 ("source: connection and parser", r"mailferry/backend/remote"), ("engine", r"mailferry/migrate"))
        total, share = 0, {}
        for s in stacks:
            m = re.match(r"\s*([\d.]+)(ns|us|µs|ms|s|mins)\s+(.*)", s, re.S)
            if not m:
                continue
            v = float(m[1]) * {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "mins": 60}[m[2]]
            total += v
            kind = next((k for k, p in kinds[:1] if re.search(p, m[3])), None)
            kind = kind or next((k for line in m[3].splitlines() for k, p in kinds[1:] if re.search(p, line)), "everything else (scheduler, logins, proxy)")
            share[kind] = share.get(kind, 0) + v
        table("**Where the node's CPU goes, 20 mailboxes 8 at a time**", ["", "share"],
              [[k, percent(v / total)] for k, v in sorted(share.items(), key=lambda kv: -kv[1])])

    def correct(self):
        rows = []
        for j in self.judged:
            tool, case = j["label"].split(".", 1)
            way = f"{j['source'].capitalize()} to {'our store' if j['target'] == 'own' else j['target'].capitalize()}"
            if "live" in j:
                v = j["live"]
                rows.append((case, way, tool, f"{v['inbox_src']}", number0(live_lost(v)), "", "", "", "", "", "", "", f"new mail there: {v['src_new_in_dst']} of 5 of the source, {v['dst_new_in_dst']} of 5 of the target"))
                continue
            v, c = j["verify"], Counts(j["verify"])
            m, u = v["messages"], v["pop3_uidl"]
            ends = "identity_perfect" if v["identity_perfect"] else "content_perfect" if v["content_perfect"] else ""
            note = [ends] * bool(ends) + ([f"{j['kills']} kills hit"] if "kills" in j else []) + c.refusals()
            rows.append((case, way, tool, f"{m['intact']:,} of {m['expected']:,}", number0(c.lost), number0(c.many), f"**{c.gone}, {c.new}**" if c.gone or c.new else "0",
                         number0(c.changed), number0(c.marks), number0(c.subscriptions), f"{v['uid']['differ']} / {v['uidvalidity']['differ']}",
                         f"{u['same']} / {u['differ'] + u['missing']}", ", ".join(note)))
        order = {c: i for i, c in enumerate([*CASES, "odd", "torture", "delta-1", "delta-2", "live", "crash"])}
        rows.sort(key=lambda r: (r[1].split()[0], order.get(r[0], 99), r[2].startswith(OWN), r[1]))
        table("**What arrived, judged by `mailseed verify`**", ["case", "way", "tool", "intact", "lost", "doubled or too many", "folders gone, new", "octets changed",
                                                              "flags, keywords, dates", "subscriptions", "UIDs, UIDVALIDITYs other", "UIDLs same / other", ""], rows)

    def bad(self, target):
        """Counts of lost, doubled, renamed, changed over all verdicts of ours."""
        n, total = 0, [0, 0, 0, 0, 0]
        for j in self.judged:
            if not j["label"].startswith(OWN) or (j["target"] == "own") != target:
                continue
            n += 1
            if "live" in j:
                total[0] += live_lost(j["live"])
                continue
            c, v = Counts(j["verify"]), j["verify"]
            for i, x in enumerate((c.lost, c.many, c.gone + c.new, c.changed, c.marks + c.subscriptions)):
                total[i] += x
            if target:
                total[4] += v["uid"]["differ"] + v["uidvalidity"]["differ"] + v["pop3_uidl"]["differ"] + v["pop3_uidl"]["missing"]
        return n, total

    def goals(self):
        peak = self.node_peak().get("many-8")
        many = [c for c in CASES if c.startswith("many-")]
        best_ours, best_peer = max((v for c in many if (v := self.rate(OWN, c))), default=None), max((v for c in many if (v := self.best(c))), default=None)
        r = self.read
        copies = [(c, over(self.rate(COPY, c), self.best(c))) for c in CASES if self.rate(COPY, c) and self.best(c)]
        pipes = [(c, over(self.rate(COPY, c), self.rate("pipe", c))) for c in CASES if self.rate(COPY, c) and self.rate("pipe", c)]
        again = [(c, over(self.users("mailferry-again", c), self.users("nochange", c))) for c in CASES if self.users("mailferry-again", c) and self.users("nochange", c)]
        seconds = [(c, over(self.users(COPY, c), self.best(c, self.users))) for c in CASES if self.users(COPY, c) and self.best(c, self.users)]
        goals = [
            ("One mailbox of 20,000 into our store: 3 times `doveadm backup`", over(self.rate(OWN, "big"), self.rate("doveadm-backup", "big")), 3, times),
            ("Many mailboxes: 2 times the best peer at its best parallelism", over(best_ours, best_peer), 2, times),
            ("The read side alone: 80 % of the raw drain", over(r.get("Copy/read"), r.get("Copy/drain")), .8, percent),
            ("Our store behind it: 25 % of the raw drain", over(r.get("Copy/store"), r.get("Copy/drain")), .25, percent),
            ("The same as a whole move by command, one mailbox of 20,000", over(self.rate(OWN, "big"), self.rate("drain", "big")), .25, percent),
            ("40 ms, one mailbox of 20,000: 80 % of one raw connection there", over(self.rate(OWN, "far-20000"), self.rate("drain", "far-20000")), .8, percent),
            ("40 ms, 20 mailboxes: 80 % of near", over(self.rate(OWN, "far-20"), self.rate(OWN, "near-20")), .8, percent),
            ("40 ms, 24 mailboxes of 400, parallelism by the engine: 80 % of near", over(r.get("FarUsers/20ms"), r.get("FarUsers/0")), .8, percent),
            ("A pass with nothing new, as a command: 80 % of `nochange` in each row", *lowest(again), .8, percent),
            ("The same, the engine by itself, of a login and a survey", over(r.get("Copy/unchanged"), r.get("Copy/asked")), .8, percent),
            ("To a foreign store: first in every row", *lowest(copies), 1, times),
            ("The same, second passes with nothing new", *lowest(seconds), 1, times),
            ("To a foreign store: 80 % of the bare MULTIAPPEND pipe in each row", *lowest(pipes), .8, percent),
        ]
        rows = []
        for name, v, *rest in goals:
            where = rest.pop(0) if isinstance(rest[0], str) else ""
            if v is not None:
                rows.append([name, rest[1](v) + (f" ({CASES[where]})" if where else ""), "reached" if v >= rest[0] else "missed"])
        if peak:
            rows.append(["Most memory with 8 mailboxes at a time, caches included: 128 MiB", f"{peak:.0f} MiB", "reached" if peak <= 128 else "missed"])
        for own, name in ((True, "Into our store: 0 lost, doubled, renamed, changed; other flags, dates, subscriptions, UIDs, UIDVALIDITYs, UIDLs"),
                          (False, "Into Dovecot and Cyrus: 0 lost, doubled, renamed, changed; other flags, dates, subscriptions")):
            n, bad = self.bad(own)
            if n:
                rows.append([f"{name} ({n} verdicts)", ", ".join(map(str, bad)), "missed" if any(bad) else "reached"])
        table("**Goals**", ["goal", "reached", "verdict"], rows)

    def show(self):
        if not self.rows and not self.judged and not self.read:
            return
        if self.at:
            print(f"\nMeasured from {min(self.at)} to {max(self.at)}" + (f", load average {min(self.load):.1f} to {max(self.load):.1f}, median {statistics.median(self.load):.1f}." if self.load else "."))
        self.goals()
        self.speed()
        self.again()
        self.cost()
        self.memory()
        self.reading()
        self.where()
        self.correct()


def count(users):
    m = re.match(r"^\D+0*(\d+)\.\.\D+0*(\d+)$", users)
    return int(m[2]) - int(m[1]) + 1 if m else 1


def percent(v):
    return "–" if v is None else f"{100 * v:.0f} %"


def times(v):
    return f"{v:.2f} times"


def number0(n):
    return f"**{n:,}**" if n else "0"


def live_lost(v):
    """Messages of the source that the target has not, and deliveries to the target that are gone."""
    return v["of_src_lost"] + 5 - v["dst_new_in_dst"]


class Counts:
    """What a tool did, without what the target refuses to take."""

    def __init__(self, v):
        m, f, flags, subs = v["messages"], v["folders"], v["flags"], v["subscriptions"]
        self.no = dict.fromkeys(("folders", "renamed", "renamed_messages", "messages", "dates", "subscriptions", "dangling"), 0) | (v.get("refused") or {})
        self.lost = m["missing"] - self.no["messages"] - self.no["renamed_messages"]
        self.many = m["duplicated"] + m["extra"] - self.no["renamed_messages"]
        self.gone, self.new = f["missing"] - self.no["folders"], f["extra"] - self.no["renamed"]
        self.changed = m["changed_header_only"] + m["changed_body"]
        self.marks = flags["system_differ"] + flags["keywords_differ"] + v["internaldate"]["differ"] - self.no["dates"]

        self.subscriptions = subs["missing"] + subs["extra"] - 2 * self.no["subscriptions"] - self.no["dangling"]

    def refusals(self):
        n = self.no
        return ([f"{n['folders']} names refused by the target, {n['renamed']} of them there under another"] if n["folders"] else []) + (
            [f"{n['messages']} messages refused by the target"] if n["messages"] else []) + ([f"{n['dates']} dates refused by the target"] if n["dates"] else []) + (
            [f"{n['dangling']} subscriptions of no mailbox refused by the target"] if n["dangling"] else [])


def lowest(rows):
    """The lowest of (case, value), as value, case."""
    case, v = min(rows, key=lambda cv: cv[1], default=("", None))
    return v, case


def show(run):
    Migration(run).show()


BEGIN, END = "<!-- rows of migration: begin -->\n", "<!-- rows of migration: end -->"


def main(run, page):
    """Puts the Markdown between the marks of a page."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        show(run)
    with open(page) as f:
        head, rest = f.read().split(BEGIN)
    with open(page, "w") as f:
        f.write(head + BEGIN + out.getvalue() + "\n" + END + rest.split(END)[1])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
