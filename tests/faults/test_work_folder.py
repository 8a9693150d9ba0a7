"""Plugins that write without end, on a real small disk: theirs is the failure, and the room is everybody's again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.small_disk import fill, small_disk
from system.conftest import new_instance
from system.instance import RENDER_STUB, Instance, NewInstance

from atenea.retention import relieve_disk

__all__ = ["new_instance"]

HOG = """
import time

def pour(ctx, megabytes):
    with (ctx.workdir / 'flood').open('wb', buffering=0) as file:
        for number in range(megabytes):
            file.write(bytes(1 << 20))
            ctx.progress(number / megabytes)

@hookimpl
def tts(job, ctx):
    pour(ctx, 1000)
"""

CONTENT = """
@hookimpl
def tts(job, ctx):
    import wave
    path = ctx.workdir / 'speech.wav'
    with wave.open(str(path), 'wb') as file:
        file.setparams((1, 2, 16000, 0, 'NONE', ''))
        file.writeframes(bytes(3200))
    try:
        pour(ctx, 1000)
    except OSError:
        pass
    return path
"""

CONFIG = "[render]\nplugin = 'stub'\n[retry]\nattempts = 2\nfirst_seconds = 0.1\n"
JOB = "text = 'Hello.'\n[tts]\nplugin = 'hog'\n"


@pytest.fixture
def instance(new_instance: NewInstance) -> Iterator[Instance]:
    made: Instance = new_instance(CONFIG)
    made.plugin("stub", RENDER_STUB)
    made.plugin("hog", HOG)
    with small_disk(made.folder / "state", 32):
        yield made
        made.stop()


def hogs_folder(instance: Instance) -> Path:
    return instance.folder / "state/jobs" / instance.job("hog")["id"] / "work/tts"


def test_a_stage_that_fills_the_disk(instance: Instance) -> None:
    instance.start()
    instance.drop("hog.toml", JOB)
    instance.drop("hello.txt", "Hello.")
    error = instance.output("hog.error.txt").read_text()
    assert "tts plugin 'hog' failed: OSError: [Errno 28] No space left on device (its work folder, 3" in error
    assert "MB, was removed) (given up after 2 attempts)" in error
    assert not hogs_folder(instance).exists()
    instance.output("hello.mp4")


def test_a_stage_that_fills_the_disk_and_is_content(instance: Instance) -> None:
    instance.plugin("hog", HOG[: HOG.index("@hookimpl")] + CONTENT)
    instance.start()
    instance.drop("hog.toml", JOB)
    error = instance.output("hog.error.txt").read_text()
    assert "tts plugin 'hog' filled the disk (its work folder, 3" in error
    instance.drop("hello.txt", "Hello.")
    instance.output("hello.mp4")


def test_a_stage_that_writes_more_than_it_may(new_instance: NewInstance) -> None:
    instance: Instance = new_instance(CONFIG + "[limits]\nwork_gigabytes = 0.02\n")
    instance.plugin("stub", RENDER_STUB)
    instance.plugin("hog", HOG.replace("pour(ctx, 1000)", "pour(ctx, 30)\n    while True: time.sleep(1)"))
    instance.start()
    instance.drop("hog.toml", JOB)
    instance.drop("hello.txt", "Hello.")
    sentence = instance.output("hog.error.txt").read_text().partition("\n")[0]
    assert sentence.endswith(
        "the worker of tts plugin 'hog' wrote 31.5 MB into its work folder and was ended; raise limits.work_gigabytes"
        " if it needs so much (its work folder, 31.5 MB, was removed)"
    )
    shown = instance.job("hog")
    assert [attempt["outcome"] for attempt in shown["attempts"] if attempt["stage"] == "tts"] == ["died"]
    assert not hogs_folder(instance).exists()
    instance.output("hello.mp4")
    instance.stop()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    with small_disk(folder, 24):
        yield folder


@pytest.mark.parametrize("failed", [True, False])
def test_what_a_stage_has_done_stays_when_others_filled_the_disk(disk: Path, failed: bool) -> None:
    work = disk / "work"
    work.mkdir()
    (work / "clip").write_bytes(bytes(1 << 20))
    fill(disk)
    assert relieve_disk(work, 10**9, failed=failed) == 0
    assert (work / "clip").exists()


def test_a_large_work_folder_stays_while_there_is_room(disk: Path) -> None:
    work = disk / "work"
    work.mkdir()
    (work / "clip").write_bytes(bytes(8 << 20))
    assert relieve_disk(work, 10**9, failed=True) == 0
    (disk / "others").write_bytes(bytes(12 << 20))
    assert relieve_disk(work, 10**9, failed=False) == 0
    assert relieve_disk(work, 10**9, failed=True) == 8 << 20
    assert not work.exists()
    assert relieve_disk(work, 10**9, failed=True) == 0
    assert shutil.disk_usage(disk).free >= 12 << 20
