"""What the daemon costs while it has nothing to do, and how soon it is ready.

python benchmarks/idle.py [--seconds 60] [--starts 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from instance import Instance
from machine import describe, headline

TICKS = os.sysconf("SC_CLK_TCK")
SETTLING_SECONDS = 3.0
"""What a start still has to do when the daemon is ready is over by then."""


def main() -> None:
    """Measure, print a table, write JSON."""
    arguments = _arguments()
    print(headline())
    with tempfile.TemporaryDirectory() as folder:
        starts = [start(Path(folder) / f"start-{number}") for number in range(arguments.starts)]
        print(f"\nfrom the command to ready, {arguments.starts} starts")
        print(f"  median {statistics.median(starts):.2f} s, {min(starts):.2f} to {max(starts):.2f} s", flush=True)
        idle = be_idle(Path(folder) / "idle", arguments.seconds)
    if arguments.json:
        figures = {"machine": describe(), "ready_seconds": [round(seconds, 3) for seconds in starts], "idle": idle}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="how long to watch the idle daemon")
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def start(folder: Path) -> float:
    """Seconds from the command to ready."""
    with Instance(folder) as instance:
        return instance.ready_seconds


def be_idle(folder: Path, seconds: float) -> dict[str, float]:
    """The processor time and the memory of the control process, and the memory of the workers that it keeps."""
    with Instance(folder) as instance:
        pid = instance.process.pid
        time.sleep(SETTLING_SECONDS)
        began, before = time.monotonic(), _ticks(pid)
        time.sleep(seconds)
        spent = (_ticks(pid) - before) / TICKS / (time.monotonic() - began)
        own = _memory(pid)
        workers = [_memory(worker) for worker in _others_in(pid)]
    figures = {
        "seconds": seconds,
        "cpu_percent": round(100 * spent, 3),
        "rss_mib": own["Rss"],
        "pss_mib": own["Pss"],
        "worker_processes": len(workers),
        "workers_pss_mib": round(sum(worker["Pss"] for worker in workers), 1),
    }
    print(f"\nthe idle daemon over {seconds:g} s")
    print(f"  control process: {figures['cpu_percent']:.2f} % of one core,", end=" ")
    print(f"{own['Rss']:.0f} MiB resident, {own['Pss']:.0f} MiB of them its share (PSS)")
    print(f"  {len(workers)} processes of workers: {figures['workers_pss_mib']:.0f} MiB (PSS)", flush=True)
    return figures


def _ticks(pid: int) -> int:
    """Clock ticks that the process has run for."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _memory(pid: int) -> dict[str, float]:
    """MiB by name, from smaps_rollup."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]
    return {name: round(int(size.split()[0]) / 1024, 1) for name, _, size in (line.partition(":") for line in lines)}


def _others_in(daemon: int) -> list[int]:
    """The workers of the daemon, each of which leads a session, and the processes of these sessions."""
    stats = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, parent, _, session = path.read_text(encoding="utf-8").rpartition(")")[2].split()[:4]
        except OSError:
            continue
        stats[int(path.parent.name)] = int(parent), int(session)
    leaders = {pid for pid, (parent, session) in stats.items() if parent == daemon and session == pid}
    return [pid for pid, (_, session) in stats.items() if session in leaders]


if __name__ == "__main__":
    main()
