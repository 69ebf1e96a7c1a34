"""Servers and tools as processes: how they are started, what the kernel says they used, how they end."""

import contextlib
import os
import platform
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import time
import urllib.request
from pathlib import Path

import wire

NOT_A_DISK = {"tmpfs", "ramfs", "devtmpfs", "overlay", "squashfs"}
READY_WITHIN = 300
SETTLE = 2.0
# The same for both servers.
FLAGS = ["--quota-backend-bytes=8589934592", "--snapshot-count=10000", "--log-level=error"]


class Failed(Exception):
    """A scenario could not be carried out."""


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


# The machine ---------------------------------------------------------------------------------------------


def mount_of(path):
    """Device and kind of the file system that `path` is on."""
    path, best = os.path.realpath(path), ("", "?", "?")
    for line in Path("/proc/mounts").read_text().splitlines():
        device, point, kind = line.split()[:3]
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best[0]):
            best = (point, device, kind)
    return best[1], best[2]


def require_disk(path):
    device, kind = mount_of(path)
    if kind in NOT_A_DISK:
        raise SystemExit(f"{path} is on {kind}: figures without a disk are worth nothing, choose another --out")
    return f"{kind} on {device}"


def first_line(*words):
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout + done.stderr).strip().split("\n")[0].strip()


def machine(directory):
    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", info)
    memory = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[1])
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**20, 1),
        "kernel": platform.release(),
        "disk": require_disk(directory),
        "load": os.getloadavg()[0],
    }


def busy_seconds():
    """CPU time of all processes; idle, stolen and interrupt time left out, and the kernel's own threads too."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return sum(int(word) for word in words[:3]) / os.sysconf("SC_CLK_TCK") - kernel_seconds()


def kernel_seconds():
    """CPU time of the kernel's threads, which write back what servers wrote."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            words = path.read_text().rpartition(")")[2].split()
            ticks += int(words[11]) + int(words[12]) if words[1] == "2" else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def own_seconds():
    """CPU time of this process and of the tools it has waited for."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        total += used.ru_utime + used.ru_stime
    return total


# Servers -------------------------------------------------------------------------------------------------


class Spec:
    """Which server: a name for the table, the words that start it, whether it is ours."""

    def __init__(self, name, words, version):
        self.name, self.words, self.version = name, words, version


class Server:
    """A running server with data of its own."""

    def __init__(self, spec, directory, pin=False, flags=()):
        self.spec, self.directory, self.pin = spec, Path(directory), pin
        self.extra = list(flags)
        self.client_port, self.peer_port = free_ports(2)
        self.process = None
        self.directory.mkdir(parents=True, exist_ok=True)

    def command(self):
        client, peer = (f"http://127.0.0.1:{port}" for port in (self.client_port, self.peer_port))
        return [
            *(["taskset", "-c", "0"] if self.pin else []),
            *self.spec.words,
            f"--data-dir={self.directory / 'data'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            *FLAGS,
            *self.extra,
        ]

    def start(self):
        """Starts the process; returns the seconds from exec until it says it is ready and a linearizable get succeeds."""
        log = open(self.directory / "server.log", "ab")
        begun = time.perf_counter()
        self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        while True:
            if self.process.poll() is not None:
                raise Failed(f"{self.spec.name} ended with {self.process.returncode}: {self.log_tail()}")
            if time.perf_counter() - begun > READY_WITHIN:
                raise Failed(f"{self.spec.name} is not ready after {READY_WITHIN} s: {self.log_tail()}")
            try:
                channel = wire.Channel(self.client_port, timeout=10)
                channel.call(wire.KV + "Range", wire.get(b"ready"))
                channel.close()
                if b"true" in self.http("/health"):
                    return time.perf_counter() - begun
            except (OSError, wire.Refused):
                time.sleep(0.001)

    def http(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.client_port}{path}", timeout=10) as answer:
            return answer.read()

    def log_tail(self):
        lines = (self.directory / "server.log").read_text(errors="replace").strip().splitlines()
        return "\n".join(lines[-5:])

    @property
    def pid(self):
        return self.process.pid

    @property
    def endpoint(self):
        return f"127.0.0.1:{self.client_port}"

    def channel(self, timeout=120):
        return wire.Channel(self.client_port, timeout=timeout)

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
        if self.process:
            self.process.wait()

    def remove(self):
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def forget_cached_pages(self):
        """Asks the kernel to drop the data's pages, so that the next start reads the disk."""
        os.sync()
        for path in (self.directory / "data").rglob("*"):
            if path.is_file():
                with open(path, "rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    # What the kernel says.

    def cpu(self):
        """CPU seconds of the process, all threads, those that have ended too, to the nanosecond."""
        return time.clock_gettime((~self.pid << 3) | 2)

    def memory(self):
        """RSS, its peak and its anonymous part, in MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return {name: int(re.search(rf"{name}:\s+(\d+)", status)[1]) / 1024 for name in ("VmRSS", "VmHWM", "RssAnon")}

    def reset_peak(self):
        with contextlib.suppress(OSError):
            Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def written(self):
        """Bytes the disk under the data took, from everyone.

        The process's own write_bytes counts a whole page-cache folio, up to half a MiB, for a small
        overwrite on kernels with large folios, so that it says nothing about the disk.
        """
        device = os.stat(self.directory).st_dev
        sectors = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text().split()[6]
        return int(sectors) * 512

    def metric(self, name):
        for line in self.http("/metrics").decode().splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
        raise Failed(f"{self.spec.name} has no metric {name}")

    def fsyncs(self):
        return self.metric("etcd_disk_wal_fsync_duration_seconds_count")

    def disk_bytes(self):
        files = (path.stat() for path in (self.directory / "data").rglob("*") if path.is_file())
        return sum(file.st_blocks * 512 for file in files)

    def settle(self, longest=SETTLE):
        """Waits until the server is idle, so that what it put off is counted with what caused it."""
        deadline = time.perf_counter() + longest
        while time.perf_counter() < deadline:
            before = self.cpu()
            time.sleep(0.2)
            if self.cpu() - before < 0.004:
                return


class Usage:
    """What a server used between two moments."""

    def __init__(self, server):
        self.server = server
        self.cpu, self.written, self.fsyncs = server.cpu(), server.written(), server.fsyncs()
        self.busy, self.own, self.clock = busy_seconds(), own_seconds(), time.perf_counter()

    def load_ended(self):
        """Notes what other processes used beside the load; the server may still have work of its own."""
        seconds = max(time.perf_counter() - self.clock, 1e-9)
        known = (self.server.cpu() - self.cpu) + (own_seconds() - self.own)
        self.others = max(0.0, (busy_seconds() - self.busy - known) / seconds)
        return self

    def end(self):
        return {
            "cpu": self.server.cpu() - self.cpu,
            "written": self.server.written() - self.written,
            "fsyncs": self.server.fsyncs() - self.fsyncs,
            "others": self.others,
        }


@contextlib.contextmanager
def syscalls_counted(server, calls=("fdatasync", "fsync", "pwrite64", "write")):
    """Counts the server's calls with strace; yields a dict that is filled at the end, or None without strace."""
    if not shutil.which("strace"):
        yield None
        return
    counts, report = {}, server.directory / "strace"
    words = ["strace", "-f", "-c", "-o", str(report), "-e", "trace=" + ",".join(calls), "-p", str(server.pid)]
    tracer = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        line = tracer.stderr.readline()
        if "attached" not in line:
            yield None
            return
        wait_all_traced(server.pid)
        yield counts
    finally:
        if tracer.poll() is None:
            tracer.send_signal(signal.SIGINT)
        tracer.communicate()
        for line in report.read_text().splitlines() if report.exists() else []:
            words = line.split()
            if words and words[-1] in calls:
                counts[words[-1]] = int(words[3])


def wait_all_traced(pid, within=10):
    deadline = time.perf_counter() + within
    while time.perf_counter() < deadline:
        states = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
        if all(re.search(r"TracerPid:\t[1-9]", state) for state in states):
            return
        time.sleep(0.02)


def median(values):
    return statistics.median(values) if values else None
