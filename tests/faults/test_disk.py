"""Full and read-only disks, which are real: small file systems mounted for the state folder and the outbox.

What the user sees names the fault, and when there is room again everything goes on by itself.
"""

from __future__ import annotations

import signal
import subprocess

import pytest
from faults.small_disk import fill, small_disk
from system.conftest import new_instance
from system.instance import RENDER_STUB, Instance, NewInstance, wait_until

from atenea.config import load_config
from atenea.control import ask

__all__ = ["new_instance"]

DEAF = """
import time

@hookimpl
def tts(job, ctx):
    time.sleep(3600)
"""

STUB = "[render]\nplugin = 'stub'\n"


@pytest.fixture
def instance(new_instance: NewInstance) -> Instance:
    made: Instance = new_instance(STUB)
    made.plugin("stub", RENDER_STUB)
    return made


def stuck(instance: Instance, name: str, words: str) -> None:
    """Wait until `atenea jobs` says what keeps the job."""
    instance.wait_for_job(name, lambda job: words in (job["error"] or ""), f"to say {words!r}")


def test_a_full_outbox(instance: Instance) -> None:
    with small_disk(instance.outbox):
        instance.start()
        ballast = fill(instance.outbox)
        instance.drop("hello.txt", "Hello.")
        stuck(instance, "hello", "No space left on device")
        assert instance.outputs() == ["ballast"]
        ballast.unlink()
        instance.output("hello.mp4")
        instance.wait_for_state("hello", "done")
        assert instance.outputs() == ["hello.json", "hello.mp4"]
        assert [step["failures"] for step in instance.job("hello")["steps"]] == [0] * 6
        instance.stop()


def test_a_read_only_outbox(instance: Instance) -> None:
    with small_disk(instance.outbox):
        instance.start()
        subprocess.run(["mount", "-o", "remount,ro", instance.outbox], check=True)
        instance.drop("hello.txt", "Hello.")
        stuck(instance, "hello", "Read-only file system")
        subprocess.run(["mount", "-o", "remount,rw", instance.outbox], check=True)
        instance.output("hello.mp4")
        assert instance.outputs() == ["hello.json", "hello.mp4"]
        instance.stop()


def test_a_full_state_folder(instance: Instance) -> None:
    state = instance.folder / "state"
    with small_disk(state):
        instance.start()
        ballast = fill(state)
        instance.drop("hello.txt", "Hello.")
        wait_until(
            lambda: [event for event in instance.events() if "No space left" in str(event) or "is full" in str(event)],
            "the full disk to be told",
        )
        assert instance.outputs() == []
        ballast.unlink()
        instance.output("hello.mp4")
        wait_until(lambda: instance.outputs() == ["hello.json", "hello.mp4"], "both files")
        assert len(instance.ask("jobs")["jobs"]) == 1
        instance.stop()


def test_a_daemon_that_starts_on_a_full_disk_says_so(instance: Instance) -> None:
    state = instance.folder / "state"
    with small_disk(state):
        ballast = fill(state)
        told = instance.atenea("run", code=None)
        assert told.returncode != 0
        assert "Traceback" not in told.stderr
        assert "No space left on device" in told.stderr or "disk is full" in told.stderr
        ballast.unlink()
        instance.start()
        instance.drop("hello.txt", "Hello.")
        instance.output("hello.mp4")
        instance.stop()


def test_a_cancel_on_a_full_state_folder(new_instance: NewInstance) -> None:
    instance: Instance = new_instance("[tts]\nplugin = 'deaf'\n[workers]\ncpu = 1\ncancel_seconds = 0.1\n")
    instance.plugin("deaf", DEAF)
    state = instance.folder / "state"
    with small_disk(state, 16):
        instance.start()
        for name in ("running", "queued"):
            instance.drop(f"{name}.txt", "Hello.")
            wait_until(lambda: [e for e in instance.events("job accepted") if e["name"] == name], f"{name} to be read")  # noqa: B023
        wait_until(lambda: instance.events("stage started"), "the stage to begin")
        grow_log(instance)
        ballast = fill(state)
        refused = instance.atenea("cancel", "queued", code=1)
        folder = state / "jobs" / instance.job("queued")["id"]
        assert refused.stderr == (
            f"atenea: {state}: No space left on device; when that is mended, give the command again\n"
        )
        instance.atenea("cancel", "running")
        wait_until(lambda: instance.events("the job cannot be cancelled now; it is tried again"), "it to be told")
        assert not (folder / "record.json").exists()
        instance.stop(signal.SIGKILL)
        instance.start()
        stuck(instance, "running", "No space left on device")
        ballast.unlink()
        instance.wait_for_state("running", "cancelled")
        instance.atenea("cancel", "queued")
        assert instance.stop() == 0
        assert not [event for event in instance.events() if "Traceback" in str(event)]


def grow_log(instance: Instance) -> None:
    """Change the ledger so often that its write-ahead log, which stays as long as it was, has room for more."""
    config = load_config(instance.folder / "atenea.toml")
    for _ in range(700):
        ask(config, "pause")
        ask(config, "resume")
