#!/usr/bin/env python3
"""The benchmark suite: our server and a real etcd in turn, on the same machine, disk and flags.

    suite.py run [--quick] [--etcd PATH] [--pairs N] [--only S1,S4] [--engine sled|redb] [--keys N] [--out DIR]
    suite.py run --growth          how cost grows: one pass over the axes
    suite.py run --engines         the core scenarios with each storage engine
    suite.py report RESULTS.json…  writes docs/performance.md and its plots from raw results

Results go to DIR/results.json after every trial, so a run that is cut short still counts.
"""

import argparse
import json
import os
import shlex
import signal
import sys
import time
from pathlib import Path

import growth
import process
import report
import scenarios
from scenarios import Options
from scenarios import Trial
from tools import Tools

ROOT = Path(__file__).resolve().parents[2]
RELEASE = ROOT / "target/x86_64-unknown-linux-gnu/release/kv"
ENGINES = ("sled", "redb")


def arguments(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure")
    environment = os.environ.get
    run.add_argument("--kv", default=environment("KV", str(RELEASE)), help="the kv binary")
    run.add_argument("--etcd", default=environment("ETCD"), help="a real etcd; without it ours runs alone")
    run.add_argument("--benchmark", default=environment("BENCHMARK"), help="etcd's benchmark tool, if not beside etcd")
    run.add_argument("--pairs", type=int, default=int(environment("PAIRS") or 0), help="how often each scenario runs on each server")
    run.add_argument("--quick", action="store_true", default=bool(environment("QUICK")), help="tiny totals: checks the harness")
    run.add_argument("--only", default=environment("ONLY", ""), help="scenarios, as S1,S4 (S13 and S14 come with later steps)")
    run.add_argument("--engine", choices=ENGINES, default=environment("ENGINE"), help="storage engine of kv")
    run.add_argument("--keys", type=int, default=int(environment("KEYS") or 0), help="keys of the large data set")
    run.add_argument("--out", default=environment("OUT"), help="where results and data go: a real disk")
    run.add_argument("--pin", action="store_true", help="server on core 0, clients on core 1")
    run.add_argument("--growth", action="store_true", help="the curves of growing cost instead of the scenarios")
    run.add_argument("--points", default="", help="points of the curves, as keys=10000,100000;watchers=1,100")
    run.add_argument("--engines", action="store_true", help="the core scenarios on each storage engine")
    page = commands.add_parser("report", help="write the page from raw results")
    page.add_argument("results", nargs="+", help="results.json of one or more runs, merged")
    page.add_argument("--docs", default=str(ROOT / "docs"), help="where performance.md goes")
    page.add_argument("--print", action="store_true", dest="only_print", help="print the table, write nothing")
    return parser.parse_args(words)


def commit():
    described = process.first_line("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12")
    return described if " " not in described else "unknown"


def specs(args):
    """The servers to compare, etcd first."""
    ours = process.first_line(args.kv, "--version") or process.first_line(args.kv, "server", "--version")
    found = []
    if args.etcd:
        found.append(process.Spec("etcd", [args.etcd], process.first_line(args.etcd, "--version")))
    else:
        print("ETCD is not given: ours runs alone, there will be no ratios")
    if args.engines:
        for engine in ENGINES:
            found.append(process.Spec(f"kv {engine}", [args.kv, "server", f"--storage-engine={engine}"], ours))
    else:
        chosen = [f"--storage-engine={args.engine}"] if args.engine else []
        found.append(process.Spec("kv", [args.kv, "server", *chosen], ours))
    return found


def chosen(args):
    """The names of the scenarios to run, each once, in order."""
    if args.growth:
        return ["GROWTH"]
    names = args.only.upper().replace(" ", "").split(",") if args.only else []
    if not names:
        return scenarios.CORE if args.engines else list(scenarios.SCENARIOS)
    resolved = []
    for name in names:
        if name in scenarios.LATER:
            print(f"{name} ({scenarios.LATER[name]}) is left to a later step")
            continue
        name = scenarios.ALIASES.get(name, name)
        if name not in scenarios.SCENARIOS:
            raise SystemExit(f"no scenario {name}; there are {', '.join(scenarios.SCENARIOS)}")
        if name not in resolved:
            resolved.append(name)
    return resolved


class Run:
    """One run of the suite and its results file."""

    def __init__(self, args):
        self.args = args
        self.out = Path(args.out or ROOT / "target/bench" / time.strftime("%Y%m%d-%H%M%S"))
        self.out.mkdir(parents=True, exist_ok=True)
        process.require_disk(self.out)
        self.tools = Tools(args.kv, args.etcd, args.benchmark, args.pin)
        self.options = Options(args.quick, args.keys or None)
        self.servers = specs(args)
        self.pairs = args.pairs or (1 if args.quick or args.growth else 5)
        self.results = {
            "kind": "growth" if args.growth else "engines" if args.engines else "pairs",
            "quick": args.quick,
            "date": time.strftime("%Y-%m-%d"),
            "commit": commit(),
            "machine": process.machine(self.out),
            "servers": {spec.name: {"version": spec.version, "command": self.plain(spec)} for spec in self.servers},
            "flags": process.FLAGS,
            "keys": self.options.keys,
            "pairs": self.pairs,
            "pinned": args.pin,
            "tools": {
                "benchmark": bool(self.tools.benchmark),
                "h2load": process.first_line("h2load", "--version"),
                "strace": process.first_line("strace", "-V"),
            },
            "trials": [],
        }

    @staticmethod
    def plain(spec):
        return shlex.join([Path(spec.words[0]).name, *spec.words[1:]])

    def announce(self):
        facts = self.results["machine"]
        for spec in self.servers:
            print(f"{spec.name}: {spec.version} ({spec.words[0]})")
        print(f"machine: {facts['cores']} x {facts['cpu']}, {facts['memory_gib']} GiB, Linux {facts['kernel']}, {facts['disk']}")
        print(f"commit {self.results['commit']}, {self.pairs} pairs, {self.options.keys} keys, results in {self.out}", flush=True)
        if not self.tools.benchmark:
            print("etcd's benchmark tool is not there: kv bench alone makes the load")
        if not self.tools.h2load_path:
            print("h2load is not there (apt install nghttp2-client): no figures with a cheap client")

    def trial(self, name, scenario, pair, spec):
        begun = time.perf_counter()
        print(f"{time.strftime('%H:%M:%S')} {name} pair {pair + 1} {spec.name}: {scenario.__doc__}", flush=True)
        trial = Trial(spec, self.tools, self.options, self.out / "data", self.args.pin)
        with trial.attempt(name):
            scenario(trial)
        self.results["trials"].append({
            "scenario": name,
            "pair": pair,
            "server": spec.name,
            "seconds": round(time.perf_counter() - begun, 1),
            "others": round(trial.others, 2),
            "figures": trial.figures,
            "failures": trial.failures,
            "commands": trial.commands,
        })
        self.write()

    def write(self):
        file = self.out / "results.json"
        unfinished = file.with_suffix(".new")
        unfinished.write_text(json.dumps(self.results, indent=1))
        unfinished.replace(file)

    def all(self):
        self.announce()
        curves = lambda trial: growth.curves(trial, self.args.points)
        curves.__doc__ = growth.curves.__doc__
        for name in chosen(self.args):
            scenario = curves if name == "GROWTH" else scenarios.SCENARIOS[name]
            for pair in range(self.pairs):
                for spec in self.servers:
                    self.trial(name, scenario, pair, spec)
        report.print_table([self.results])
        print(f"raw results: {self.out / 'results.json'}")
        failures = [(trial, what) for trial in self.results["trials"] for what in trial["failures"]]
        for trial, what in failures:
            print(f"FAILED {trial['scenario']} {trial['server']}: {what}")
        return 1 if any(trial["server"] != "etcd" for trial, _ in failures) else 0


def main():
    # Ended from outside, the servers end too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    args = arguments(sys.argv[1:])
    if args.command == "report":
        loaded = [json.loads(Path(path).read_text()) for path in args.results]
        if args.only_print:
            report.print_table(loaded)
        else:
            print(report.write(loaded, Path(args.docs)))
        return 0
    if not os.access(args.kv, os.X_OK):
        raise SystemExit(f"no server at {args.kv}: make build, or --kv PATH")
    if args.etcd and not os.access(args.etcd, os.X_OK):
        raise SystemExit(f"no etcd at {args.etcd}")
    return Run(args).all()


if __name__ == "__main__":
    sys.exit(main())
