"""The process that renders with hallo2 is killed at random moments, again and again: every video is the very same.

SOAK_KILLS, 50 if it is not set, is how often; SOAK_SEED repeats the draws of a run that printed it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
import wave
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
from face_networks import astronaut
from soak.render_alone import render_alone
from tiny_bundle import TINIEST, make_tiny_bundle

KILLS = int(os.environ.get("SOAK_KILLS", "50"))
SEED = int(os.environ.get("SOAK_SEED", str(random.SystemRandom().randrange(1 << 32))))
CLIPS = 20
FRAMES = CLIPS * 16 - 5
SAMPLES = FRAMES * 640
PATIENCE_SECONDS = 120.0

FORKS = multiprocessing.get_context("forkserver")
"""Forks from a process that has imported the engine and not yet used it: each import would take seconds."""

FORKS.set_forkserver_preload(
    ["atenea.plugin_manager", "hallo2.face", "hallo2.weights", "transformers.models.wav2vec2.modeling_wav2vec2"]
)


class Render:
    """A render in a work folder of its own, in as many attempts as it takes: each is a process that can be killed."""

    def __init__(self, sources: Path, workdir: Path) -> None:
        workdir.mkdir()
        self._sources = sources
        self._workdir = workdir
        self._clips = workdir / "clips"
        self._log = workdir.with_suffix(".log")
        self.video = workdir / "hallo2.mp4"

    def start(self) -> None:
        self._began = time.time_ns()
        self._log.unlink(missing_ok=True)
        self._process = FORKS.Process(
            target=render_alone, args=(self._sources, self._workdir, self._log), name=self._workdir.name, daemon=True
        )
        self._process.start()

    def finish(self) -> None:
        """Wait until the attempt is done."""
        self._process.join(PATIENCE_SECONDS)
        assert self._process.exitcode == 0, self._log.read_text()

    def kill(self) -> bool:
        """Kill the process and all that it started; False if it was done before."""
        if self._process.is_alive():
            with suppress(ProcessLookupError):  # it may end just now
                os.killpg(self._process.pid or 0, signal.SIGKILL)
        self._process.join(PATIENCE_SECONDS)
        if self._process.exitcode == -signal.SIGKILL:
            return True
        self.finish()
        return False

    def wait(self, reached: Callable[[], bool]) -> None:
        """Wait until the attempt has reached a point, or its end."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not reached() and self._process.is_alive():
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.001)

    def loaded(self) -> bool:
        """Whether the first clip of the attempt is next."""
        return self._log.exists() and "the models are loaded" in self._log.read_text()

    def writes(self, path: Path) -> bool:
        """Whether the attempt has begun to write the file."""
        return path.exists() and path.stat().st_mtime_ns > self._began

    def segment(self, number: int) -> Path:
        """The file of a clip."""
        return self._clips / f"{number:06}.mp4"

    @property
    def finished(self) -> int:
        """How many clips are finished, by the state on the disk."""
        state = self._clips / "state"
        if not state.exists():
            return 0
        count: int = json.loads(state.read_bytes().partition(b"\n")[0])["segments"]
        return count

    @property
    def continued(self) -> int:
        """With how many clips the attempt went on."""
        events = [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]
        return sum(event["clips"] for event in events if event["event"] == "an earlier attempt is continued")

    @property
    def cut_off(self) -> str:
        """What a kill has cut off, by what it has left behind."""
        if self.finished == CLIPS:
            return "joining"
        segment = self.segment(self.finished)
        if not segment.exists():
            return "computing"
        return "syncing" if can_be_read(segment) else "encoding"


def can_be_read(video: Path) -> bool:
    try:
        with av.open(str(video)):
            return True
    except av.FFmpegError:
        return False


@dataclass(frozen=True)
class Pace:
    """What an uninterrupted render takes, in seconds for each clip, and for joining all."""

    clip: float
    joining: float


def pace_of(render: Render) -> Pace:
    first, last = (render.segment(number).stat().st_mtime for number in (0, CLIPS - 1))
    return Pace((last - first) / (CLIPS - 1), render.video.stat().st_mtime - last)


def interrupt(render: Render, pace: Pace, draw: random.Random) -> bool:
    """Start an attempt and kill it at a random moment; False if it was done before."""
    done = render.finished
    clip = draw.randrange(done, CLIPS) if done < CLIPS else done
    moments = {
        "computing": (render.loaded, 3 * pace.clip),
        "clip": (lambda: render.writes(render.segment(clip)), pace.clip),
        "encoding": (lambda: render.writes(render.segment(clip)), pace.clip / 5),
        "joining": (lambda: render.writes(render.video), pace.joining),
    }
    reached, longest = moments[draw.choice(list(moments) if done < CLIPS else ["computing", "joining"])]
    seconds = draw.uniform(0, longest)
    render.start()
    render.wait(reached)
    time.sleep(seconds)
    return render.kill()


def record(path: Path) -> None:
    """A voice."""
    moments = np.arange(SAMPLES) / 16_000
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((9000 * np.sin(900 * moments) * np.sin(5 * moments)).astype("<i2").tobytes())


def frames_of(video: Path) -> list[bytes]:
    """The frames, decoded."""
    with av.open(str(video)) as container:
        return [frame.to_ndarray().tobytes() for frame in container.decode(video=0)]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is rendered, and the models."""
    folder = tmp_path_factory.mktemp("sources")
    make_tiny_bundle(folder / "models", TINIEST)
    astronaut().save(folder / "ana.png")
    record(folder / "voice.wav")
    return folder


def test_every_killed_render_is_the_same(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # a second thread costs as much as it brings, at this size
    print(f"\nSOAK_SEED={SEED}")
    draw = random.Random(SEED)
    whole = Render(sources, tmp_path / "whole")
    whole.start()
    whole.finish()
    frames, pace = frames_of(whole.video), pace_of(whole)
    print(f"{CLIPS} clips in {pace.clip * 1000:.0f} ms each, joined in {pace.joining * 1000:.0f} ms")
    assert len(frames) == FRAMES

    cut_off: Counter[str] = Counter()
    renders = 0
    while cut_off.total() < KILLS:
        renders += 1
        render = Render(sources, tmp_path / f"cut-{renders}")
        finished = 0
        while cut_off.total() < KILLS and interrupt(render, pace, draw):
            assert render.continued in {0, finished}  # 0 too if it was killed before it came to it
            assert render.finished >= finished
            finished = render.finished
            cut_off[render.cut_off] += 1
            print(f"kill {cut_off.total()}: render {renders}, {render.cut_off}, {finished} clips are finished")
        if cut_off.total() == KILLS:
            render.start()
            render.finish()
        assert render.continued == finished
        assert frames_of(render.video) == frames
        assert render.video.read_bytes() == whole.video.read_bytes()
    print(f"{cut_off.total()} kills in {renders} renders, all the same: {dict(cut_off)}")
    record_property("A Hallo2 render goes on", (cut_off.total(), "kills"))
    record_property("A Hallo2 render goes on", (renders, "renders"))
