"""Plugins that write without end, on a real small disk: theirs is the failure, and the room is everybody's again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.small_disk import fill, small_disk
from system.conftest import new_instance
from system.instance import RENDER_STUB, Instance, NewInstance, wait_until

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

LASTING = """
import os
import time

@hookimpl
def tts(job, ctx):
    with (ctx.workdir / 'flood').open('wb', buffering=0) as file:
        while (disk := os.statvfs(ctx.workdir)).f_bavail * disk.f_frsize > 900_000:
            file.write(bytes(1 << 16))
    (ctx.workdir / 'full').touch()
    while True:
        ctx.progress(0.5)
        time.sleep(0.05)
"""

CLOSE = "(ctx.workdir / 'shut' / 'in').mkdir(parents=True); (ctx.workdir / 'shut').chmod(0o600)"

FULL = "tts plugin 'hog' failed: OSError: [Errno 28] No space left on device"
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


def test_a_stage_that_is_cancelled_when_it_has_filled_the_disk(instance: Instance) -> None:
    instance.plugin("hog", LASTING)
    instance.start()
    instance.drop("hog.toml", JOB)
    wait_until(lambda: list(instance.folder.glob("state/jobs/*/work/tts/full")), "the disk to be full")
    folder = hogs_folder(instance)
    instance.atenea("cancel", "hog")
    instance.wait_for_state("hog", "cancelled")
    assert not folder.exists()
    instance.drop("hello.txt", "Hello.")
    instance.output("hello.mp4")


def test_a_stage_that_closes_its_folder(instance: Instance) -> None:
    instance.plugin("hog", HOG[: HOG.index("@hookimpl")] + CONTENT.replace("pour(ctx, 1000)", CLOSE))
    as_root = instance.command
    if os.geteuid() == 0:  # permissions bind the daemon as they do one that is not root
        as_owner = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
        instance.command = lambda *arguments: [*as_owner, *as_root(*arguments)]  # type: ignore[method-assign]
    instance.start()
    instance.drop("hog.toml", JOB)
    instance.output("hog.mp4")
    shown = instance.wait_for_state("hog", "done")
    assert [attempt["outcome"] for attempt in instance.job("hog")["attempts"]] == ["done"] * 6
    wait_until(lambda: not (instance.folder / "state/jobs" / shown["id"] / "work").exists(), "the work folder to go")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    with small_disk(folder, 24):
        yield folder


@pytest.mark.parametrize("error", [FULL, "it broke", None])
def test_what_a_stage_has_done_stays_when_others_filled_the_disk(disk: Path, error: str | None) -> None:
    work = disk / "work"
    work.mkdir()
    (work / "clip").write_bytes(bytes(1 << 20))
    fill(disk)
    assert relieve_disk(work, 10**9, error) == 0
    assert (work / "clip").exists()


def test_a_large_work_folder_stays_while_there_is_room(disk: Path) -> None:
    work = disk / "work"
    work.mkdir()
    (work / "clip").write_bytes(bytes(8 << 20))
    assert relieve_disk(work, 10**9, FULL) == 0
    (disk / "others").write_bytes(bytes(12 << 20))
    assert relieve_disk(work, 10**9, None) == 0
    assert relieve_disk(work, 10**9, "it broke") == 0
    assert relieve_disk(work, 10**9, FULL) == 8 << 20
    assert not work.exists()
    assert relieve_disk(work, 10**9, FULL) == 0
    assert shutil.disk_usage(disk).free >= 12 << 20
