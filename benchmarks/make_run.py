"""How long `make run` takes in a fresh clone, from nothing to the first video, with a warm package cache.

python benchmarks/make_run.py [--repeats 3] [--json FILE]

What is not committed is not in the clone. The first run, which may fill the package cache, does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from machine import describe, headline

REPOSITORY = Path(__file__).parents[1]


def main() -> None:
    """Measure, print a line, write JSON."""
    arguments = _arguments()
    print(headline())
    seconds = [make_run() for _ in range(arguments.repeats + 1)][1:]
    spread = f"{min(seconds):.1f} to {max(seconds):.1f} s"
    print(f"\nmake run in a fresh clone\n  median {statistics.median(seconds):.1f} s, {spread}")
    if arguments.json:
        figures = {"machine": describe(), "make_run_seconds": [round(value, 2) for value in seconds]}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def make_run() -> float:
    """Seconds that `make run` takes in a clone of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "VENV"}}
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "atenea"
        subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], check=True)
        began = time.monotonic()
        subprocess.run(["make", "run"], cwd=clone, env=environment, check=True, capture_output=True)
        seconds = time.monotonic() - began
        if not (clone / "outbox" / "hello.mp4").is_file():
            raise SystemExit("make run left no outbox/hello.mp4")
    return seconds


if __name__ == "__main__":
    main()
