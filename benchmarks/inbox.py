"""How soon a file that was dropped into the inbox is taken, one at a time and 20,000 at once.

python benchmarks/inbox.py [--files 200] [--crowd 20000] [--writers 4] [--folder DIR] [--json FILE]

The queue is paused, so only taking and intake happen. The folder should lie on a disk: taking syncs what it moves.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from itertools import islice
from pathlib import Path

from instance import Instance, moment
from machine import describe, headline

from atenea.control import ask

LONGEST_PAUSE = 0.8
ASK_SECONDS = 0.5


def main() -> None:
    """Measure, print a table, write JSON."""
    arguments = _arguments()
    if arguments.child:
        print(write_many(arguments.inbox, arguments.child, arguments.crowd))
        return
    print(headline())
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        alone = one_by_one(Path(folder) / "alone", arguments.files)
        crowd = at_once(Path(folder) / "crowd", arguments.crowd, arguments.writers)
    if arguments.json:
        figures = {"machine": describe(), "one_by_one": alone, "at_once": crowd}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200, help="dropped one by one")
    parser.add_argument("--crowd", type=int, default=20_000, help="dropped at once")
    parser.add_argument("--writers", type=int, default=4, help="processes that drop the crowd")
    parser.add_argument("--folder", type=Path, help="where the instances lie (the system's temporary folder)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--inbox", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def one_by_one(folder: Path, files: int) -> dict[str, float]:
    """Milliseconds from a file's last close to its job being taken, beyond the time that it has to settle."""
    closed: dict[str, float] = {}
    with Instance(folder, paused=True) as instance:
        for number in range(files):
            time.sleep(random.uniform(0, LONGEST_PAUSE))
            name = f"file-{number}"
            (instance.inbox / f"{name}.txt").write_text(f"Text number {number}.\n", encoding="utf-8")
            closed[name] = time.time()
        taken = {entry["name"]: moment(entry) for entry in islice(instance.follow("job taken"), files)}
        settle = instance.config.watch.settle_seconds
    beyond = sorted(1000 * (taken[name] - closed[name] - settle) for name in closed)
    figures = {
        "files": files,
        "settle_seconds": settle,
        "median_ms": round(statistics.median(beyond), 1),
        "p99_ms": round(beyond[-1 - files // 100], 1),
        "max_ms": round(beyond[-1], 1),
    }
    print(f"\n{files} files one by one: from the last close to being taken, beyond the {settle:g} s to settle")
    print(
        f"  median {figures['median_ms']:.0f} ms, 99 of 100 within {figures['p99_ms']:.0f} ms,"
        f" the slowest {figures['max_ms']:.0f} ms",
        flush=True,
    )
    return figures


def at_once(folder: Path, files: int, writers: int) -> dict[str, float]:
    """Seconds from the last close of a crowd of files to the last job being taken, and to all being read."""
    with Instance(folder, paused=True) as instance, _Asking(instance) as asking:
        began = time.time()
        closed = _drop(instance.inbox, files, writers)
        taken = {entry["file"]: moment(entry) for entry in islice(instance.follow("job taken"), files)}
        accepted = [moment(entry) for entry in islice(instance.follow("job accepted"), files)]
        settle = instance.config.watch.settle_seconds
    figures = {
        "files": files,
        "writers": writers,
        "taken": len(taken),
        "settle_seconds": settle,
        "writing_seconds": round(closed - began, 1),
        "last_taken_seconds": round(max(taken.values()) - closed, 1),
        "all_read_seconds": round(accepted[-1] - closed, 1),
        "slowest_answer_ms": round(1000 * max(asking.seconds)),
        "median_answer_ms": round(1000 * statistics.median(asking.seconds)),
    }
    print(f"\n{files:,} files by {writers} writers within {figures['writing_seconds']:.1f} s")
    print(f"  taken: {figures['taken']:,}, the last one {figures['last_taken_seconds']:.1f} s after the last close")
    print(f"  all read and checked: {figures['all_read_seconds']:.1f} s after the last close")
    print(
        f"  the daemon's answer to `atenea jobs` meanwhile: median {figures['median_answer_ms']} ms,"
        f" the slowest {figures['slowest_answer_ms']} ms",
        flush=True,
    )
    return figures


def _drop(inbox: Path, files: int, writers: int) -> float:
    """Have the files written by processes of their own; when the last one was closed."""
    shares = [files // writers + (number < files % writers) for number in range(writers)]
    children = [
        subprocess.Popen(
            [sys.executable, __file__, "--child", f"w{number}", "--inbox", str(inbox), "--crowd", str(share)],
            stdout=subprocess.PIPE,
        )
        for number, share in enumerate(shares)
    ]
    return max(float(child.communicate()[0]) for child in children)


def write_many(inbox: Path, prefix: str, files: int) -> float:
    """Write so many texts; when the last one was closed."""
    for number in range(files):
        (inbox / f"{prefix}-{number}.txt").write_text(f"Text number {number}.\n", encoding="utf-8")
    return time.time()


class _Asking:
    """Asks the daemon for its jobs all the while, and notes how long each answer takes."""

    def __init__(self, instance: Instance) -> None:
        self.seconds: list[float] = []
        self._instance = instance
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> _Asking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _ask(self) -> None:
        config = self._instance.config
        while not self._end.wait(ASK_SECONDS):
            began = time.perf_counter()
            ask(config, "jobs")
            self.seconds.append(time.perf_counter() - began)


if __name__ == "__main__":
    main()
