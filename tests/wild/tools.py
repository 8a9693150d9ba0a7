"""What the tests of arrivals share: an instance that tells what it was given to speak, and programs to run."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from system.instance import PATIENCE_SECONDS, RENDER_STUB, Instance, NewInstance, wait_until

SETTLE_SECONDS = 0.2
SLOW_SETTLING = 1.5
"""Longer than a test or a program is held up between two writes, on a busy machine too."""

LIMITS = "[limits]\ntext_characters = 1_000_000\n"
PLUGINS = "[tts]\nplugin = 'telling'\n[render]\nplugin = 'stub'\n"
WATCH = "[watch]\nsettle_seconds = {settle}\nrescan_seconds = {rescan}\npolling = {polling}\n"

_TELLING = """
import time, wave

@hookimpl
def tts(job, ctx):
    said = ctx.workdir / "said"
    said.write_text(job.text)
    ctx.attach(said, ".said.txt")
    path = ctx.workdir / "speech.wav"
    with wave.open(str(path), "wb") as wav:
        wav.setparams((1, 2, 16000, 0, "NONE", ""))
        wav.writeframes(bytes(3200))
    return path
"""


def wild(
    new_instance: NewInstance,
    config: str = "",
    *,
    settle: float = SETTLE_SECONDS,
    rescan: float = 1,
    polling: bool = False,
) -> Instance:
    """An instance that leaves NAME.said.txt, what it was given to speak, beside each video; not started."""
    watch = WATCH.format(settle=settle, rescan=rescan, polling=str(polling).lower())
    limits = "" if "[limits]" in config else LIMITS
    instance: Instance = new_instance(watch + limits + PLUGINS + config)
    instance.plugin("telling", _TELLING)
    instance.plugin("stub", RENDER_STUB)
    return instance


def said(instance: Instance, name: str) -> str:
    """What the job was given to speak, once its video is there."""
    instance.output(f"{name}.mp4")
    return (instance.outbox / f"{name}.said.txt").read_text()


def taken(instance: Instance, name: str) -> int:
    """How many jobs of this name were taken."""
    return [event["name"] for event in instance.events("job taken")].count(name)


def assert_once(instance: Instance, name: str, text: str) -> None:
    """The text became one video, whole, and nothing of it is left in the inbox."""
    assert said(instance, name) == text
    assert taken(instance, name) == 1
    assert [file for file in instance.outputs() if file.startswith((f"{name}-2", f"{name}.error"))] == []
    wait_until(lambda: visible(instance.inbox, name) == [], f"{name} to leave the inbox")
    wait_until(lambda: rests(instance.inbox) == [], "no rest in the inbox")


def visible(folder: Path, prefix: str = "") -> list[str]:
    """What a user sees in a folder."""
    return sorted(name for name in os.listdir(folder) if name.startswith(prefix) and not name.startswith("."))


def rests(folder: Path) -> list[str]:
    """What atenea hides in the inbox."""
    return [name for name in os.listdir(folder) if name.startswith(".atenea-")]


def refusal(instance: Instance, name: str) -> str:
    """The first sentence of the answer to a job that failed."""
    return instance.output(f"{name}.error.txt").read_text().splitlines()[0]


def avatar(instance: Instance, name: str) -> str | None:
    """The hash of the picture that a finished job was made with."""
    instance.output(f"{name}.mp4")
    found: str | None = json.loads((instance.outbox / f"{name}.json").read_text())["inputs"].get("avatar")
    return found


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def picture(size: int = 64) -> bytes:
    """A PNG."""
    file = io.BytesIO()
    Image.new("RGB", (size, size), "red").save(file, "PNG", compress_level=0)
    return file.getvalue()


def long_text(characters: int) -> str:
    """Numbered lines, so that a torn or doubled text is seen."""
    lines = (f"This is line number {number} of it." for number in range(characters // 20))
    return "\n".join(lines)[:characters].strip()


def needs(program: str, package: str) -> str:
    """The path of a program; the test is skipped where it is missing."""
    found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if not found:
        pytest.skip(f"{program} is missing: install {package}")
    return found


def run(*command: str | Path, code: int | None = 0, text: str | None = None, **where: Any) -> str:
    """Run a program to its end, `where` as `subprocess.run` takes it; what it printed."""
    words = list(map(str, command))
    done = subprocess.run(words, capture_output=True, text=True, input=text, timeout=PATIENCE_SECONDS, **where)
    assert code is None or done.returncode == code, (command, done.returncode, done.stdout, done.stderr)
    return done.stdout


@contextmanager
def running(*command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program with its children, in a process group of their own, which is gone at the end."""
    process = subprocess.Popen(
        list(map(str, command)), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        for number in (signal.SIGKILL, signal.SIGCONT):
            send(process, number)
        process.wait(PATIENCE_SECONDS)


def send(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to a program and its children."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


def stall(process: subprocess.Popen[bytes], instance: Instance, name: str, size: int) -> None:
    """Stop an upload in its middle, until the daemon has noticed and is still waiting a while later.

    An upload that has come to its end by then, because the machine is busy, cannot be stopped any more.
    """
    wait_until(lambda: taken(instance, name), f"the part of {name} to settle")
    send(process, signal.SIGSTOP)
    [original] = (instance.folder / "state" / "jobs").glob(f"*/original/{name}.txt")
    if original.stat().st_size < size:
        time.sleep(5 * SETTLE_SECONDS)
        assert [file for file in instance.outputs() if file.startswith(f"{name}.")] == []
    send(process, signal.SIGCONT)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has, from those that no client gets by itself."""
    while True:
        port = random.randrange(10_000, 32_768)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def mount(*arguments: str | Path) -> None:
    """Mount something; the test is skipped where that is not possible."""
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"cannot be mounted here: {done.stderr.strip().splitlines()[0]}")


@contextmanager
def mounted(folder: Path, *arguments: str | Path) -> Iterator[Path]:
    """Something mounted on a folder, for a while."""
    mount(*arguments, folder)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=False, capture_output=True)
