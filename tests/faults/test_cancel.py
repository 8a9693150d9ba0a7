"""A cancel is kept whatever happens to the daemon before the step has stopped."""

from __future__ import annotations

import signal

from system.conftest import new_instance
from system.instance import Instance, NewInstance, wait_until

__all__ = ["new_instance"]

DEAF = """
import time

@hookimpl
def tts(job, ctx):
    with Path({folder!r}, "calls").open("a") as calls:
        print(job.name, file=calls)
    time.sleep(3600)
"""


def test_a_cancel_outlives_a_daemon_that_is_killed(new_instance: NewInstance) -> None:
    instance: Instance = new_instance("[tts]\nplugin = 'deaf'\n[workers]\ncpu = 2\ncancel_seconds = 3600\n")
    instance.plugin("deaf", DEAF.format(folder=str(instance.folder)))
    calls = instance.folder / "calls"
    instance.start()
    instance.drop("hello.txt", "Hello.")
    wait_until(calls.exists, "the stage to begin")
    instance.atenea("cancel", "hello")
    assert instance.job("hello")["state"] == "tts"
    instance.stop(signal.SIGKILL)
    instance.start()
    shown = instance.job("hello")
    assert shown["state"] == "cancelled"
    assert [attempt["outcome"] for attempt in shown["attempts"]] == ["done", "cut short"]
    # It is not begun again, and one that is wanted again is.
    instance.drop("next.txt", "Next.")
    wait_until(lambda: calls.read_text() == "hello\nnext\n", "the next job's stage")
    instance.atenea("retry", "hello")
    wait_until(lambda: calls.read_text() == "hello\nnext\nhello\n", "the first job's stage")
    instance.stop(signal.SIGKILL)
