"""Full and read-only disks, which are real: small file systems mounted for the state folder and the outbox.

What the user sees names the fault, and when there is room again everything goes on by itself.
"""

from __future__ import annotations

import subprocess

import pytest
from faults.small_disk import fill, small_disk
from system.conftest import new_instance
from system.instance import RENDER_STUB, Instance, NewInstance, wait_until

__all__ = ["new_instance"]

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
