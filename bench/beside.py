#!/usr/bin/env python3
"""Markdown tables of what beside.sh measured: beside.py RUN.

A cell is the median of the rounds, with lowest and highest where they differ by
more than a tenth. The ratio is mailferry against the best server beside it, above
1 where mailferry is better; "of relay" is mailferry's figure over the bare relay's. Runs that other work disturbed most are left out
where a calmer run of the same row is there.
"""
import json
import os
import re
import statistics
import sys

import beside_migrate

RUN = sys.argv[1]
OURS = "mailferry"
YARDSTICKS = ("relay", "fake", "direct")  # no servers: they are shown, and win nothing


def lines(*path):
    try:
        with open(os.path.join(RUN, *path)) as f:
            for line in f:
                try:
                    yield json.loads(line)
                except ValueError:
                    pass
    except FileNotFoundError:
        pass


def number(v):
    if v is None:
        return "–"
    return f"{v:,.0f}" if v >= 100 else f"{v:.1f}" if v >= 10 else f"{v:.2f}"


def calm(runs, limit):
    """runs are (value, disturbance); the calm ones, or else the calmest."""
    good = [v for v, d in runs if d <= limit]
    return good or [min(runs, key=lambda r: r[1])[0]]


def cell(values):
    values = [v for v in values if v is not None]
    if not values:
        return "–"
    text, low, high = number(statistics.median(values)), min(values), max(values)
    return text if high <= 1.1 * low else f"{text} ({number(low)}–{number(high)})"


class Table:
    def __init__(self, limit):
        self.limit, self.rows, self.peers, self.cells = limit, [], [], {}

    def add(self, row, peer, value, disturbance=0):
        if value is None:
            return
        if row not in self.rows:
            self.rows.append(row)
        if peer not in self.peers:
            self.peers.append(peer)
        self.cells.setdefault((row, peer), []).append((float(value), disturbance))

    def show(self, title, lower=False):
        if not self.rows:
            return
        peers = [p for p in self.peers if p != OURS] + [p for p in self.peers if p == OURS]
        relay = "relay" in peers and OURS in peers
        heads = peers + (["ratio"] if OURS in peers else []) + (["of relay"] if relay else [])
        print(f"\n{title}\n\n| | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
        for row in self.rows:
            runs = {p: calm(self.cells[row, p], self.limit) for p in peers if (row, p) in self.cells}
            medians = {p: statistics.median(v) for p, v in runs.items()}
            others = [v for p, v in medians.items() if not p.startswith(OURS) and p not in YARDSTICKS]
            ratio = "–"
            if OURS in medians and others:
                best = min(others) if lower else max(others)
                a, b = (best, medians[OURS]) if lower else (medians[OURS], best)
                ratio = f"{a / b:.2f}" if b else "–"
            cells = [cell(runs.get(p, [])) for p in peers] + ([ratio] if OURS in peers else [])
            if relay:
                ours, floor = medians.get(OURS), medians.get("relay")
                cells.append(f"{ours / floor:.2f}" if ours and floor else "–")
            print(f"| {row} | {' | '.join(cells)} |")


LOGINS = {
    "imap-login": "plain",
    "imap-plain-ir": "plain, SASL PLAIN at once",
    "imap-tls-full": "TLS full",
    "imap-tls-resume": "TLS 1.3 resumed",
    "imap-tls12-resume": "TLS 1.2 resumed",
    "pop3-userpass": "POP3",
    "sieve-plain": "ManageSieve",
}
LEGS = {"imap": "plain", "imaps": "TLS"}


class ProxyTables:
    """The tables of the proxy part, each fed from the lines of its commands."""

    limit = 0.4  # cores that other work took

    def __init__(self):
        self.tables = {}

    def add(self, title, row, r, value, lower=False, peer=None):
        table, _ = self.tables.setdefault(title, (Table(self.limit), lower))
        table.add(row, peer or r["peer"], value, r.get("other_util", 0) + r.get("steal_util", 0))

    def logins(self, r):
        case, cpu = r["case"], r.get("cpu_us_per_op", {}).get("proxy")
        real = case.startswith("real-")
        row = f"{LOGINS.get(case.removeprefix('real-'), case)}, {r['c']}"
        if real:
            self.add("Logins per second, real store (fake: none)", row, r, r["rate"])
            return
        if r["c"] == 50 and case in ("imap-login", "imap-tls-full") and r["peer"] in ("perdition", OURS, OURS + "-search", OURS + "-bind"):
            what = {"perdition": "perdition: one search each", OURS: "route cached", OURS + "-search": "one search each", OURS + "-bind": "one search and one bind each"}[r["peer"]]
            self.add("Logins per second by what a login asks of LDAP; 50 clients", row, r, r["rate"], peer=what)
            self.add("The same, CPU of the proxy, µs per login", row, r, cpu, True, peer=what)
        if r["peer"].startswith(OURS + "-"):
            return
        self.add("Logins per second; clients", row, r, r["rate"])
        self.add("CPU of the proxy, µs per login", row, r, cpu, True)
        self.add("Connect to login OK, p50 ms", row, r, r["p50_ms"], True)
        self.add("Connect to login OK, p99 ms", row, r, r["p99_ms"], True)

    def idle(self, r):
        used = r["case"].startswith("idle-used-")
        row = LEGS[r["case"].rsplit("-", 1)[1]] + (", after a FETCH of 1 MiB" if used else ", in IDLE")
        self.add("Memory, KiB (PSS) per session", row, r, r["mem"].get("proxy", {}).get("pss_kib_per_conn"), True)

    def transfer(self, r):
        what, leg = r["case"].split("-", 1)
        row = f"{what.upper()} {LEGS[leg]}, {r['c']}"
        self.add("Messages of 1 MiB, MB/s; sessions", row, r, r["mb_s"])
        self.add("CPU of the proxy, s per GB", row, r, r.get("cpu_s_per_gb", {}).get("proxy"), True)

    def latency(self, r):
        kind, leg = r["case"].rsplit("-", 1)
        leg = LEGS[leg]
        if kind == "noop-busy":
            self.add("50 busy sessions, NOOPs/s", leg, r, r["rate"])
            self.add("The same, CPU of the proxy, µs per NOOP", leg, r, r.get("cpu_us_per_op", {}).get("proxy"), True)
            return
        title = {"noop": "Added to one NOOP, µs", "noop-paced": "200 sessions with a NOOP each 100 ms: added, µs"}[kind]
        for q in ("p50", "p99"):
            self.add(title, f"{leg}, {q}", r, r.get(f"added_{q}_us"), True)

    def show(self):
        for title, (table, lower) in self.tables.items():
            table.show(title, lower=lower)


def proxy():
    t = ProxyTables()
    feed = {"logins": t.logins, "idle": t.idle, "throughput": t.transfer, "append": t.transfer, "latency": t.latency}
    for r in lines("proxy", "results-ecdsa.jsonl"):
        if r.get("errors"):
            print(f"errors: {r['errors']} in {r['peer']} {r['case']}, {r.get('c')}", file=sys.stderr)
        if r["cmd"] in feed:
            feed[r["cmd"]](r)
    t.show()


def store():
    tables = {}
    for name in sorted(os.listdir(os.path.join(RUN, "store", "results"))) if os.path.isdir(os.path.join(RUN, "store", "results")) else []:
        for r in lines("store", "results", name):
            if "value" not in r:
                continue
            peer = r["peer"].removeprefix("custom-")
            other = r.get("other_cpu_pct", 0)
            if r["cmd"] == "deliver" and r.get("conns") == 1:
                other = 0  # it waits for the disk: others always find CPU, all runs count
            key = (r["metric"], r["unit"], r["better"] == "lower")
            tables.setdefault(key, Table(60)).add(r["case"], peer, r["value"], other)
            for field, title in (("server_cpu_ms_per_op", "CPU of the server, ms per operation"), ("flushes_per_op", "disk flushes per operation")):
                if r["cmd"] == "deliver" and field in r:
                    tables.setdefault((title, "", True), Table(60)).add(r["case"], peer, r[field], other)
    for (metric, unit, lower), table in tables.items():
        table.show(f"{metric}{', ' + unit if unit.strip('/s') else ''}", lower=lower)


def engine():
    t = Table(0)
    try:
        text = open(os.path.join(RUN, "engine", "results.txt")).read()
    except FileNotFoundError:
        return
    for m in re.finditer(r"^BenchmarkDeliver/voters=(\d)/shards=(\d+)/writers=(\d+)\S*.*?([\d.]+) deliveries/s", text, re.M):
        voters, shards, writers, rate = m.groups()
        t.add(f"shards {shards}, writers {writers}", "one voter" if voters == "1" else "three voters", rate)
    t.show("Deliveries per second into our store, without a protocol")


for part in (proxy, store, lambda: beside_migrate.show(RUN), engine):
    part()
