"""The measures that are held against etcd: which figure of which scenario, and what the ratio has to be.

Rows have the numbers of the project's list of targets. The list's rows for TLS, authentication, clusters
and failover (17 to 20) come with later steps.
"""

from dataclasses import dataclass

from process import median
from scenarios import MIXED_CONNS
from scenarios import MIXED_RATIOS
from scenarios import MIXED_VALUES

QUIET = 0.10


@dataclass
class Row:
    """One measure. `less` says that a smaller figure is better; `speedup` that the ratio is etcd over ours.

    With `limit`, it is our own figure that counts, in its unit, not the ratio.
    """

    number: str
    title: str
    figure: str
    unit: str
    must: float
    stretch: float
    less: bool = True
    speedup: bool = False
    limit: bool = False

    def ratio(self, etcd, ours):
        if self.limit:
            return ours
        if self.speedup:
            return etcd / ours if ours else float("inf")
        return ours / etcd if etcd else None

    def meets(self, ratio, bound):
        return ratio <= bound if self.less and not self.speedup else ratio >= bound

    def verdict(self, ratio):
        if ratio is None:
            return "not measured"
        if self.meets(ratio, self.stretch):
            return "stretch"
        return "must" if self.meets(ratio, self.must) else "missed"

    def bounds(self):
        sign = "≤" if self.less and not self.speedup else "≥"
        unit = f" {self.unit}" if self.limit else "×"
        return tuple(f"{sign} {bound:g}{unit}" for bound in (self.must, self.stretch))


ROWS = [
    Row("1", "one client: put p50, Go tool", "put_1x1.bm.p50", "ms", 0.55, 0.50),
    Row("1", "one client: put p50, own tool", "put_1x1.oc.p50", "ms", 0.55, 0.50),
    Row("2", "put CPU, 100 clients", "put_10x100.bm.cpu_us", "µs", 0.36, 0.26),
    Row("2", "put CPU, h2load 10×10", "put_10x10.h2.cpu_us", "µs", 0.36, 0.26),
    Row("3", "put rate, Go tool, 100 clients", "put_10x100.bm.rate", "/s", 1.9, 2.5, less=False),
    Row("3", "put rate, h2load 10×10", "put_10x10.h2.rate", "/s", 2.5, 3.5, less=False),
    Row("4", "disk bytes per user byte, 100 clients", "put_10x100.bm.written_per_byte", "", 0.65, 0.5),
    Row("5", "serializable read CPU", "get_ser.bm.cpu_us", "µs", 0.38, 0.28),
    Row("5", "linearizable read CPU", "get_lin.bm.cpu_us", "µs", 0.38, 0.28),
    Row("6", "read rate, Go tool, linearizable", "get_lin.bm.rate", "/s", 1.6, 2.0, less=False),
    Row("6", "read rate, Go tool, serializable", "get_ser.bm.rate", "/s", 1.6, 2.0, less=False),
    Row("6", "read rate, h2load 10×10, linearizable", "get_lin.h2.rate", "/s", 2.0, 3.0, less=False),
    Row("7", "page of 500 now, CPU", "page_now.cpu_us", "µs", 500, 1000, speedup=True),
    Row("7", "page of 500 at an older revision, CPU", "page_old.cpu_us", "µs", 500, 1000, speedup=True),
    Row("7", "page of 500 now, latency in the Go tool", "page_now.bm.p50", "ms", 50, 100, speedup=True),
    Row("8", "count of all keys, CPU", "count.cpu_us", "µs", 1000, 5000, speedup=True),
    Row("9", "full scan, streamed: CPU per key", "scan_stream.cpu_us", "µs", 0.25, 0.12),
    Row("9", "full scan, unary: CPU per key", "scan_unary.cpu_us", "µs", 0.25, 0.12),
    Row("9", "memory on top of a streamed scan", "scan_stream.extra_mib", "MiB", 64, 16, limit=True),
    Row("10", "RSS with the large data set loaded", "loaded.VmRSS", "MiB", 0.45, 0.25),
    Row("10", "RSS of the same after a restart", "restart.VmRSS", "MiB", 0.45, 0.25),
    Row("11", "RSS after values of 1 MiB", "after_values.VmRSS", "MiB", 0.35, 0.2),
    Row("12", "watch event CPU, 1000 watchers", "watch_1000.bm.cpu_us", "µs", 0.25, 0.15),
    Row("12", "watch p99, 1000 watchers, Go tool", "watch_1000.bm.p99", "ms", 0.75, 0.55),
    Row("12", "watch p99, 1000 watchers, own tool", "watch_1000.oc.p99", "ms", 0.4, 0.2),
    Row("13", "leases of one deadline: time until all are gone", "storm.seconds_after_deadline", "s", 20, 60, speedup=True),
    Row("13", "CPU per expired lease", "storm.cpu_us", "µs", 0.1, 0.03),
    Row("14", "compaction of as many dead revisions as keys", "compaction.seconds", "s", 0.1, 0.03),
    Row("15", "worst put during defrag", "defrag.put_max", "ms", 0.05, 0.01),
    Row("16", "SIGKILL to serving, large data set", "restart.seconds", "s", 0.25, 0.1),
    Row("16", "the same from a cold disk", "restart_cold.seconds", "s", 0.25, 0.1),
    Row("21", "idle RSS, empty", "idle.VmRSS", "MiB", 0.5, 0.35),
    Row("21", "exec to ready, empty", "empty_start.seconds", "s", 0.3, 0.1),
    Row("22", "mixed load, worst cell, reads and writes", "mixed.worst", "×", 1.0, 1.3, less=False, limit=True),
]


def cells():
    """Label, value size, connections and read-write ratio of every cell of the mixed grid."""
    for value in MIXED_VALUES:
        for connections in MIXED_CONNS:
            for ratio in MIXED_RATIOS:
                yield f"mixed_{value}_{connections}_{ratio}", value, connections, ratio


class Results:
    """Raw results of one or more runs of one kind, by scenario, pair and server."""

    def __init__(self, runs, ours="kv", judge="etcd"):
        self.ours, self.judge = ours, judge
        self.pairs = {}
        for number, run in enumerate(runs):
            for trial in run["trials"]:
                pair = self.pairs.setdefault((trial["scenario"], number, trial["pair"]), {})
                pair[trial["server"]] = trial

    def quiet(self, pair):
        return all(trial["others"] <= QUIET for trial in pair.values())

    def having(self, figure):
        """The pairs that hold a figure: the quiet ones, or all when none is quiet; and whether they are quiet."""
        found = [pair for pair in self.pairs.values() if any(figure in trial["figures"] for trial in pair.values())]
        quiet = [pair for pair in found if self.quiet(pair)]
        return (quiet, True) if quiet else (found, False)

    def figures(self, server, figure):
        pairs, _ = self.having(figure)
        return [pair[server]["figures"][figure] for pair in pairs if figure in pair.get(server, {}).get("figures", {})]

    def measured(self, row):
        """Medians of both servers, the ratio's median, least and most over the pairs, and whether it was quiet."""
        if row.figure == "mixed.worst":
            return self.worst_cell()
        pairs, quiet = self.having(row.figure)
        ratios = []
        for pair in pairs:
            both = [pair.get(server, {}).get("figures", {}).get(row.figure) for server in (self.judge, self.ours)]
            if row.limit and both[1] is not None:
                ratios.append(both[1])
            elif None not in both:
                ratios.append(row.ratio(*both))
        ratios = [ratio for ratio in ratios if ratio is not None]
        spread = (median(ratios), min(ratios), max(ratios)) if ratios else None
        return median(self.figures(self.judge, row.figure)), median(self.figures(self.ours, row.figure)), spread, quiet

    def grid(self):
        """The ratio of throughput in every cell that was measured: reads and writes, ours over etcd's."""
        found = {}
        for label, value, connections, ratio in cells():
            parts = []
            for part in ("read_rate", "write_rate"):
                figure = f"{label}.{part}"
                pairs, _ = self.having(figure)
                both = [[pair.get(server, {}).get("figures", {}).get(figure) for server in (self.judge, self.ours)] for pair in pairs]
                parts.append(median([ours / etcd for etcd, ours in both if etcd and ours]))
            if None not in parts:
                found[value, connections, ratio] = parts
        return found

    def worst_cell(self):
        ratios = [part for parts in self.grid().values() for part in parts]
        worst = min(ratios) if ratios else None
        spread = (worst, worst, max(ratios)) if ratios else None
        return None, None, spread, True

    def failures(self):
        for (scenario, _, pair), trials in self.pairs.items():
            for server, trial in trials.items():
                for failure in trial["failures"]:
                    yield scenario, pair + 1, server, failure


def judged(results):
    """Every row with what was measured and the verdict, for those of which anything was measured."""
    for row in ROWS:
        etcd, ours, spread, quiet = results.measured(row)
        if etcd is None and ours is None and spread is None:
            continue
        yield row, etcd, ours, spread, quiet, row.verdict(spread[0] if spread else None)
