"""How fast the preview renders, and whether its memory grows with the length of the speech.

python benchmarks/preview.py [--repeats 5] [--size 512] [--minutes 1 60] [--json FILE]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from pathlib import Path
from types import ModuleType

import numpy as np
import structlog
from machine import describe, headline

from atenea import Context, Job, StageSettings
from atenea.media.audio import SAMPLE_RATE, frame_count

PLUGIN = Path(__file__).parents[1] / "plugins" / "preview.py"
SENTENCE = "Drop a text file into a folder, and a moment later a video of me speaking lies beside it. "
WORDS_PER_MINUTE = 170
FPS = 25


def main() -> None:
    """Measure, print a table, write JSON."""
    arguments = _arguments()
    if arguments.child:
        print(json.dumps(render(arguments.child, arguments.size)))
        return
    print(headline())
    speeds = [_in_a_process(1.0, arguments.size)["frames_per_second"] for _ in range(arguments.repeats)]
    print(f"\npreview at {arguments.size} x {arguments.size}, {FPS} fps, 60 s of speech, {arguments.repeats} runs")
    print(f"  frames per second   median {statistics.median(speeds):.0f}, {min(speeds):.0f} to {max(speeds):.0f}")
    print("\nspeech        peak memory   frames/s")
    memory = []
    for minutes in arguments.minutes:
        measured = _in_a_process(minutes, arguments.size)
        memory.append({"minutes": minutes, **measured})
        print(
            f"{minutes:6g} min   {measured['peak_mib']:7.0f} MiB   {measured['frames_per_second']:8.0f}",
            flush=True,
        )
    if arguments.json:
        figures = {
            "machine": describe(),
            "size": arguments.size,
            "frames_per_second": speeds,
            "memory": memory,
        }
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--minutes", type=float, nargs="*", default=[1, 60], help="lengths to measure memory for")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_a_process(minutes: float, size: int) -> dict[str, float]:
    """Its own process each time, because peak memory is a process's."""
    command = [sys.executable, __file__, "--child", str(minutes), "--size", str(size)]
    result: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result


def render(minutes: float, size: int) -> dict[str, float]:
    """Render so much speech with words over it; frames per second and MiB."""
    plugin = _load(PLUGIN)
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "speech.wav"
        samples = _write_speech(wav, minutes)
        text = SENTENCE * max(1, round(minutes * WORDS_PER_MINUTE / len(SENTENCE.split())))
        job = Job(
            id="1",
            name="benchmark",
            text=text,
            audio=StageSettings(plugin="wav"),
            render=StageSettings(plugin="preview"),
        )
        ctx = Context(
            workdir=Path(folder),
            cache=Path(folder),
            options=plugin.Options(width=size, height=size, fps=FPS),
            log=structlog.get_logger(),
            on_progress=lambda fraction, text: None,
        )
        start = time.perf_counter()
        plugin.render(job, wav, ctx)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"frames_per_second": frame_count(samples, FPS) / seconds, "peak_mib": peak}


def _write_speech(path: Path, minutes: float) -> int:
    """Noise that comes and goes about four times a second, like syllables, with a pause every few seconds."""
    random = np.random.default_rng(0)
    seconds = round(minutes * 60)
    moments = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        for second in range(seconds):
            syllables = np.abs(np.sin(2 * np.pi * (1.9 + 0.3 * (second % 3)) * moments)) * (second % 6 != 5)
            file.writeframesraw(
                (random.normal(0, 4000, SAMPLE_RATE).clip(-16000, 16000) * syllables).astype("<i2").tobytes()
            )
    return seconds * SAMPLE_RATE


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("_benchmark_preview", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
