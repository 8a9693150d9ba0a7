"""An hour of speech through the daemon and hallo2, at a tiny size on a CPU: memory stays flat, no frame is lost.

SOAK_MINUTES, 60 if it is not set and at least 2, is how long the speech is. An hour takes about 20 minutes on 2 cores.
"""

from __future__ import annotations

import os
import re
import signal
import time
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from face_networks import astronaut
from system.instance import Instance, wait_until
from tiny_bundle import TINIEST, make_tiny_bundle

MINUTES = int(os.environ.get("SOAK_MINUTES", "60"))
FPS = 25
CLIP_FRAMES = 16
RATE = 16_000
MEGABYTE = 1_000_000
ALLOWED = 50 * MEGABYTE

CONFIG = """
[paths]
models = "{models}"

[render]
plugin = "hallo2"

[render.hallo2]
device = "cpu"
width = 64
height = 64
num_inference_steps = 1
guidance_scale = 1.0
decode_batch_size = 16
"""

JOB = "audio_file = 'voice.wav'\navatar = 'ana.png'\n"


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    models = make_tiny_bundle(tmp_path_factory.mktemp("models"), TINIEST)
    folder = tmp_path_factory.mktemp("instance")
    # At this size a second thread costs as much as it brings.
    made = Instance(folder, CONFIG.format(models=models), {"OMP_NUM_THREADS": "1"}).start()
    yield made
    made.stop(signal.SIGKILL)


def record(path: Path) -> None:
    """A voice that is higher every minute."""
    moments = np.arange(60 * RATE) / RATE
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        for minute in range(MINUTES):
            sound = 9000 * np.sin((900 + 30 * minute) * moments) * np.sin(5 * moments)
            file.writeframesraw(sound.astype("<i2").tobytes())


@dataclass(frozen=True)
class Measured:
    """Resident memory in bytes when so many minutes are rendered, and the most that it was in the minute before."""

    minute: int
    resident: int
    peak: int


class Memory:
    """The resident memory of a process, minute by minute of the speech that it renders.

    The kernel tells the peak, so that none is missed between two looks.
    """

    def __init__(self, pid: int) -> None:
        self._process = Path(f"/proc/{pid}")
        self.minutes: list[Measured] = []
        self._forget_peak()

    def note(self, minute: int) -> None:
        """A minute is rendered."""
        found = re.findall(r"^(VmHWM|VmRSS):\s*(\d+) kB", (self._process / "status").read_text(), re.MULTILINE)
        sizes = {name: int(size) * 1024 for name, size in found}
        self._forget_peak()
        self.minutes.append(Measured(minute, sizes["VmRSS"], sizes["VmHWM"]))
        print(f"minute {minute:3}: {sizes['VmRSS'] / MEGABYTE:.1f} MB, peak {sizes['VmHWM'] / MEGABYTE:.1f} MB")

    @property
    def growth(self) -> int:
        """By how much the peak of all later minutes, joining included, exceeds what is resident after the first."""
        first, *later = self.minutes
        return max(measured.peak for measured in later) - first.resident

    def _forget_peak(self) -> None:
        (self._process / "clear_refs").write_text("5")


def watch(instance: Instance, video: Path) -> Memory:
    """Wait for the video; the memory of the worker that renders it."""
    (loaded,) = wait_until(lambda: instance.events("the models are loaded"), "the engine")
    memory = Memory(loaded["pid"])
    jobs = instance.folder / "state" / "jobs"
    (clips,) = wait_until(lambda: list(jobs.glob("*/work/*/clips")), "the render")
    deadline = time.monotonic() + 60 * (MINUTES + 2)
    begun = 0
    while not video.exists():
        assert time.monotonic() < deadline, f"{begun} clips and no video yet"
        assert [name for name in instance.outputs() if name.endswith(".error.txt")] == []
        while (clips / f"{begun:06}.mp4").exists():
            begun += 1
        minute = max(0, begun - 1) * CLIP_FRAMES // (60 * FPS)
        if minute > len(memory.minutes):
            memory.note(minute)
        time.sleep(0.05)
    memory.note(MINUTES)
    return memory


@dataclass(frozen=True)
class Stream:
    """What the packets of a stream say: how many there are, where it ends, and how many do not follow at once."""

    packets: int
    end: Fraction
    gaps: int


def stream_of(video: Path, kind: str) -> Stream:
    with av.open(str(video)) as container:
        (stream,) = container.streams.get(**{kind: 0})
        packets = [(packet.pts or 0, packet.duration or 0) for packet in container.demux(stream) if packet.size]
        unit = stream.time_base or Fraction(1)
    packets.sort()  # they come in the order of decoding
    ends = [pts + duration for pts, duration in packets]
    gaps = sum(end != pts for end, (pts, _) in zip(ends, packets[1:], strict=False))
    return Stream(len(packets), ends[-1] * unit, gaps)


def decoded_seconds(video: Path) -> Fraction:
    """How long the sound is when it is decoded."""
    with av.open(str(video)) as container:
        sound = container.streams.audio[0]
        return sum((Fraction(frame.samples, frame.sample_rate) for frame in container.decode(sound)), Fraction(0))


def test_an_hour(instance: Instance, record_property: Callable[[str, object], None]) -> None:
    assets = instance.folder / "assets"
    assets.mkdir(exist_ok=True)
    astronaut().save(assets / "ana.png")
    record(assets / "voice.wav")
    began = time.monotonic()
    instance.drop("hour.toml", JOB)
    memory = watch(instance, instance.outbox / "hour.mp4")

    video = instance.output("hour.mp4")
    picture, sound = stream_of(video, "video"), stream_of(video, "audio")
    decoded = decoded_seconds(video)
    print(f"{MINUTES} minutes of speech in {(time.monotonic() - began) / 60:.1f} minutes")
    print(f"memory grows by {memory.growth / MEGABYTE:.1f} MB at most after the first minute")
    print(f"{picture.packets} frames")
    for what, end in (("ends", sound.end), ("is decoded", decoded)):
        print(f"the sound {what} {float(end - picture.end) * 1000:+.3f} ms from the end of the picture")

    attempts = [attempt for attempt in instance.job("hour")["attempts"] if attempt["stage"] == "render"]
    assert [attempt["outcome"] for attempt in attempts] == ["done"]  # so one worker rendered all of it
    assert [measured.minute for measured in memory.minutes] == list(range(1, MINUTES + 1))
    assert memory.growth < ALLOWED
    assert (picture.packets, picture.gaps, sound.gaps) == (MINUTES * 60 * FPS, 0, 0)
    assert picture.end == MINUTES * 60
    assert abs(sound.end - picture.end) <= Fraction(1, FPS)
    assert abs(decoded - picture.end) <= Fraction(1, FPS)
    record_property("An hour of speech", (picture.packets, "frames"))
    record_property("An hour of speech", f"{memory.growth / MEGABYTE:.1f} MB more than after the first minute")
