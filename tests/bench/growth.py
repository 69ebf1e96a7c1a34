"""How cost grows with keys, dead revisions, value size, watchers, leases, connections, requests in flight and
history: one point after the other on each axis, each a figure named `axis.point.what`."""

import time

import scenarios
import wire
from scenarios import KEY_64
from scenarios import VALUE_256
from scenarios import put_words

QUICK = {
    "keys": (2000, 10_000), "values": (16, 16_384), "watchers": (1, 100), "leases": (100, 500), "connections": (1, 100),
    "in_flight": (1, 100), "history": (1, 100),
}
FULL = {
    "keys": (10_000, 100_000, 1_000_000), "values": scenarios.VALUE_SIZES, "watchers": (1, 10, 100, 1000, 10_000),
    "leases": (1, 1000, 20_000, 100_000), "connections": (1, 10, 100, 1000), "in_flight": (1, 10, 100, 1000),
    "history": (1, 10, 100, 1000),
}


def points(text, defaults):
    """Reads `keys=10000,100000;watchers=1,100` over the defaults; an axis named alone with `=` is left out."""
    chosen = dict(defaults)
    for part in filter(None, text.split(";")):
        axis, _, numbers = part.partition("=")
        if axis not in defaults:
            raise SystemExit(f"no axis {axis}; there are {', '.join(defaults)}")
        chosen[axis] = tuple(int(number) for number in numbers.split(",") if number)
    return chosen


def curves(trial, text=""):
    """the curves of growing cost"""
    axes = points(text, trial.options(QUICK, FULL))
    for axis, numbers in axes.items():
        for number in numbers:
            print(f"    {axis} {number}", flush=True)
            with trial.attempt(f"{axis} {number}"), trial.server() as server:
                AXES[axis](trial, server, number, f"{axis}.{number}")


def keys(trial, server, number, name):
    """Pages, counts, memory, restart; then as many dead revisions, compacted, and the longest wait in a defrag."""
    trial.load_keys(server, number, label=f"{name}.load")
    trial.record(f"{name}.rss_mib", server.memory()["VmRSS"])
    start, end = wire.everything()
    most = trial.options(20, 200)
    trial.ask(server, f"{name}.page", wire.get(start, end, limit=500, serializable=True), most)
    trial.ask(server, f"{name}.count", wire.get(start, end, count_only=True, serializable=True), most)
    server.kill()
    trial.record(f"{name}.restart_seconds", server.start())
    trial.load_keys(server, number)
    channel = server.channel()
    revision = channel.revision()
    channel.close()
    trial.record(f"{name}.compaction_seconds", trial.tools.admin(server, "compact", "--physical", revision)[0])
    defrag = lambda: trial.tools.admin(server, "defrag")
    scenarios.probed(trial, server, f"{name}.defrag", defrag, trial.options(2, 4))


def values(trial, server, number, name):
    total = max(50, trial.options(4_000_000, 150_000_000) // max(number, trial.options(4000, 10_000)))
    words = put_words(total, 16, number, 1000 if number < 1_000_000 else 150)
    trial.oc(server, f"{name}.put", 10, 50, *words, user_bytes=number + 16)
    trial.record(f"{name}.rss_mib", server.memory()["VmRSS"])


def watchers(trial, server, number, name):
    streams = min(number, 100)
    before = server.memory()["VmRSS"]
    puts = max(10, min(300, 200_000 // number))
    scenarios.fan_out(trial, server, f"{name}.watch", streams, number // streams, 50 if number <= 1000 else 5, puts, tools=("oc",))
    trial.record(f"{name}.rss_mib", server.memory()["VmHWM"] - before)


def leases(trial, server, number, name):
    before = server.memory()["VmRSS"]
    scenarios.storm(trial, server, number, trial.options(5, 10 if number <= 20_000 else 60), f"{name}.expiry")
    trial.record(f"{name}.rss_mib", server.memory()["VmHWM"] - before)


def connections(trial, server, number, name):
    before = server.memory()["VmRSS"]
    total = trial.options(2000, 40_000)
    trial.oc(server, f"{name}.put", number, max(number, 100), *put_words(total), user_bytes=264)
    trial.record(f"{name}.rss_mib", server.memory()["VmHWM"] - before)


def in_flight(trial, server, number, name):
    total = trial.options(500, 5000 if number == 1 else 40_000)
    trial.oc(server, f"{name}.put", min(number, 10), number, *put_words(total), user_bytes=264)


def history(trial, server, number, name):
    """The same number of revisions on fewer and fewer keys; then everything is read back by a late watcher."""
    revisions = trial.options(2000, 100_000)
    keys = max(1, revisions // number)
    channel = server.channel()
    value = b"v" * VALUE_256
    channel.pipeline(wire.KV + "Put", (wire.put(wire.bench_key(n % keys, KEY_64), value) for n in range(revisions)))
    trial.record(f"{name}.rss_mib", server.memory()["VmRSS"])
    old = channel.revision() // 2
    hot = wire.bench_key(0, KEY_64)
    trial.ask(server, f"{name}.get_now", wire.get(hot, serializable=True), trial.options(50, 1000))
    trial.ask(server, f"{name}.get_old", wire.get(hot, revision=old + 1, serializable=True), trial.options(50, 1000))
    begun = time.perf_counter()
    used = server.cpu()
    trial.record(f"{name}.replay_events", channel.replay(wire.everything(), revisions))
    trial.record(f"{name}.replay_seconds", time.perf_counter() - begun)
    trial.record(f"{name}.replay_cpu_us", (server.cpu() - used) * 1e6 / revisions)
    channel.close()


AXES = {
    "keys": keys, "values": values, "watchers": watchers, "leases": leases, "connections": connections,
    "in_flight": in_flight, "history": history,
}
