"""Whether the daemon gets on: what keeps the signs of life coming, and what stops them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from itertools import count
from threading import Event

import pytest
from system.instance import wait_until

from atenea import threads
from atenea.pulse import Pulse
from atenea.threads import in_thread


class Clock:
    """Stands until a test sets it."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_loop_stands_still_when_it_does_not_come_round_in_time(clock: Clock) -> None:
    pulse = Pulse(clock)
    assert pulse.standstill() == 0
    pulse.due("schedule", 60)
    pulse.due("inbox", 5)
    clock.now += 5
    assert pulse.standstill() == 0
    clock.now += 65
    assert pulse.standstill() == 65
    pulse.due("inbox", 5)
    assert pulse.standstill() == 10
    pulse.due("schedule", 60)
    assert pulse.standstill() == 0


def test_a_loop_at_work_may_take_its_time(clock: Clock) -> None:
    pulse = Pulse(clock)
    pulse.due("inbox", 5)
    pulse.at_work("inbox")
    clock.now += 10_000
    assert pulse.standstill() == 0


@pytest.fixture
def gate() -> Iterator[tuple[int, int]]:
    """The ends of a pipe that nobody writes into."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def watched(work: Callable[[], object], look: Callable[[], None]) -> None:
    """Look, from outside, at work in a thread."""

    async def run() -> None:
        task = asyncio.create_task(in_thread(work))
        await asyncio.sleep(0)
        await asyncio.to_thread(wait_until, lambda: threads.standstill() is not None, "the thread")
        await asyncio.to_thread(look)
        await task

    asyncio.run(run())
    assert threads.standstill() is None


def test_work_that_hangs_in_a_system_call_stands_still(gate: tuple[int, int]) -> None:
    def look() -> None:
        wait_until(lambda: (threads.standstill() or 0) > 0.2, "the standstill")
        assert Pulse().standstill() > 0.2
        os.write(gate[1], b"x")

    watched(lambda: os.read(gate[0], 1), look)


def test_work_that_gets_on_does_not_however_long_it_takes() -> None:
    calls, enough = count(), Event()
    made = 0

    def work() -> None:
        nonlocal made
        while not enough.is_set():  # short calls, as a long copy makes them
            os.stat("/")
            made = next(calls)

    def look() -> None:
        for _ in range(3):
            before = made
            wait_until(lambda before=before: made > before + 1000, "the work to get on")
            assert threads.standstill() == 0
        enough.set()

    watched(work, look)


def test_other_work_that_gets_on_does_not_hide_what_hangs(gate: tuple[int, int]) -> None:
    async def run() -> None:
        hangs = asyncio.create_task(in_thread(os.read, gate[0], 1))
        while (threads.standstill() or 0) < 0.2:
            await in_thread(os.stat, "/")
        os.write(gate[1], b"x")
        await hangs

    asyncio.run(run())
