"""The load tools: etcd's `benchmark`, `kv bench`, h2load and etcdctl. Each run becomes a dict of figures.

Latencies are milliseconds, rates are operations a second, `client_cpu` is the tool's own CPU seconds.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import wire
from process import Failed

LONGEST = 900


class Tools:
    """Where the tools are, and whether clients are held to the second core."""

    def __init__(self, kv, etcd=None, benchmark=None, pin=False):
        self.kv, self.pin = kv, pin
        beside = Path(etcd).parent if etcd else Path("/nonexistent")
        self.benchmark = benchmark or str(beside / "benchmark")
        if not os.access(self.benchmark, os.X_OK):
            self.benchmark = None
        self.etcdctl = str(beside / "etcdctl") if os.access(beside / "etcdctl", os.X_OK) else None
        self.h2load_path = shutil.which("h2load")

    def words(self, *words):
        return [*(["taskset", "-c", "1"] if self.pin else []), *map(str, words)]

    def ctl(self):
        """The client program for administration: the official one if it is there."""
        return [self.etcdctl] if self.etcdctl else [self.kv, "ctl"]

    def run(self, words):
        """Runs a tool to its end; returns its output and its CPU seconds."""
        environment = dict(os.environ, **({"GOMAXPROCS": "1"} if self.pin else {}))
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment)
            used = wait(process, LONGEST)
            out.seek(0)
            err.seek(0)
            text, complaint = out.read().decode(errors="replace"), err.read().decode(errors="replace")
        if process.returncode != 0:
            tail = (text + complaint).strip().splitlines()[-3:]
            raise Failed(f"{' '.join(words[:6])} … ended with {process.returncode}: {' / '.join(tail)[:400]}")
        return text, complaint, used

    # etcd's own tool

    def bm(self, server, conns, clients, *words):
        command = self.words(
            self.benchmark, "--precise", f"--endpoints={server.endpoint}", f"--conns={conns}", f"--clients={clients}", *words
        )
        text, _, cpu = self.run(command)
        reports = [figures_of_report(part, cpu) for part in text.split("Summary:")[1:]]
        if not reports:
            raise Failed(f"no report from {' '.join(command)}: {text[-300:]}")
        for report in reports:
            report["command"] = shlex.join(command)
        return reports

    # ours

    def oc(self, server, conns, clients, *words):
        command = self.words(
            self.kv, "bench", f"--endpoints={server.endpoint}", f"--conns={conns}", f"--clients={clients}", "-w", "json", *words
        )
        text, _, cpu = self.run(command)
        reports = []
        for line in text.splitlines():
            if line.startswith("{"):
                reports.append(figures_of_json(json.loads(line), cpu))
        if not reports:
            raise Failed(f"no report from {' '.join(command)}: {text[-300:]}")
        for report in reports:
            report["command"] = shlex.join(command)
        return reports

    def oc_background(self, server, conns, clients, *words):
        """Starts `kv bench` and returns what waits for its figures, or ends it if they are not wanted."""
        command = self.words(
            self.kv, "bench", f"--endpoints={server.endpoint}", f"--conns={conns}", f"--clients={clients}", "-w", "json", *words
        )
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

        def finish(wanted=True):
            if not wanted:
                process.kill()
                process.communicate()
                return None
            text, complaint = process.communicate(timeout=LONGEST)
            if process.returncode != 0:
                raise Failed(f"{' '.join(command[:6])} …: {complaint.strip()[-300:]}")
            return figures_of_json(json.loads(text.strip().splitlines()[-1]), 0)

        return finish

    # the cheap client

    def h2load(self, server, connections, streams, total, path, message):
        if not self.h2load_path:
            return None
        body, log = server.directory / "body", server.directory / "h2load.log"
        body.write_bytes(wire.framed(message))
        log.unlink(missing_ok=True)
        command = self.words(
            self.h2load_path, "-n", total, "-c", connections, "-m", streams, "-t", 1, "-d", body, f"--log-file={log}",
            "-H", "content-type: application/grpc", "-H", "te: trailers", f"http://{server.endpoint}{path}",
        )
        text, _, cpu = self.run(command)
        found = re.search(r"finished in [^,]+, ([\d.]+) req/s", text)
        succeeded = re.search(r"(\d+) succeeded", text)
        if not found or not succeeded:
            raise Failed(f"no report from h2load: {text[-300:]}")
        micros = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines())
        figures = {
            "rate": float(found[1]),
            "requests": int(succeeded[1]),
            "errors": total - int(succeeded[1]),
            "client_cpu": cpu,
            "command": shlex.join(command),
        }
        for name, share in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999)):
            if micros:
                figures[name] = micros[min(len(micros) - 1, int(share * len(micros)))] / 1000
        return figures

    @contextlib.contextmanager
    def watching(self, server):
        """A client that watches every key with its previous value."""
        words = [*self.ctl(), f"--endpoints={server.endpoint}", "watch", "", "--prefix", "--prev-kv"]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while server.metric("etcd_debugging_mvcc_watcher_total") < 1:
                if process.poll() is not None:
                    raise Failed(f"{' '.join(words)} ended with {process.returncode}")
                time.sleep(0.01)
            yield
        finally:
            process.kill()
            process.wait()

    # administration

    def admin(self, server, *words):
        """Runs a command of etcdctl; returns how long it took and what it printed."""
        begun = time.perf_counter()
        timeouts = ["--command-timeout=600s", "--dial-timeout=20s"]
        text, _, _ = self.run([*self.ctl(), f"--endpoints={server.endpoint}", *timeouts, *map(str, words)])
        return time.perf_counter() - begun, text


def wait(process, longest):
    """Waits for a process and returns its CPU seconds."""
    deadline = time.perf_counter() + longest
    pause = 0.002
    while True:
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return used.ru_utime + used.ru_stime
        if time.perf_counter() > deadline:
            process.kill()
            raise Failed(f"not done after {longest} s: {process.args}")
        time.sleep(pause)
        pause = min(0.02, pause * 1.5)


def figures_of_report(text, cpu):
    """Reads the report that etcd's tool prints."""
    number = r"([\d.]+(?:e[+-]?\d+)?)"

    def find(pattern, scale=1.0):
        found = re.search(pattern, text)
        return float(found[1]) * scale if found else None

    errors = sum(int(count) for count in re.findall(r"^\s+\[(\d+)\]\t[^|]", text.partition("Error distribution:")[2], re.M))
    seconds, rate = find(rf"Total:\s+{number} secs"), find(rf"Requests/sec:\s+{number}")
    figures = {
        "rate": rate,
        "requests": round(rate * seconds) if rate and seconds else 0,
        "errors": errors,
        "client_cpu": cpu,
        "seconds": seconds,
        "max": find(rf"Slowest:\s+{number} secs", 1000),
        "mean": find(rf"Average:\s+{number} secs", 1000),
        "p50": find(rf"\n\s+50% in {number} secs", 1000),
        "p99": find(rf"\n\s+99% in {number} secs", 1000),
        "p999": find(rf"\n\s+99\.9% in {number} secs", 1000),
    }
    return {name: value for name, value in figures.items() if value is not None}


def figures_of_json(report, cpu):
    latency = report["latency_ms"]
    figures = {
        "rate": report["rate"],
        "requests": report["requests"],
        "errors": sum(report["errors"].values()),
        "client_cpu": cpu,
        "seconds": report["seconds"],
    }
    if report["errors"]:
        figures["complaints"] = dict(list(report["errors"].items())[:3])
    names = {"p50": "p50", "p90": "p90", "p99": "p99", "p99.9": "p999", "max": "max", "mean": "mean"}
    for name, ours in names.items():
        for form in (name, name + ".0", name + "0"):
            if form in latency:
                figures[ours] = latency[form]
    return figures
