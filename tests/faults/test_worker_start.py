"""No process, or no descriptor, for a new worker: limits that are really lowered under a running daemon."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from system.conftest import new_instance
from system.instance import RENDER_STUB, Instance, NewInstance, wait_until

from atenea.rests import Rests

__all__ = ["new_instance"]

NOBODY = "65534"
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
FILES = "+dac_override,+dac_read_search"

GATED = """
needs = {{"network"}}

@hookimpl
def tts(job, ctx):
    import time, wave
    Path({folder!r}, "begun").touch()
    while not Path({folder!r}, "open").exists():
        ctx.progress(0.5)
        time.sleep(0.01)
    path = ctx.workdir / "speech.wav"
    with wave.open(str(path), "wb") as wav:
        wav.setparams((1, 2, 16000, 0, "NONE", ""))
        wav.writeframes(bytes(3200))
    return path
"""


CONFIG = "[tts]\nplugin = 'gated'\n[render]\nplugin = 'stub'\n[retry]\nattempts = 1\n"


class CommonInstance(Instance):
    """As somebody who is held to limits on processes, as root is not, but may run this Python wherever it lies."""

    def command(self, *arguments: str) -> list[str]:
        subprocess.run(["chown", "-R", NOBODY, self.folder], check=True)
        return [*AS_NOBODY, f"--inh-caps={FILES}", f"--ambient-caps={FILES}", *super().command(*arguments)]


@pytest.fixture
def common_instance(new_instance: NewInstance) -> Iterator[Instance]:
    """An instance of an ordinary user."""
    if os.geteuid() != 0:
        yield new_instance(CONFIG)
        return
    if not shutil.which("setpriv"):
        pytest.skip("root may start as many processes as it likes, and there is no setpriv to be somebody else")
    with tempfile.TemporaryDirectory() as folder:
        made = CommonInstance(Path(folder), CONFIG)
        yield made
        if made.process:
            made.stop(signal.SIGKILL)


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def limit(instance: Instance, name: str, value: int) -> None:
    """Set a limit of the running daemon, who may raise it again."""
    assert instance.process
    prefix = AS_NOBODY if isinstance(instance, CommonInstance) else []
    subprocess.run([*prefix, "prlimit", f"--pid={instance.process.pid}", f"--{name}={value}:"], check=True)


def hold_up(instance: Instance, name: str, least: Callable[[int], int], reason: str) -> None:
    """Lower the limit under a daemon at work, see what it says, and lift it."""
    instance.plugin("gated", GATED.format(folder=str(instance.folder)))
    instance.plugin("stub", RENDER_STUB)
    instance.start()
    assert instance.process
    pid = instance.process.pid
    instance.drop("hello.txt", "Hello.")
    wait_until((instance.folder / "begun").exists, "the first stage")
    limit(instance, name, least(pid))
    (instance.folder / "open").touch()
    wait_until(lambda: started(instance, "audio") > 1, "the next stage to be tried again")
    (told,) = instance.events("no worker can be started; it is tried again")
    assert reason in told["error"]
    limit(instance, name, 4096)
    instance.output("hello.mp4")
    assert len(instance.events("workers can be started again")) == 1
    shown = instance.job("hello")
    assert [step["failures"] for step in shown["steps"]] == [0] * 6
    assert {attempt["outcome"] for attempt in shown["attempts"]} == {"done"}
    assert instance.stop() == 0
    assert not [event for event in instance.events() if "Traceback" in str(event)]


def test_no_descriptor_for_a_worker(new_instance: NewInstance) -> None:
    hold_up(new_instance(CONFIG), "nofile", descriptors, "Too many open files")


def test_no_process_for_a_worker(common_instance: Instance) -> None:
    hold_up(common_instance, "nproc", lambda _pid: 1, "Resource temporarily unavailable")


def started(instance: Instance, stage: str) -> int:
    return [event["stage"] for event in instance.events("stage started")].count(stage)


def test_rests_grow_until_they_are_over() -> None:
    now = 0.0
    rests = Rests(lambda: now)
    waits = []
    for _ in range(8):
        rests.begin("cpu", "no process")
        assert rests.reason("cpu") == "no process"
        assert rests.reason("gpu") is None
        wait = rests.next_end()
        assert wait is not None
        waits.append(wait)
        now += wait
        assert rests.reason("cpu") is None
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert (rests.next_end(), len(rests)) == (None, 0)
    rests.over("cpu")
    rests.begin("cpu", "no process")
    assert rests.next_end() == 1
