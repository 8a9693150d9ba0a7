"""How long a job takes with the Hallo2 engine, from the inbox to the MP4, and what memory it takes.

python benchmarks/hallo2_job.py [--seconds 5] [--jobs 2] [--size 512] [--steps 40] [--device cuda] [--json FILE]

The models are drawn, in the layout of the published bundle. The daemon is a real one, and is started twice: the first
has to compile its kernels, the second finds them in the cache. In each, the jobs after the first find the models
loaded. The speech is noise, the person scikit-image's astronaut.
"""

from __future__ import annotations

import sys

# A file beside this one has the name of the engine's package: the folder they are in must come last.
sys.path.append(sys.path.pop(0))

import argparse
import json
import subprocess
import tempfile
import time
import wave
from pathlib import Path
from typing import Any

import drawn
import numpy as np
from machine import describe, headline

CONFIG = """
[paths]
models = "{models}"

[render]
plugin = "hallo2"

[render.hallo2]
device = "{device}"
width = {size}
height = {size}
num_inference_steps = {steps}
"""


def main() -> None:
    """Make the models, run the jobs, print what their reports say."""
    arguments = _arguments()
    print(headline(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        start = time.perf_counter()
        drawn.bundle(root / "models", tiny=arguments.tiny)
        print(f"the models were drawn in {time.perf_counter() - start:.0f} s", flush=True)
        reports = {start: run(root, start, arguments) for start in ("cold", "warm")}
    for start, jobs in reports.items():
        for report in jobs:
            print(start, json.dumps(report))
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": describe(), **reports}, indent=2) + "\n")


def run(root: Path, start: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """What is measured of each job of one daemon."""
    config = root / "atenea.toml"
    settings = {"device": arguments.device, "size": arguments.size, "steps": arguments.steps}
    config.write_text(CONFIG.format(models=root / "models", **settings), encoding="utf-8")
    names = [f"{start}{number}" for number in range(arguments.jobs)]
    for name in names:
        _write_job(root / "inbox" / name, arguments.seconds)
    began = time.perf_counter()
    command = [sys.executable, "-m", "atenea", "run", "--once", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(done.stderr[-5000:])
    print(f"{start}: {len(names)} jobs in {seconds:.1f} s", flush=True)
    return [_figures(json.loads((root / "outbox" / f"{name}.json").read_text())) for name in names]


def _write_job(folder: Path, seconds: float) -> None:
    folder.mkdir(parents=True)
    drawn.astronaut().save(folder / "person.png")
    samples = np.random.default_rng(0).normal(0, 3000, round(seconds * 16_000)).astype("<i2")
    with wave.open(str(folder / "voice.wav"), "wb") as sound:
        sound.setparams((1, 2, 16_000, 0, "NONE", ""))
        sound.writeframes(samples.tobytes())
    (folder / "job.toml").write_text('audio_file = "voice.wav"\navatar = "person.png"\n', encoding="utf-8")


def _figures(report: dict[str, Any]) -> dict[str, Any]:
    [render] = [stage for stage in report["stages"] if stage["stage"] == "render"]
    return {"render": render, "video": report["video"]}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of speech")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small networks, to try this script")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
