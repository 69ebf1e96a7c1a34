"""From raw results to the table on the terminal and to docs/performance.md with its plots."""

import math
from pathlib import Path

import plot
import scenarios
from plot import number
from process import median
from rows import MIXED_CONNS
from rows import MIXED_RATIOS
from rows import MIXED_VALUES
from rows import ROWS
from rows import Results
from rows import judged

# Figures that belong in the page's detail, beside the judged rows.
DETAIL = [
    ("one client: put rate, own tool", "put_1x1.oc.rate", "/s"),
    ("one client: put CPU", "put_1x1.oc.cpu_us", "µs"),
    ("log syncs of a put, one by one, counted by strace", "sync.strace_per_put", ""),
    ("log syncs of a put, 100 clients", "put_10x100.bm.fsyncs_per_op", ""),
    ("100 clients: put p50, Go tool", "put_10x100.bm.p50", "ms"),
    ("100 clients: put p99, Go tool", "put_10x100.bm.p99", "ms"),
    ("100 clients: put p99.9, Go tool", "put_10x100.bm.p999", "ms"),
    ("1000 clients: put rate, Go tool", "put_100x1000.bm.rate", "/s"),
    ("put p99 at 4000/s, open loop", "put_rate_4000.oc.p99", "ms"),
    ("put p99.9 at 4000/s, open loop", "put_rate_4000.oc.p999", "ms"),
    ("put p99 at 8000/s, open loop", "put_rate_8000.oc.p99", "ms"),
    ("put p99.9 at 8000/s, open loop", "put_rate_8000.oc.p999", "ms"),
    ("one client: get p50, Go tool", "get_1x1.bm.p50", "ms"),
    ("one client: get p50, own tool", "get_1x1.oc.p50", "ms"),
    ("linearizable read, 1000 clients: p99, Go tool", "get_lin.bm.p99", "ms"),
    ("page of 500 now, latency", "page_now.p50", "ms"),
    ("page of 500 at an older revision, latency", "page_old.p50", "ms"),
    ("all pages of the large data set, one after the other", "walk.seconds", "s"),
    ("keys-only scan: CPU per key", "scan_keys.cpu_us", "µs"),
    ("memory on top of a unary scan", "scan_unary.extra_mib", "MiB"),
    ("bulk load, 100 puts a transaction: rate of transactions", "load.rate", "/s"),
    ("bulk load: CPU per key", "load.cpu_us", "µs"),
    ("disk bytes per user byte of the bulk load", "load.written_per_byte", ""),
    ("disk taken per key of 320 bytes", "loaded.disk_bytes_per_key", "B"),
    ("put p99 at 500/s, nothing else going on", "quiet.put_p99", "ms"),
    ("put p99 during compaction", "compaction.put_p99", "ms"),
    ("worst put during compaction", "compaction.put_max", "ms"),
    ("defrag", "defrag.seconds", "s"),
    ("data on disk before defrag", "before_defrag.disk_mib", "MiB"),
    ("data on disk after defrag", "after_defrag.disk_mib", "MiB"),
    ("snapshot save", "snapshot.seconds", "s"),
    ("worst put during snapshot save", "snapshot.put_max", "ms"),
    ("hash of the store", "hashkv.seconds", "s"),
    ("CPU of a restart", "restart.cpu_seconds", "s"),
    ("transaction with one put, 100 clients: rate", "txn_put.bm.rate", "/s"),
    ("transaction with one put: CPU", "txn_put.bm.cpu_us", "µs"),
    ("software transactions (stm), 100 clients: rate", "stm.bm.rate", "/s"),
    ("guarded put, h2load: rate", "guarded_put.h2.rate", "/s"),
    ("guarded put: CPU", "guarded_put.h2.cpu_us", "µs"),
    ("page of 500 beside guarded puts: p99", "flood_page.p99", "ms"),
    ("watch p99, 1 watcher, own tool", "watch_1.oc.p99", "ms"),
    ("watch p99, 100 watchers, own tool", "watch_100.oc.p99", "ms"),
    ("watch event CPU, 100 watchers", "watch_100.oc.cpu_us", "µs"),
    ("watch event CPU, 100 watchers, with the previous value", "watch_100_prevkv.oc.cpu_us", "µs"),
    ("watch event CPU, 10000 watchers", "watch_10000.oc.cpu_us", "µs"),
    ("memory per watcher, 10000 watchers", "watch_10000.rss_per_watcher_kib", "KiB"),
    ("put p99 at 500/s, no watcher", "no_reader.put_p99", "ms"),
    ("put p99 at 500/s beside 1000 watchers that read nothing", "stalled_reader.put_p99", "ms"),
    ("memory that they cost", "stalled_reader.extra_mib", "MiB"),
    ("keep-alive, a stream for each: CPU", "keepalive.bm.cpu_us", "µs"),
    ("lease grant, h2load: rate", "grant.h2.rate", "/s"),
    ("lease grant: CPU", "grant.h2.cpu_us", "µs"),
    ("memory per lease", "grant.rss_per_lease_bytes", "B"),
    ("CPU of an idle server", "idle.cpu_percent", "% of a core"),
]

# In the results, and too much for a terminal.
UNPRINTED = {"RssAnon", "VmHWM", "errors", "mean", "max", "p999", "client_us"}

CURVES = [
    ("keys", "page.cpu_us", "A page of 500 keys", "keys", "server CPU, µs"),
    ("keys", "count.cpu_us", "Counting all keys", "keys", "server CPU, µs"),
    ("keys", "rss_mib", "Memory with keys of 64 and values of 256 bytes", "keys", "RSS, MiB"),
    ("keys", "restart_seconds", "From SIGKILL to serving", "keys", "seconds"),
    ("keys", "compaction_seconds", "Compaction of as many dead revisions as keys", "dead revisions", "seconds"),
    ("keys", "defrag.put_max", "Worst put during defrag", "keys", "ms"),
    ("values", "put.oc.cpu_us", "A put by size of its value", plot.BYTES, "server CPU, µs"),
    ("values", "rss_mib", "Memory after puts, by size of the value", plot.BYTES, "RSS, MiB"),
    ("watchers", "watch.oc.cpu_us", "An event delivered to one watcher", "watchers", "server CPU, µs"),
    ("watchers", "watch.oc.p99", "From put to event", "watchers", "p99, ms"),
    ("watchers", "rss_mib", "Memory of watchers", "watchers", "added RSS, MiB"),
    ("leases", "expiry.seconds_after_deadline", "Leases of one deadline: until all are gone", "leases", "seconds late"),
    ("leases", "expiry.cpu_us", "One expired lease", "leases", "server CPU, µs"),
    ("connections", "put.oc.cpu_us", "A put by number of connections", "connections", "server CPU, µs"),
    ("connections", "rss_mib", "Memory of connections", "connections", "added RSS, MiB"),
    ("in_flight", "put.oc.p50", "A put by requests in flight", "requests in flight", "p50, ms"),
    ("in_flight", "put.oc.rate", "Puts by requests in flight", "requests in flight", "per second"),
    ("history", "rss_mib", "Memory of as many revisions on fewer keys", "revisions per key", "RSS, MiB"),
    ("history", "get_old.cpu_us", "A read of an old revision", "revisions per key", "server CPU, µs"),
    ("history", "replay_cpu_us", "An event read back for a late watcher", "revisions per key", "server CPU, µs"),
]


def of_kind(runs, kind):
    return [run for run in runs if run["kind"] == kind]


def figure(value, unit):
    return "–" if value is None else f"{number(value)} {unit}".strip()


def ratio_text(row, spread):
    if spread is None:
        return "–", ""
    unit = "×" if not row.limit or row.unit == "×" else f" {row.unit}"
    middle, least, most = (number(value) for value in spread)
    return f"{middle}{unit}", f"{least} to {most}" if least != most else ""


def table(results, marks=("", "~")):
    """The judged rows as lists of words. A `~` marks a ratio from pairs that other processes disturbed."""
    for row, etcd, ours, spread, quiet, verdict in judged(results):
        middle, range_ = ratio_text(row, spread)
        must, stretch = row.bounds()
        told = (row.number, row.title, figure(etcd, row.unit), figure(ours, row.unit))
        yield (*told, middle + (marks[0] if quiet else marks[1]), range_, must, stretch, verdict)


HEADS = ("row", "measure", "etcd", "kv", "ratio", "min to max", "must", "stretch", "verdict")


def print_table(runs):
    """The table for the terminal, and for results of other kinds every figure beside the judge's."""
    paired = of_kind(runs, "pairs")
    if paired:
        lines = [HEADS, *table(Results(paired))]
        widths = [max(len(line[column]) for line in lines) for column in range(len(HEADS))]
        for line in lines:
            print("  ".join(word.ljust(width) for word, width in zip(line, widths)).rstrip())
    for run in (run for run in runs if run["kind"] != "pairs"):
        names = list(run["servers"])
        figures = {name for trial in run["trials"] for name in trial["figures"]}
        figures = sorted(name for name in figures if name.rpartition(".")[2] not in UNPRINTED)
        results = Results([run])
        for name in figures:
            values = [number(median(results.figures(server, name))) for server in names]
            print(name.ljust(48), "  ".join(f"{server} {value}" for server, value in zip(names, values)))


# The page ------------------------------------------------------------------------------------------------


def markdown(heads, lines):
    out = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return out + ["| " + " | ".join(str(word) for word in line) + " |" for line in lines]


class Page:
    """The page being written, and the plots beside it."""

    def __init__(self, docs):
        self.docs, self.out = docs, []
        self.folder = docs / "performance"

    def add(self, *lines):
        self.out += [*lines, ""]

    def plot(self, name, title, text):
        if text:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / f"{name}.svg").write_text(text)
            self.add(f"![{title}](performance/{name}.svg)")


def write(runs, docs):
    """Writes the page and its plots; returns where."""
    page = Page(docs)
    paired, grown, engines = (of_kind(runs, kind) for kind in ("pairs", "growth", "engines"))
    results = Results(paired)
    introduction(page, runs, results)
    if paired:
        targets(page, results)
        plots_of_pairs(page, results)
        details(page, results)
    if grown:
        growth(page, Results(grown))
    if engines:
        by_engine(page, Results(engines), [name for run in engines for name in run["servers"]])
    how(page, runs)
    docs.mkdir(parents=True, exist_ok=True)
    path = docs / "performance.md"
    path.write_text("\n".join(page.out).rstrip() + "\n")
    return path


def introduction(page, runs, results):
    facts = runs[0]["machine"]
    versions = {name: server["version"] for run in runs for name, server in run["servers"].items()}
    page.add("# Performance")
    page.add("<!-- Written by `tests/bench/suite.py report`; edit the program, not the page. -->")
    page.add(
        "`kv` and a real etcd 3.7.1, one member each without TLS, started in turn on the same machine and the same disk",
        "with the same flags and fresh data, as alternated pairs. A ratio is the median over the pairs, with the least",
        "and the most; `~` marks ratios from pairs in which other processes used more than a tenth of a core. CPU is",
        "what the server's threads used until it was idle again, so work that was put off is on the bill. Every put is",
        "on the disk before it is acknowledged, in both servers. Rows that are missed are in the table like the others.",
    )
    if any(run["quick"] for run in runs):
        page.add("**This page is made from a quick run with tiny totals. It checks the harness; its figures say nothing.**")
    lines = [
        ("machine", f"{facts['cores']} × {facts['cpu']}, {facts['memory_gib']} GiB, Linux {facts['kernel']}, {facts['disk']}"),
        *((name, version) for name, version in versions.items()),
        ("commit", ", ".join(dict.fromkeys(run["commit"] for run in runs))),
        ("measured", ", ".join(dict.fromkeys(run["date"] for run in runs))),
        ("flags", "`" + " ".join(runs[0]["flags"]) + "`, all else as by default"),
        ("large data set", ", ".join(dict.fromkeys(f"{run['keys']:,} keys of 64 bytes, values of 256" for run in runs))),
    ]
    page.add(*markdown(("", ""), lines))


def targets(page, results):
    page.add("## Targets")
    lines = list(table(results))
    verdicts = [line[-1] for line in lines]
    counts = {name: verdicts.count(name) for name in ("stretch", "must", "missed", "not measured")}
    page.add(
        f"Of {len(lines)} measures, {counts['stretch']} reach the stretch target, {counts['must']} more what is required, and",
        f"{counts['missed']} miss it." + (f" {counts['not measured']} were not measured on both." if counts["not measured"] else ""),
    )
    shown = [(*line[:-1], f"**{line[-1]}**" if line[-1] == "missed" else line[-1]) for line in lines]
    page.add(*markdown(HEADS, shown))
    failures = sorted(set(results.failures()))
    if failures:
        page.add("What failed while measuring:")
        page.add(*(f"- {scenario}, pair {pair}, {server}: {failure}".replace("\n", " ") for scenario, pair, server, failure in failures))


def plots_of_pairs(page, results):
    names = (results.judge, results.ours)

    def groups(chosen):
        return {label: [median(results.figures(name, figure)) for name in names] for label, figure in chosen.items()}

    page.add("## Plots")
    cpu = {
        "put": "put_10x100.bm.cpu_us", "txn": "txn_put.bm.cpu_us", "get lin": "get_lin.bm.cpu_us", "get ser": "get_ser.bm.cpu_us",
        "grant": "grant.h2.cpu_us", "keep-alive": "keepalive.bm.cpu_us",
    }
    page.plot("cpu", "Server CPU per operation", plot.bars("Server CPU per operation", "µs", groups(cpu), names))
    rate = {
        "put, Go": "put_10x100.bm.rate", "put, h2load": "put_10x10.h2.rate", "get, Go": "get_lin.bm.rate",
        "get, h2load": "get_lin.h2.rate", "txn, Go": "txn_put.bm.rate",
    }
    page.plot("rate", "Operations a second", plot.bars("Operations a second, client on the same cores", "per second", groups(rate), names))
    memory = {
        "idle": "idle.VmRSS", "loaded": "loaded.VmRSS", "after restart": "restart.VmRSS", "after 1 MiB values": "after_values.VmRSS",
    }
    page.plot("memory", "Memory", plot.bars("Memory", "RSS, MiB", groups(memory), names))
    for tool, what in (("cpu_us", "CPU of a put by size of its value"), ("written_per_byte", "Disk bytes per user byte")):
        series = {
            name: [(size, value) for size in scenarios.VALUE_SIZES if (value := median(results.figures(name, f"put_{size}.bm.{tool}")))]
            for name in names
        }
        label = "server CPU, µs" if tool == "cpu_us" else "bytes written ÷ user bytes"
        page.plot(f"values-{tool.split('_')[0]}", what, plot.lines(what, plot.BYTES, label, series))
    grid = results.grid()
    if grid:
        columns = [f"{c} conns" for c in MIXED_CONNS]
        rows = {}
        for value in MIXED_VALUES:
            for ratio in MIXED_RATIOS:
                for part, name in enumerate(("reads", "writes")):
                    line = [grid.get((value, connections, ratio), (None, None))[part] for connections in MIXED_CONNS]
                    if any(line):
                        rows[f"{value} B, r/w {ratio:g}: {name}"] = line
        title = "Mixed load: throughput of ours over etcd's"
        page.plot("mixed", title, plot.heat(title, "pages of 100 among all keys, and puts; a client a connection", columns, rows))
        for part, name in enumerate(("reads", "writes")):
            product = math.exp(sum(math.log(ratios[part]) for ratios in grid.values()) / len(grid))
            page.add(f"Mixed load, geometric mean over {len(grid)} cells, {name}: {product:.2f}×.")


def details(page, results):
    page.add("## Figures beside the targets")
    lines = []
    for title, name, unit in DETAIL:
        etcd, ours = (median(results.figures(server, name)) for server in (results.judge, results.ours))
        if etcd is None and ours is None:
            continue
        ratio = f"{number(ours / etcd)}×" if etcd and ours is not None else "–"
        lines.append((title, figure(etcd, unit), figure(ours, unit), ratio))
    page.add(*markdown(("measure", "etcd", "kv", "kv ÷ etcd"), lines))


def points_of(results, server, axis, what):
    found = []
    for trials in results.pairs.values():
        for name, value in trials.get(server, {}).get("figures", {}).items():
            if name.startswith(axis + ".") and name.split(".", 2)[2:] == [what] and value > 0:
                found.append((int(name.split(".")[1]), value))
    return sorted({x: median([y for other, y in found if other == x]) for x, _ in found}.items())


def growth(page, results):
    page.add("## How cost grows")
    page.add("One pass over each axis, each point on a fresh server. Both axes are logarithmic: a flat line is a cost that does not grow.")
    for axis, what, title, x_label, y_label in CURVES:
        series = {name: points_of(results, name, axis, what) for name in (results.judge, results.ours)}
        name = f"growth-{axis}-{what}".replace(".", "-").replace("_", "-")
        page.plot(name, title, plot.lines(title, x_label, y_label, series))


def by_engine(page, results, servers):
    servers = list(dict.fromkeys(servers))
    page.add("## Storage engines")
    page.add("The core scenarios with each engine. The log in front makes puts durable, so that the engine shows in what is done later.")
    wanted = {row.figure: (row.title, row.unit) for row in ROWS}
    wanted |= {name: (title, unit) for title, name, unit in DETAIL}
    lines = []
    for name, (title, unit) in wanted.items():
        values = [median(results.figures(server, name)) for server in servers]
        if any(value is not None for value in values):
            lines.append((title, *(figure(value, unit) for value in values)))
    page.add(*markdown(("measure", *servers), lines))


def how(page, runs):
    page.add("## How it was measured")
    later = ", ".join(f"{name} ({what})" for name, what in scenarios.LATER.items())
    page.add(
        "`make bench ETCD=/path/to/etcd` runs it again, with etcd's `benchmark` beside it; `make bench-growth` and",
        "`make bench-engines` make the other parts, and `tests/bench/suite.py report RESULTS.json…` this page. Loads: etcd's",
        "own `benchmark` (the Go tool), `kv bench` (own tool; with a rate it is an open loop that counts from when a request",
        "was due), and h2load with a fixed gRPC body as the cheapest client there is. Client and server share the cores, so a",
        "rate is bounded by the client too; server CPU per operation is not. Disk bytes are those the device took.",
        f"Left to later steps: {later}.",
    )
    page.add("Commands, as run on both servers (addresses made alike):")
    commands = dict.fromkeys(
        command for run in of_kind(runs, "pairs") for trial in run["trials"] if trial["pair"] == 0 for command in trial["commands"]
    )
    shown = dict.fromkeys(Path(command.split()[0]).name + command[len(command.split()[0]) :] for command in commands)
    servers = dict.fromkeys(server["command"] for run in runs for server in run["servers"].values())
    page.add("```text", *servers, *shown, "```")
