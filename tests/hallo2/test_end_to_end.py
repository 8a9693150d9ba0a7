"""A real daemon renders with hallo2 on a CPU, from the inbox to the MP4, with a tiny bundle in the published layout."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import wave
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from face_networks import astronaut
from PIL import Image
from system.instance import Instance, wait_until
from tiny_bundle import make_tiny_bundle

CONFIG = """
[paths]
models = "{models}"

[render]
plugin = "hallo2"

[render.hallo2]
device = "cpu"
width = 64
height = 64
num_inference_steps = 2

[retry]
first_seconds = 0.1
"""

JOB = "audio_file = 'voice.wav'\navatar = 'ana.png'\n"


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """One daemon for all tests, because its worker takes seconds to load the engine."""
    models = make_tiny_bundle(tmp_path_factory.mktemp("models"))
    folder = tmp_path_factory.mktemp("instance")
    made = Instance(folder, CONFIG.format(models=models), {"OMP_NUM_THREADS": "1"}).start()
    yield made
    made.stop(signal.SIGKILL)


def picture(image: Image.Image) -> bytes:
    data = BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def submit(instance: Instance, name: str, text: str, image: Image.Image | None = None) -> None:
    """Drop a text, and the picture first."""
    if image:
        instance.drop(f"{name}.png", picture(image))
    instance.drop(f"{name}.txt", text)


def record(path: Path, samples: int) -> None:
    """A voice, which espeak would not make the same twice."""
    time = np.arange(samples) / 16_000
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((9000 * np.sin(900 * time) * np.sin(5 * time)).astype("<i2").tobytes())


def report_of(instance: Instance, name: str) -> Any:
    return json.loads(instance.output(f"{name}.json").read_text())


def packets(path: Path) -> list[tuple[int, bytes]]:
    """When each frame is shown, and what it is made of."""
    with av.open(str(path)) as container:
        coded = [packet for packet in container.demux(video=0) if packet.size]
    return [(packet.pts, hashlib.sha256(bytes(packet)).digest()) for packet in coded]


def test_inbox_to_video(instance):
    submit(instance, "hello", "Hello from atenea.", astronaut())
    video = instance.output("hello.mp4")
    report = report_of(instance, "hello")
    render = next(stage for stage in report["stages"] if stage["stage"] == "render")
    with av.open(str(video)) as container:
        picture, sound = container.streams.video[0], container.streams.audio[0]
        assert (picture.width, picture.height, picture.average_rate) == (64, 64, 25)
        assert abs(picture.duration * picture.time_base - sound.duration * sound.time_base) <= picture.average_rate**-1
        frames = sum(1 for _ in container.decode(picture))
    assert render["plugin"] == "hallo2"
    assert render["options"].items() >= {"num_inference_steps": 2, "seed": 42, "fps": 25, "width": 64}.items()
    facts = render["report"]
    assert facts.items() >= {"seed": 42, "clips": -(-frames // 16), "fps": 25, "dtype": "float32"}.items()
    assert facts["seconds_per_clip"] > 0
    assert facts["warnings"] == []
    assert facts["model"]["bytes"].keys() >= {"hallo2/net.pth", "face_analysis/models/glintr100.onnx"}


def test_no_avatar_is_refused_at_intake(instance):
    submit(instance, "nobody", "Who speaks?")
    answer = instance.output("nobody.error.txt").read_text()
    assert "plugin 'hallo2': an avatar is needed: set avatar, or put a picture of the same name beside" in answer
    assert {attempt["stage"] for attempt in instance.job("nobody")["attempts"]} <= {"intake", "publish"}


def test_the_configurations_options_are_refused_in_a_job(instance):
    instance.drop("mine.toml", "text = 'x'\n[render]\ndevice = 'cuda'\nkeep_loaded_seconds = 1\n")
    answer = instance.output("mine.error.txt").read_text()
    assert "render.device: only the configuration may set it" in answer
    assert "render.keep_loaded_seconds: only the configuration may set it" in answer


def test_a_picture_without_a_face_is_answered(instance):
    submit(instance, "wall", "Who speaks?", Image.new("RGB", (512, 512), (90, 120, 150)))
    first, *_ = instance.output("wall.error.txt").read_text().splitlines()
    assert first.startswith("render plugin 'hallo2': avatar: the face at ")
    assert "use a picture that looks at the camera" in first


def clips(jobs: Path) -> list[Path]:
    """The folders of clips that renders have made so far, looked for while the daemon makes and removes some."""
    return [Path(folder) for folder, _, _ in os.walk(jobs) if folder.endswith("/clips")]


def test_a_killed_render_goes_on_and_is_the_same(instance):
    assets = instance.folder / "assets"
    assets.mkdir(exist_ok=True)
    (assets / "ana.png").write_bytes(picture(astronaut()))
    record(assets / "voice.wav", samples=40_001)
    instance.drop("whole.toml", JOB)
    instance.output("whole.mp4")
    jobs = instance.folder / "state" / "jobs"
    wait_until(lambda: not clips(jobs), "the first job's work to be dropped")
    instance.drop("cut.toml", JOB)
    wait_until(lambda: any((folder / "000001.mp4").exists() for folder in clips(jobs)), "the second clip")
    loaded = instance.events("the models are loaded")
    assert len(loaded) == 1  # by the first job, for all since then
    os.kill(loaded[0]["pid"], signal.SIGKILL)

    whole = packets(instance.output("whole.mp4"))
    assert packets(instance.output("cut.mp4")) == whole
    assert len(whole) == 63
    (continued,) = instance.events("an earlier attempt is continued")
    assert continued["clips"] in {1, 2, 3}
    render = [attempt for attempt in instance.job("cut")["attempts"] if attempt["stage"] == "render"]
    assert [attempt["outcome"] for attempt in render][-1] == "done"
    assert len(render) == 2
