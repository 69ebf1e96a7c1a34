"""What the suite computes, held against cases that can be checked by hand."""

import unittest

import guards
import rows
import tools
import wire
from rows import Results
from rows import Row

REPORT = """
Summary:
  Total:\t2.0 secs.
  Slowest:\t0.020 secs.
  Fastest:\t0.001 secs.
  Average:\t0.002 secs.
  Requests/sec:\t50.0

Response time histogram:
  0.0010 [1]\t|
  0.0029 [99]\t|∎∎∎

Latency distribution:
  50% in 1.5e-03 secs.
  99% in 0.0190 secs.
  99.9% in 0.0200 secs.

Error distribution:
  [3]\trpc error: code = Unavailable
  [2]\tetcdserver: too many requests
"""


def trial(server, value, others=0.0, pair=0):
    return {"scenario": "S", "pair": pair, "server": server, "others": others, "failures": [], "figures": {"a": value}}


class Suite(unittest.TestCase):
    def test_reports_of_the_official_tool_are_read(self):
        figures = tools.figures_of_report(REPORT, 0.5)
        expected = {"rate": 50.0, "requests": 100, "errors": 5, "p50": 1.5, "p99": 19.0, "p999": 20.0, "max": 20.0}
        for name, value in expected.items():
            self.assertAlmostEqual(figures[name], value, msg=name)

    def test_messages_come_back(self):
        message = wire.put(b"k" * 200, b"v", -1)
        self.assertEqual(wire.parse(message), {1: [b"k" * 200], 2: [b"v"], 3: [2**64 - 1]})

    def test_keys_are_those_of_the_official_tool(self):
        for number, size, key in ((0, 4, b"\0\0\0\0"), (1, 4, b"\2\0\0\0"), (64, 4, b"\x80\1\0\0"), (100_000, 2, b"\xc0\x9a\x0c")):
            self.assertEqual(wire.bench_key(number, size), key)

    def test_verdicts_follow_the_direction_of_the_measure(self):
        less, more = Row("", "", "a", "", 0.5, 0.2), Row("", "", "a", "", 2, 3, less=False)
        speedup, limit = Row("", "", "a", "", 10, 20, speedup=True), Row("", "", "a", "MiB", 64, 16, limit=True)
        cases = [
            # row, etcd, ours, verdict
            (less, 10, 2, "stretch"), (less, 10, 5, "must"), (less, 10, 6, "missed"),
            (more, 10, 30, "stretch"), (more, 10, 20, "must"), (more, 10, 19, "missed"),
            (speedup, 100, 5, "stretch"), (speedup, 100, 10, "must"), (speedup, 100, 11, "missed"),
            (limit, 1, 16, "stretch"), (limit, 1, 64, "must"), (limit, 1, 65, "missed"),
        ]
        for row, etcd, ours, verdict in cases:
            self.assertEqual(row.verdict(row.ratio(etcd, ours)), verdict, (row, etcd, ours))
        self.assertEqual(less.verdict(None), "not measured")

    def test_quiet_pairs_count_and_noisy_ones_only_without_them(self):
        row = Row("", "", "a", "", 0.5, 0.2)
        noisy = [trial("etcd", 10, 0.5, 0), trial("kv", 9, 0.0, 0)]
        quiet = [trial("etcd", 10, 0.0, 1), trial("kv", 4, 0.1, 1)]
        _, _, spread, was_quiet = Results([{"trials": noisy + quiet}]).measured(row)
        self.assertEqual((spread, was_quiet), ((0.4, 0.4, 0.4), True))
        _, _, spread, was_quiet = Results([{"trials": noisy}]).measured(row)
        self.assertEqual((spread, was_quiet), ((0.9, 0.9, 0.9), False))

    def test_runs_are_merged_pair_by_pair(self):
        row = Row("", "", "a", "", 0.5, 0.2)
        runs = [{"trials": [trial("etcd", 10), trial("kv", ours)]} for ours in (2, 4, 9)]
        _, _, spread, _ = Results(runs).measured(row)
        self.assertEqual(spread, (0.4, 0.2, 0.9))

    def test_allocations_are_counted_from_outside_the_allocator(self):
        text = "\n".join([
            "fn=(1) work", "cfn=(2) mi_malloc_aligned", "calls=3 0", "1 30", "cfn=(3) mi_free", "calls=9 0", "1 9",
            "fn=(2)", "cfn=(4) mi_malloc", "calls=5 0", "1 50", "fn=(5) other", "cfn=(2)", "calls=2 0", "1 20",
        ])
        self.assertEqual(guards.allocations(text), 5)

    def test_every_row_names_a_figure_once(self):
        figures = [row.figure for row in rows.ROWS]
        self.assertEqual(len(figures), len(set(figures)))


if __name__ == "__main__":
    unittest.main()
