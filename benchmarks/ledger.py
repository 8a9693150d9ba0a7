"""What the ledger takes with a million finished jobs, and `atenea jobs`, with a daemon and without.

python benchmarks/ledger.py [--jobs 1000000] [--kept 100000] [--rounds 50] [--folder DIR] [--json FILE]

`--kept` is of how many of the jobs the folders are still there; the ledger alone is made, not the folders.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from instance import Instance
from machine import describe, headline

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from faults.history import fill
from stock import Jobs

from atenea.control import ask
from atenea.estimate import forecast_of
from atenea.inbox.taken import TakenRow
from atenea.ledger import Ledger
from atenea.ledger_file import LEDGER, damage_of

QUEUED = 100
"""Unfinished jobs beside the finished ones."""


def main() -> None:
    """Measure, print a table, write JSON."""
    arguments = _arguments()
    print(headline())
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        state = Path(folder) / "instance" / "state"
        state.mkdir(parents=True)
        fill(state / LEDGER, arguments.jobs, arguments.kept)
        size = (state / LEDGER).stat().st_size
        print(f"\n{arguments.jobs:,} finished jobs in {size / 1e6:,.0f} MB, {size / arguments.jobs:,.0f} bytes each")
        asked = questions(state / LEDGER, arguments.rounds)
        commands = listing(Path(folder) / "instance", arguments.rounds // 5)
    if arguments.json:
        figures = {
            "machine": describe(),
            "jobs": arguments.jobs,
            "kept": arguments.kept,
            "ledger_bytes": size,
            "median_and_slowest_ms": asked,
            "atenea_jobs_ms": commands,
        }
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1_000_000, help="finished jobs in the ledger")
    parser.add_argument("--kept", type=int, default=100_000, help="of how many of them the folders are kept")
    parser.add_argument("--rounds", type=int, default=50, help="how often each thing is asked")
    parser.add_argument("--folder", type=Path, help="where the ledger lies (the system's temporary folder)")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def questions(path: Path, rounds: int) -> dict[str, tuple[float, float]]:
    """Milliseconds, the median and the slowest, of what the daemon asks and enters."""
    ledger = Ledger(path)
    jobs = Jobs(ledger)
    for number in range(QUEUED):
        jobs.planned(f"queued-{number}")
    done = ledger.finished(1)[0]
    taken = TakenRow("", "new.txt", None, "new", "f", False, {"device": 7, "inode": -1, "readings": []})
    asked: dict[str, Callable[[], object]] = {
        "which steps can start": lambda: [ledger.ready(n, time.time(), 4) for n in ledger.wanted_needs()],
        "when to look again": lambda: ledger.next_due(time.time()),
        "the queue and what finished last": lambda: (ledger.active(1000), ledger.finished(20), ledger.counts()),
        "a forecast": lambda: forecast_of(ledger, ledger.active(1)[0].id),
        "a job by its name": lambda: ledger.find("job-17"),
        "a job by its file": lambda: ledger.taken_from(7, 12345),
        "a job's steps and attempts": lambda: (ledger.steps(done.id), ledger.attempts(done.id)),
        "refused jobs to look at again": ledger.refused_lately,
        "what folders hold": ledger.kept_bytes,
        "folders past their time": lambda: ledger.expired("done", 0, 500),
        "take a job": lambda: ledger.add_taken([replace(taken, job_id=ledger.new_ids(1)[0])]),
        "begin a step": lambda: jobs.begin(ledger.active(1)[0]),
        "take a job, read it, complete a step": lambda: jobs.complete(jobs.planned("next")),
        "forget a job": lambda: ledger.forget(time.time(), 1),
    }
    found = {name: _milliseconds(work, rounds) for name, work in asked.items()}
    for job in ledger.active():
        ledger.cancel(job)
    ledger.close()
    found["look for damage, as each start does"] = _milliseconds(lambda: damage_of(path, has_jobs=True), 1)
    print(f"the ledger alone, {rounds} times each\n{'median':>10}   slowest")
    for name, (median, slowest) in found.items():
        print(f"{median:7.2f} ms {slowest:6.2f} ms   {name}", flush=True)
    return found


def listing(folder: Path, rounds: int) -> dict[str, tuple[float, float]]:
    """Milliseconds of `atenea jobs` from its start to its end, and of the daemon's answer alone."""
    config = folder / "atenea.toml"
    config.touch()
    command = [sys.executable, "-m", "atenea", "jobs", "--config", str(config)]

    def run() -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    found = {
        "without a daemon": _milliseconds(run, rounds),
        "without a daemon, processor time": _processor_milliseconds(run, rounds),
    }
    with Instance(folder) as instance:
        found["with a daemon"] = _milliseconds(run, rounds)
        found["with a daemon, processor time"] = _processor_milliseconds(run, rounds)
        found["the daemon's answer"] = _milliseconds(lambda: ask(instance.config, "jobs"), rounds)
    found["Python that does nothing"] = _milliseconds(
        lambda: subprocess.run([sys.executable, "-c", "pass"], check=True), rounds
    )
    found["only `atenea --version`"] = _milliseconds(
        lambda: subprocess.run([*command[:3], "--version"], check=True, stdout=subprocess.DEVNULL), rounds
    )
    print(f"atenea jobs, {rounds} times each\n{'median':>10}   slowest")
    for name, (median, slowest) in found.items():
        print(f"{median:7.1f} ms {slowest:6.1f} ms   {name}", flush=True)
    return found


def _processor_milliseconds(work: Callable[[], object], rounds: int) -> tuple[float, float]:
    """What the processes that the work starts use of processors, the median and the most: no other work counts."""
    seconds = []
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        work()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return round(1000 * statistics.median(seconds), 2), round(1000 * max(seconds), 2)


def _milliseconds(work: Callable[[], object], rounds: int) -> tuple[float, float]:
    """The median and the slowest."""
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return round(1000 * statistics.median(seconds), 2), round(1000 * max(seconds), 2)


if __name__ == "__main__":
    main()
