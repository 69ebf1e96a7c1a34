"""The scenarios S1 to S12 for one member. Each fills a trial with named figures; what they mean is in rows.py.

A figure's name is `load.tool.what`: the load, which tool made it (bm: etcd's benchmark, oc: kv bench,
h2: h2load), and what was measured. Everything the server does until it is idle again is on the load's bill.
"""

import contextlib
import threading
import time

import wire
from process import Failed
from process import Server
from process import Usage
from process import median
from process import syscalls_counted

KEY_64, VALUE_256 = 64, 256
PROBE_RATE = 500
PAGE = 500


class Options:
    """How much of everything. Quick totals find broken scenarios, not figures."""

    def __init__(self, quick, keys=None):
        self.quick = quick
        self.keys = keys or (20_000 if quick else 1_000_000)

    def __call__(self, quick, full):
        return quick if self.quick else full


class Trial:
    """One scenario on one server: its figures, the commands that made them, what went wrong."""

    def __init__(self, spec, tools, options, directory, pin):
        self.spec, self.tools, self.options, self.directory, self.pin = spec, tools, options, directory, pin
        self.figures, self.commands, self.failures, self.others = {}, [], [], 0.0
        self.started = 0

    @contextlib.contextmanager
    def server(self, flags=()):
        """A server with fresh data, started and settled, and gone afterwards."""
        self.started += 1
        server = Server(self.spec, self.directory / f"{self.spec.name.replace(' ', '-')}-{self.started}", self.pin, flags)
        try:
            server.start()
            server.settle(1.0)
            yield server
        finally:
            server.remove()

    def record(self, name, value):
        if value is not None:
            self.figures[name] = value

    def note(self, server, command):
        plain = command.replace(server.endpoint, "127.0.0.1:2379").replace(f"{server.directory}/", "")
        if plain not in self.commands:
            self.commands.append(plain)

    @contextlib.contextmanager
    def attempt(self, what):
        """A part of a scenario that may fail without the rest."""
        try:
            yield
        except (Failed, OSError, wire.Refused, KeyError, ValueError) as error:
            self.failures.append(f"{what}: {error or type(error).__name__}")
            print(f"    FAILED {what}: {error!r}", flush=True)

    # Measured loads

    def bill(self, server, label, run, ops=None, user_bytes=0):
        """Runs a load and writes down its figures and what the server used for it."""
        usage = Usage(server)
        figures = run()
        if figures is None:
            return None
        usage.load_ended()
        server.settle()
        used = usage.end()
        self.others = max(self.others, used["others"])
        ops = ops or figures.get("requests") or 1
        for name in ("rate", "p50", "p99", "p999", "mean", "max", "errors"):
            self.record(f"{label}.{name}", figures.get(name))
        self.record(f"{label}.cpu_us", used["cpu"] * 1e6 / ops)
        self.record(f"{label}.client_us", figures.get("client_cpu", 0) * 1e6 / ops)
        self.record(f"{label}.fsyncs_per_op", used["fsyncs"] / ops)
        if user_bytes:
            self.record(f"{label}.written_per_byte", used["written"] / (ops * user_bytes))
        for name, value in server.memory().items():
            self.record(f"{label}.{name}", value)
        if figures.get("errors"):
            self.failures.append(f"{label}: {figures['errors']} errors {figures.get('complaints', '')}")
        if "command" in figures:
            self.note(server, figures["command"])
        return figures

    def bm(self, server, label, conns, clients, *words, part=0, **bill):
        if self.tools.benchmark:
            with self.attempt(label + ".bm"):
                return self.bill(server, label + ".bm", lambda: self.tools.bm(server, conns, clients, *words)[part], **bill)

    def oc(self, server, label, conns, clients, *words, part=0, **bill):
        with self.attempt(label + ".oc"):
            return self.bill(server, label + ".oc", lambda: self.tools.oc(server, conns, clients, *words)[part], **bill)

    def h2(self, server, label, conns, streams, total, path, message, **bill):
        if self.tools.h2load_path:
            with self.attempt(label + ".h2"):
                run = lambda: self.tools.h2load(server, conns, streams, total, path, message)
                return self.bill(server, label + ".h2", run, **bill)

    def both(self, server, label, conns, clients, *words, **bill):
        self.bm(server, label, conns, clients, *words, **bill)
        return self.oc(server, label, conns, clients, *words, **bill)

    def load_keys(self, server, count, key_size=KEY_64, value_size=VALUE_256, label=None):
        """Puts keys 0 to `count`, 100 a transaction if a request may be that large."""
        ops = min(100, 1_000_000 // (key_size + value_size))
        words = [
            "txn-put", f"--key-size={key_size}", f"--val-size={value_size}", f"--key-space-size={count}", f"--txn-ops={ops}",
            f"--total={-(-count // ops)}",
        ]
        run = lambda: self.tools.oc(server, 4, 8, *words)[0]
        if label:
            self.bill(server, label, run, ops=count, user_bytes=key_size + value_size)
        else:
            run()
            server.settle()

    def ask(self, server, label, message, most):
        """Sends one Range request again and again, for about a second; server CPU and latency of each."""
        channel = server.channel(600)
        channel.call(wire.KV + "Range", message)
        begun = time.perf_counter()
        channel.call(wire.KV + "Range", message)
        once = time.perf_counter() - begun
        count = max(5, min(most, int(1.0 / max(once, 1e-6))))
        before, latencies = server.cpu(), channel.pipeline(wire.KV + "Range", [message] * count, in_flight=1)
        self.record(f"{label}.cpu_us", (server.cpu() - before) * 1e6 / count)
        self.record(f"{label}.p50", median(latencies) * 1000)
        channel.close()


def put_words(total, key_size=8, value_size=VALUE_256, space=1_000_000, *more):
    return ["put", f"--key-size={key_size}", f"--val-size={value_size}", f"--key-space-size={space}", f"--total={total}", *more]


def s1(trial):
    """durable single-client put"""
    total = trial.options(1000, 20_000)
    with trial.server() as server:
        words = put_words(total, 8, VALUE_256, 10_000, "--sequential-keys")
        trial.both(server, "put_1x1", 1, 1, *words, user_bytes=264)
        with trial.attempt("strace"):
            prove_sync(trial, server)


def prove_sync(trial, server):
    """Puts one after the other, each waiting for the one before: none is durable without a sync of its own."""
    puts = trial.options(200, 500)
    channel = server.channel()
    channel.call(wire.KV + "Put", wire.put(b"sync", b"x" * VALUE_256))
    before = server.fsyncs()
    with syscalls_counted(server) as counts:
        channel.pipeline(wire.KV + "Put", [wire.put(b"sync", b"x" * VALUE_256)] * puts, in_flight=1)
        told = server.fsyncs() - before
    channel.close()
    trial.record("sync.told_per_put", told / puts)
    if counts is not None:
        counted = counts.get("fdatasync", 0) + counts.get("fsync", 0)
        trial.record("sync.strace_per_put", counted / puts)
        if counted < puts:
            trial.failures.append(f"{puts} puts one by one were acknowledged with {counted} syncs")


def s2(trial):
    """group-commit put"""
    total = trial.options(4000, 150_000)
    with trial.server() as server:
        trial.both(server, "put_10x100", 10, 100, *put_words(total), user_bytes=264)
        trial.bm(server, "put_100x1000", 100, 1000, *put_words(total), user_bytes=264)
        body = wire.put(b"k" * 16, b"v" * VALUE_256)
        trial.h2(server, "put_10x10", 10, 10, total, wire.KV + "Put", body, user_bytes=272)
        trial.h2(server, "put_100x10", 100, 10, total, wire.KV + "Put", body, user_bytes=272)
        seconds = trial.options(1, 8)
        for rate in trial.options((500,), (4000, 8000)):
            trial.oc(server, f"put_rate_{rate}", 10, 100, *put_words(rate * seconds), f"--rate={rate}", user_bytes=264)


VALUE_SIZES = (16, 256, 1024, 16_384, 131_072, 1_048_576)


def s3(trial):
    """value sizes, and memory after large ones"""
    with trial.server() as server:
        trial.record("values_before.VmRSS", server.memory()["VmRSS"])
        for size in VALUE_SIZES:
            total = max(50, trial.options(4_000_000, 300_000_000) // max(size, trial.options(4000, 10_000)))
            space = 1000 if size < 1_000_000 else 300
            words = put_words(total, 16, size, space)
            trial.both(server, f"put_{size}", 10, 50, *words, user_bytes=size + 16)
        for name, value in server.memory().items():
            trial.record(f"after_values.{name}", value)


def s4(trial):
    """point reads"""
    total = trial.options(4000, 200_000)
    with trial.server() as server:
        trial.load_keys(server, trial.options(5000, 100_000))
        channel = server.channel()
        channel.call(wire.KV + "Put", wire.put(b"benchmark-key", b"v" * VALUE_256))
        channel.close()
        for name, mode in (("lin", "l"), ("ser", "s")):
            words = ["range", "benchmark-key", f"--consistency={mode}"]
            trial.both(server, f"get_{name}", 100, 1000, *words, f"--total={total}")
            message = wire.get(b"benchmark-key", serializable=mode == "s")
            trial.h2(server, f"get_{name}", 10, 10, total, wire.KV + "Range", message)
        trial.both(server, "get_1x1", 1, 1, "range", "benchmark-key", f"--total={trial.options(500, 10_000)}")


def big(trial):
    """S5, S6, S11, S12: pages, scans, maintenance, restart and memory on one large data set"""
    keys = trial.options.keys
    with trial.server() as server:
        trial.load_keys(server, keys, label="load")
        for name, value in server.memory().items():
            trial.record(f"loaded.{name}", value)
        trial.record("loaded.disk_bytes_per_key", server.disk_bytes() / keys)
        for part in (pages, scans, maintenance, restart):
            with trial.attempt(part.__name__):
                part(trial, server, keys)


def pages(trial, server, keys):
    start, end = wire.everything()
    channel = server.channel()
    loaded = channel.revision()
    found = channel.count()
    if found != keys:
        trial.failures.append(f"count says {found} of {keys} keys")
    most = trial.options(50, 2000)
    trial.ask(server, "page_now", wire.get(start, end, limit=PAGE, serializable=True), most)
    trial.ask(server, "limit_1", wire.get(start, end, limit=1, serializable=True), most)
    trial.ask(server, "count", wire.get(start, end, count_only=True, serializable=True), most)
    for label, words in (("page_now", [f"--limit={PAGE}"]), ("count", ["--count-only"])):
        total = trial.options(10, 40)
        trial.bm(server, label, 1, 1, "range", "", "--prefix", "--consistency=s", *words, f"--total={total}")
    churn = [wire.delete(wire.bench_key(number, KEY_64)) for number in range(0, keys, max(1, keys // 2000))]
    channel.pipeline(wire.KV + "DeleteRange", churn)
    new = [wire.put(b"new-%08d" % number, b"v" * VALUE_256) for number in range(len(churn))]
    channel.pipeline(wire.KV + "Put", new)
    trial.ask(server, "page_old", wire.get(start, end, limit=PAGE, revision=loaded, serializable=True), most)
    if wire.parse(channel.call(wire.KV + "Range", wire.get(start, end, limit=1, revision=loaded)))[4][0] != keys:
        trial.failures.append("count at an older revision is wrong")
    begun, used = time.perf_counter(), server.cpu()
    walked = walk(channel, PAGE if trial.options.quick else 10_000)
    trial.record("walk.seconds", time.perf_counter() - begun)
    trial.record("walk.cpu_us_per_key", (server.cpu() - used) * 1e6 / walked)
    channel.close()


def walk(channel, page):
    """Reads all keys page by page at the revision of the first; returns how many."""
    start, end = wire.everything()
    revision, seen = 0, 0
    while True:
        answer = wire.parse(channel.call(wire.KV + "Range", wire.get(start, end, limit=page, revision=revision)))
        kvs = answer.get(2, [])
        seen += len(kvs)
        if not answer.get(3):
            return seen
        revision = revision or wire.parse(answer[1][0])[3][0]
        start = wire.parse(kvs[-1])[1][0] + b"\0"


def scans(trial, server, keys):
    """Full scans by the official tool if it is there: CPU of each key, and the memory that comes on top."""
    total = trial.options(2, 3)
    tool = trial.bm if trial.tools.benchmark else trial.oc
    suffix = "bm" if trial.tools.benchmark else "oc"
    for label, words in (("scan_stream", ["--stream"]), ("scan_keys", ["--keys-only"]), ("scan_unary", [])):
        server.settle()
        before = server.memory()
        server.reset_peak()
        with peak_of_anonymous(server) as peak:
            tool(server, label, 1, 1, "range", "", "--prefix", "--consistency=s", *words, f"--total={total}", ops=total * keys)
        trial.record(f"{label}.extra_mib", server.memory()["VmHWM"] - before["VmRSS"])
        trial.record(f"{label}.extra_anon_mib", peak["most"] - before["RssAnon"])
        trial.record(f"{label}.cpu_us", trial.figures.get(f"{label}.{suffix}.cpu_us"))


@contextlib.contextmanager
def peak_of_anonymous(server):
    """Looks at the anonymous memory every 10 ms."""
    peak, stop = {"most": server.memory()["RssAnon"]}, threading.Event()

    def look():
        while not stop.wait(0.01):
            peak["most"] = max(peak["most"], server.memory()["RssAnon"])

    looker = threading.Thread(target=look, daemon=True)
    looker.start()
    try:
        yield peak
    finally:
        stop.set()
        looker.join()


def probed(trial, server, label, work, seconds):
    """Does `work` while puts arrive at a fixed rate, window after window until it is done.

    Records the time of the work, and the put latencies of the worst window.
    """
    words = [*put_words(int(PROBE_RATE * seconds), 16, VALUE_256, 1000), f"--rate={PROBE_RATE}"]
    done = {}

    def timed():
        time.sleep(0.5)
        begun = time.perf_counter()
        try:
            work()
        except Exception as error:
            done["error"] = error
        done["seconds"] = time.perf_counter() - begun

    used = server.cpu()
    worker = threading.Thread(target=timed)
    worker.start()
    windows = []
    try:
        while not windows or worker.is_alive():
            windows.append(trial.tools.oc(server, 4, 64, *words)[0])
    finally:
        worker.join()
    if "error" in done:
        raise done["error"]
    trial.record(f"{label}.seconds", done["seconds"])
    trial.record(f"{label}.cpu_seconds", server.cpu() - used)
    for name in ("p50", "p99", "p999", "max"):
        trial.record(f"{label}.put_{name}", max(window[name] for window in windows if name in window))
    errors = sum(window["errors"] for window in windows)
    if errors:
        complaints = [window["complaints"] for window in windows if "complaints" in window]
        trial.failures.append(f"{label}: {errors} errors of the put probe {complaints[0]}")


def maintenance(trial, server, keys):
    """S11: every key written a second time, then compaction, defragmentation, snapshot and hash under puts."""
    trial.load_keys(server, keys)
    channel = server.channel()
    revision = channel.revision()
    channel.close()
    seconds = trial.options(2, 6)
    probed(trial, server, "quiet", lambda: None, seconds)
    compact = lambda: trial.tools.admin(server, "compact", "--physical", revision)
    with trial.attempt("compaction"):
        probed(trial, server, "compaction", compact, seconds)
    server.settle()
    trial.record("before_defrag.disk_mib", server.disk_bytes() / 2**20)
    with trial.attempt("defrag"):
        probed(trial, server, "defrag", lambda: trial.tools.admin(server, "defrag"), seconds)
    server.settle()
    trial.record("after_defrag.disk_mib", server.disk_bytes() / 2**20)
    file = server.directory / "snapshot"
    with trial.attempt("snapshot"):
        probed(trial, server, "snapshot", lambda: trial.tools.admin(server, "snapshot", "save", file), seconds)
        trial.record("snapshot.mib", file.stat().st_size / 2**20)
        file.unlink()
    with trial.attempt("hashkv"):
        trial.record("hashkv.seconds", trial.tools.admin(server, "endpoint", "hashkv")[0])


def restart(trial, server, keys):
    """S12: killed while puts arrive, then from exec to a linearizable get; warm and cold."""
    live = server.channel()
    before = live.count()
    live.close()
    for label in ("restart", "restart_cold"):
        finish = trial.tools.oc_background(server, 4, 16, *put_words(100_000, 16, VALUE_256, 1000), "--rate=2000")
        time.sleep(trial.options(0.5, 2))
        server.kill()
        finish(wanted=False)
        if label == "restart_cold":
            server.forget_cached_pages()
        trial.record(f"{label}.seconds", server.start())
        trial.record(f"{label}.cpu_seconds", server.cpu())
        server.settle()
        for name, value in server.memory().items():
            trial.record(f"{label}.{name}", value)
    channel = server.channel()
    after = channel.count()
    channel.close()
    if after < before:
        trial.failures.append(f"{before} keys before the kill, {after} after it")


MIXED_RATIOS, MIXED_VALUES, MIXED_CONNS = (0.125, 1, 8), (256, 4096, 16_384), (32, 256, 1024)


def s7(trial):
    """mixed heat map: reads of a page of 100 among all keys, or of 400 kB if that is less, and puts"""
    values, conns = trial.options((256,), MIXED_VALUES), trial.options((32, 256), MIXED_CONNS)
    ratios = trial.options((1,), MIXED_RATIOS)
    for value in values:
        with trial.server() as server:
            keys = trial.options(4096, {256: 65_536, 4096: 65_536, 16_384: 16_384}[value])
            trial.load_keys(server, keys, 256, value)
            for connections in conns:
                for ratio in ratios:
                    mixed(trial, server, keys, value, connections, ratio)


def mixed(trial, server, keys, value, connections, ratio):
    label = f"mixed_{value}_{connections}_{ratio}"
    total = max(2 * connections, trial.options(400, 1200))
    limit = min(100, 400_000 // value)
    words = [
        "txn-mixed", "", f"--total={total}", f"--rw-ratio={ratio}", f"--limit={limit}", f"--val-size={value}", "--key-size=256",
        f"--key-space-size={keys}",
    ]
    tool = trial.tools.bm if trial.tools.benchmark else trial.tools.oc
    with trial.attempt(label):
        usage = Usage(server)
        read, write = tool(server, connections, connections, *words)[:2]
        used = usage.load_ended().end()
        trial.record(f"{label}.read_rate", read.get("rate"))
        trial.record(f"{label}.write_rate", write.get("rate"))
        trial.record(f"{label}.cpu_us", used["cpu"] * 1e6 / total)
        for name, part in (("read", read), ("write", write)):
            trial.record(f"{label}.{name}_p99", part.get("p99"))
            if part.get("errors"):
                trial.failures.append(f"{label} {name}: {part['errors']} errors")
        trial.note(server, read["command"])


def s8(trial):
    """Kubernetes lease flood: guarded updates beside a watcher and pages"""
    total, keys = trial.options(2000, 40_000), trial.options(2000, 10_000)
    with trial.server() as server:
        words = ["txn-put", "--key-size=64", "--val-size=512", f"--key-space-size={keys}", f"--total={total}"]
        trial.both(server, "txn_put", 10, 100, *words, user_bytes=576)
        stm = ["stm", f"--keys={min(keys, 1000)}", "--keys-per-txn=1", f"--total={trial.options(500, 10_000)}", "--stm-locker=stm"]
        trial.bm(server, "stm", 10, 100, *stm)
        message = wire.guarded_put(wire.bench_key(1, 64), b"v" * 500)
        seconds = trial.options(2, 8)
        page = ["range", "", "--prefix", f"--limit={PAGE}", f"--total={2 * seconds}", "--rate=2"]
        reader = trial.tools.oc_background(server, 1, 4, *page)
        with trial.tools.watching(server):
            trial.h2(server, "guarded_put", 10, 10, total, wire.KV + "Txn", message)
        pages = reader()
        trial.record("flood_page.p99", pages.get("p99"))
        if pages["errors"]:
            trial.failures.append(f"pages beside guarded puts: {pages['errors']} errors {pages.get('complaints', '')}")


def fan_out(trial, server, label, streams, watchers, rate, total, *more, tools=("bm", "oc")):
    words = [
        "watch-latency", f"--streams={streams}", f"--watchers-per-stream={watchers}", f"--put-total={total}",
        f"--put-rate={rate}", "--val-size=1024", *more,
    ]
    events = total * streams * watchers
    for tool in tools:
        getattr(trial, tool)(server, label, 10, 10, *words, part=1, ops=events)


def s9(trial):
    """watch fan-out"""
    total, rate = trial.options(20, 300), 50
    sizes = trial.options(((1, 1), (10, 10), (100, 10)), ((1, 1), (10, 10), (100, 10), (100, 100)))
    for streams, watchers in sizes:
        with trial.server() as server:
            count = streams * watchers
            before = server.memory()["VmRSS"]
            puts = max(20, total // 5) if count >= 10_000 else total
            speed = 5 if count >= 10_000 else rate
            fan_out(trial, server, f"watch_{count}", streams, watchers, speed, puts)
            if count >= 1000:
                trial.record(f"watch_{count}.rss_per_watcher_kib", (server.memory()["VmHWM"] - before) * 1024 / count)
            if count == 100:
                fan_out(trial, server, "watch_100_prevkv", streams, watchers, rate, puts, "--prevkv")
    with trial.attempt("stalled reader"), trial.server() as server:
        stalled(trial, server)
    with trial.server() as server:
        events = trial.options(2000, 100_000)
        words = [
            "watch", "--streams=10", f"--watch-per-stream={trial.options(10, 100)}", "--watched-key-total=1",
            f"--put-total={events // trial.options(100, 1000)}", "--key-size=32",
        ]
        trial.bm(server, "watch_burst", 10, 10, *words, part=1, ops=events)
    with trial.server() as server:
        words = ["watch-get", f"--watchers={trial.options(200, 10_000)}", f"--streams={trial.options(10, 100)}", "--events=8"]
        trial.bm(server, "watch_get", 10, 10, *words)


def stalled(trial, server):
    """Puts at a fixed rate, first alone, then beside a reader of 1000 watchers that reads nothing."""
    watchers, seconds = trial.options(100, 1000), trial.options(2, 6)
    probed(trial, server, "no_reader", lambda: None, seconds)
    reader = server.channel()
    reader.watch_and_stall(wire.bench_key(0, 16), watchers)
    before = server.memory()["VmRSS"]
    server.reset_peak()
    words = put_words(PROBE_RATE * seconds, 16, 1024, 1)
    figures = trial.tools.oc(server, 4, 64, *words, f"--rate={PROBE_RATE}")[0]
    for name in ("p50", "p99", "max"):
        trial.record(f"stalled_reader.put_{name}", figures.get(name))
    trial.record("stalled_reader.extra_mib", server.memory()["VmHWM"] - before)
    reader.close()


def s10(trial):
    """leases: keep-alive, grants, memory, and many that expire at once"""
    total = trial.options(2000, 60_000)
    with trial.server() as server:
        trial.both(server, "keepalive", 10, 100, "lease-keepalive", f"--total={total}")
        before = server.memory()["VmRSS"]
        trial.h2(server, "grant", 10, 10, total, wire.LEASE + "LeaseGrant", wire.grant(7200))
        trial.record("grant.rss_per_lease_bytes", (server.memory()["VmRSS"] - before) * 2**20 / total)
    with trial.server() as server:
        storm(trial, server, trial.options(500, 20_000), trial.options(5, 12))


def storm(trial, server, leases, ttl, label="storm"):
    """Grants leases with one deadline and a key each, and waits until the last key is gone."""
    channel = server.channel(120)
    keys = [wire.put(b"lease-%08d" % number, b"v" * 64, 1000 + number) for number in range(leases)]
    granted = time.perf_counter()
    channel.pipeline(wire.LEASE + "LeaseGrant", [wire.grant(ttl, 1000 + number) for number in range(leases)])
    deadline = time.perf_counter() + ttl
    channel.pipeline(wire.KV + "Put", keys)
    late = time.perf_counter() > granted + ttl
    if late:
        trial.failures.append(f"{label}: {leases} leases could not be granted within their time to live of {ttl} s")
    while time.perf_counter() < granted + ttl - 0.3:
        time.sleep(0.05)
    before = server.cpu()
    while channel.count() > 0:
        if time.perf_counter() > deadline + 180:
            raise Failed(f"{channel.count()} keys left 180 s after the deadline")
        time.sleep(0.05)
    trial.record(f"{label}.seconds_after_deadline", max(0.0, time.perf_counter() - deadline))
    server.settle()
    trial.record(f"{label}.cpu_us", (server.cpu() - before) * 1e6 / leases)
    channel.close()


def idle(trial):
    """row 21: an empty server: exec to ready, memory and CPU when nothing happens"""
    starts = []
    for _ in range(trial.options(2, 3)):
        trial.started += 1
        server = Server(trial.spec, trial.directory / f"empty-{trial.started}", trial.pin)
        try:
            starts.append(server.start())
            server.settle()
            before, begun = server.cpu(), time.perf_counter()
            time.sleep(trial.options(1, 4))
            share = (server.cpu() - before) / (time.perf_counter() - begun)
            memory = server.memory()
        finally:
            server.remove()
    trial.record("empty_start.seconds", median(starts))
    trial.record("idle.cpu_percent", share * 100)
    for name, value in memory.items():
        trial.record(f"idle.{name}", value)


SCENARIOS = {
    "S1": s1, "S2": s2, "S3": s3, "S4": s4, "S5": big, "S7": s7, "S8": s8, "S9": s9, "S10": s10, "IDLE": idle,
}
# The large data set is made once for four scenarios.
ALIASES = {"S6": "S5", "S11": "S5", "S12": "S5", "BIG": "S5"}
LATER = {"S13": "TLS, authentication, connections", "S14": "clusters and failover"}
CORE = ["S1", "S2", "S4", "S5"]
