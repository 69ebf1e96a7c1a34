#!/usr/bin/env python3
"""Guards that do not read the clock: counts and sizes of a running server, held against guards.json.

    guards.py KV            checks; a tool that is missing skips its guard with a line that says so
    guards.py KV --update   writes the measured instructions and allocations into guards.json

The page cost at 200k keys against 2k is a count of nodes in src/mvcc/index/tests.rs.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import process
import wire
from process import Server
from process import Spec
from tools import Tools

STORED = Path(__file__).with_name("guards.json")
CLIENTS, PUTS = 100, 5000
ATTEMPTS = 3
UNDER_VALGRIND = 300


def bench(kv, server, *words):
    return Tools(kv).oc(server, *words)[0]


def syncs(kv, server):
    """How many log syncs 1000 puts of 100 clients cost, as the server's own metric counts them."""
    before = server.fsyncs()
    words = ("put", "--val-size=256", "--key-space-size=10000", f"--total={PUTS}")
    done = bench(kv, server, 10, CLIENTS, *words)
    assert done["requests"] == PUTS, f"{done['requests']} of {PUTS} puts succeeded"
    return (server.fsyncs() - before) * 1000 / PUTS


def guard_syncs(kv, stored, new_server):
    limit = stored["syncs_per_1000_puts"]
    with new_server() as server:
        least = min(syncs(kv, server) for _ in range(ATTEMPTS))
        yield least <= limit, f"{least:.1f} log syncs for 1000 puts of {CLIENTS} clients, at most {limit}"


def guard_metric_is_true(kv, stored, new_server):
    if not shutil.which("strace"):
        yield None, "strace is not there: the metric of log syncs is not compared with the calls"
        return
    with new_server() as server:
        report = server.directory / "strace"
        words = ["strace", "-f", "-y", "-o", str(report), "-e", "trace=fdatasync,fsync", "-p", str(server.pid)]
        tracer = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        try:
            if "attached" not in tracer.stderr.readline():
                yield None, "strace may not attach here: the metric of log syncs is not compared with the calls"
                return
            process.wait_all_traced(server.pid)
            before, puts = server.fsyncs(), 200
            channel = server.channel()
            channel.pipeline(wire.KV + "Put", [wire.put(b"guard", b"v" * 256)] * puts, in_flight=1)
            channel.close()
            told = server.fsyncs() - before
        finally:
            tracer.terminate()
            tracer.communicate()
        calls = [line for line in report.read_text().splitlines() if re.search(r"\bf(data)?sync\(\d+<[^>]*/wal/", line)]
        yield len(calls) >= puts, f"{puts} puts one by one, {len(calls)} syncs of log files seen by strace"
        close = abs(told - len(calls)) <= 0.02 * puts + 2
        yield close, f"the metric says {told:.0f} log syncs, strace {len(calls)}"


def guard_memory(kv, stored, new_server):
    keys, limit = 200_000, stored["rss_mib_at_200k_keys"]
    with new_server() as server:
        words = ("txn-put", "--key-size=64", "--val-size=256", f"--key-space-size={keys}", "--txn-ops=100", f"--total={keys // 100}")
        bench(kv, server, 4, 8, *words)
        server.settle(10)
        memory = server.memory()["VmRSS"]
        yield memory <= limit, f"{memory:.0f} MiB at {keys} keys of 320 bytes, at most {limit}"


def guard_instructions(kv, stored, new_server, update=False):
    if not shutil.which("valgrind"):
        yield None, "valgrind is not there: instructions and allocations are not counted"
        return
    measured = under_callgrind(kv)
    if update:
        stored.update(measured)
        STORED.write_text(json.dumps(stored, indent=2) + "\n")
    for name, value in measured.items():
        limit = stored.get(name)
        allowed = stored["tolerance"]
        if limit is None:
            yield None, f"{name} {value:.1f}, nothing stored"
        else:
            yield value <= limit * (1 + allowed), f"{name} {value:.1f}, at most {limit:.1f} and {allowed:.0%}"
            if value < limit * (1 - allowed):
                yield True, f"{name} became better: store it with --update"


class Callgrind(Server):
    """A server under callgrind, which can be asked for what was executed since it was last asked."""

    def command(self):
        words = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={self.directory}/out", "--separate-threads=no"]
        return [*words, *super().command()]

    def executed(self):
        """Instructions since the last time, and calls of the allocator by whoever."""
        known = set(self.directory.glob("out.*"))
        subprocess.run(["callgrind_control", "--dump", str(self.pid)], check=True, capture_output=True)
        deadline = time.perf_counter() + 60
        while not (new := set(self.directory.glob("out.*")) - known):
            assert time.perf_counter() < deadline, "callgrind wrote no dump"
            time.sleep(0.05)
        text = new.pop().read_text()
        return int(re.search(r"^(?:totals|summary): (\d+)", text, re.M)[1]), allocations(text)


ALLOCATE = re.compile(r"mi_(malloc|zalloc|calloc|realloc|rezalloc)\w*$")


def allocations(text):
    """Calls of mimalloc from outside it, in a callgrind file with compressed names."""
    names, caller, callee, total = {}, "", "", 0

    def name(word):
        number, _, rest = word.partition(" ")
        if rest:
            names[number] = rest
        return names.get(number, "")

    for line in text.splitlines():
        if line.startswith("fn="):
            caller = name(line[3:])
        elif line.startswith("cfn="):
            callee = name(line[4:])
        elif line.startswith("calls=") and ALLOCATE.match(callee) and not caller.startswith(("mi_", "_mi_")):
            total += int(line[6:].split()[0])
    return total


def phase(server, channel, method, messages):
    """Instructions and allocations of one of the requests; what the server does when idle is taken off."""
    server.executed()
    begun = time.perf_counter()
    channel.pipeline(wire.KV + method, messages, in_flight=1)
    seconds = time.perf_counter() - begun
    busy = server.executed()
    time.sleep(1)
    idle = server.executed()
    return [(b - i * seconds) / len(messages) for b, i in zip(busy, idle)]


def under_callgrind(kv):
    """Instructions and allocations of one put and one get, each alone on an idle server; the least of a few tries."""
    with tempfile.TemporaryDirectory(dir=STORED.parents[2] / "target") as directory:
        # The engine works by the clock, behind the acknowledged puts: a slow machine would count more of it.
        server = Callgrind(Spec("kv", [kv, "server", "--storage-engine=memory"], ""), directory)
        try:
            server.start()
            channel = server.channel()
            key, value = b"guard-key", b"v" * 256
            requests = {"put": wire.put(key, value), "get": wire.get(key)}
            measured = {}
            for what, method in (("put", "Put"), ("get", "Range")):
                message = [requests[what]] * UNDER_VALGRIND
                channel.pipeline(wire.KV + method, message[:100], in_flight=1)
                server.settle(5)
                samples = [phase(server, channel, method, message) for _ in range(ATTEMPTS)]
                measured[f"{what}_instructions"] = round(min(sample[0] for sample in samples))
                measured[f"{what}_allocations"] = round(min(sample[1] for sample in samples), 1)
            channel.close()
            return measured
        finally:
            server.kill()


def main():
    kv = str(Path(sys.argv[1]).resolve())
    update = "--update" in sys.argv
    stored = json.loads(STORED.read_text())
    target = STORED.parents[2] / "target"
    target.mkdir(exist_ok=True)
    wrong = 0
    with tempfile.TemporaryDirectory(dir=target) as directory:
        made = iter(range(100))

        class Fresh(Server):
            def __init__(self):
                super().__init__(Spec("kv", [kv, "server"], ""), f"{directory}/{next(made)}")

            def __enter__(self):
                self.start()
                return self

            def __exit__(self, *_):
                self.remove()

        guards = [guard_syncs, guard_metric_is_true, guard_memory]
        for guard in guards:
            for result in guard(kv, stored, Fresh):
                wrong += show(result)
        for result in guard_instructions(kv, stored, Fresh, update):
            wrong += show(result)
    return 1 if wrong else 0


def show(result):
    good, text = result
    print({True: "ok     ", False: "WRONG  ", None: "skipped"}[good], text, flush=True)
    return good is False


if __name__ == "__main__":
    sys.exit(main())
