"""The steps of taking and publishing, counted: each system call that changes the disk, and each commit of the ledger.

`watched` tells of every step just before it is made, so that a test can end the process there, or look at the disk.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest import mock

from atenea import durable
from atenea.inbox.taking import Taker
from atenea.ledger import Ledger
from atenea.step_runner import StepRunner

_CALLS = frozenset(
    {"mkdir", "link", "unlink", "rmdir", "rename", "replace", "fsync", "write", "utime", "chmod", "open"}
)
_COMMITS = (
    *("add_taken", "copy_finished", "begin", "plan", "complete", "give_up", "choose_stem", "publish", "finish"),
    *("measured", "cleaned", "gone", "forget"),
)
END = "end"
"""The step after the last one of a sequence."""


class Step(NamedTuple):
    """One step.

    Attributes:
        sequence: "taking", "recovery" or "publishing"; "" outside of them.
        about: the job's name, or the path of the first file that is taken.
        number: counted from 0 within the sequence.
        call: the system call, or "commit" with the ledger's method.
    """

    sequence: str
    about: str
    number: int
    call: str


NOTHING = Step("", "", 0, "")
"""Told when a sequence has ended."""


class _Steps:
    def __init__(self, on_step: Callable[[Step], None]) -> None:
        self._on_step = on_step
        self._here = threading.local()

    def made(self, call: str) -> None:
        sequence, about, number = getattr(self._here, "now", ("", "", 0))
        self._here.now = sequence, about, number + 1
        self._on_step(Step(sequence, about, number, call))

    def counted(self, call: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            self.made(call)
            return function(*args, **kwargs)

        return step

    def delimited(self, naming: Callable[..., tuple[str, str]], function: Callable[..., Any]) -> Callable[..., Any]:
        def sequence(*args: Any) -> Any:
            self._here.now = (*naming(*args), 0)
            try:
                result = function(*args)
                self.made(END)
                return result
            finally:
                self._here.now = "", "", 0
                self._on_step(NOTHING)

        return sequence


class _Os:
    """`os` for `durable`."""

    def __init__(self, steps: _Steps) -> None:
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        function = getattr(os, name)
        if name not in _CALLS:
            return function
        if name != "open":
            return self._steps.counted(name, function)
        creating = self._steps.counted(name, function)
        return lambda path, flags, *more, **at: (creating if flags & os.O_CREAT else function)(path, flags, *more, **at)


@contextmanager
def watched(on_step: Callable[[Step], None]) -> Iterator[None]:
    """Tell of every step of this process."""
    steps = _Steps(on_step)
    with ExitStack() as stack:

        def patch(owner: Any, name: str, value: Any) -> None:
            stack.enter_context(mock.patch.object(owner, name, value))

        patch(durable, "os", _Os(steps))
        for name in ("_renameat2", "_syncfs"):
            patch(durable, name, steps.counted(name.strip("_"), getattr(durable, name)))
        for name in _COMMITS:
            patch(Ledger, name, steps.counted(f"commit {name}", getattr(Ledger, name)))
        patch(Taker, "take", steps.delimited(_name_of_taking, Taker.take))
        patch(Taker, "recover", steps.delimited(lambda _: ("recovery", ""), Taker.recover))
        publish = StepRunner._publish_now
        patch(StepRunner, "_publish_now", steps.delimited(lambda _, job, __: ("publishing", job.name), publish))
        yield


def _name_of_taking(_taker: Taker, candidates: Any) -> tuple[str, str]:
    return ("taking", candidates[0].relative) if candidates else ("", "")
