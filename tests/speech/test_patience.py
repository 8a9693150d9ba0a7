"""Trying again."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from atenea import PermanentError, TransientError
from atenea.speech.patience import Patience, retry_after


class Attempt:
    """Fails so often, then gives 1."""

    def __init__(self, failures, error=None):
        self.failures = failures
        self.error = error or TransientError("busy")
        self.count = 0
        self.times = []

    async def __call__(self):
        self.count += 1
        self.times.append(time.monotonic())
        if self.count <= self.failures:
            raise self.error
        return self.count


def persist(attempt, seconds=60.0, before=lambda patience: None, **options):
    async def run():
        patience = Patience(seconds, **{"first_delay": 0.01, **options})
        before(patience)
        return await patience.persist(attempt)

    return asyncio.run(run())


def test_it_goes_on_until_it_works_with_growing_delays():
    delays = []
    assert persist(Attempt(4), on_failure=lambda error, delay: delays.append(delay)) == 5
    assert [0.01 * 2**n * 0.75 <= delay <= 0.01 * 2**n for n, delay in enumerate(delays)] == [True] * 4


def test_it_gives_up():
    attempt = Attempt(100)
    with pytest.raises(TransientError, match="busy"):
        persist(attempt, attempts=3)
    assert attempt.count == 3


@pytest.mark.parametrize("error", [PermanentError("no"), ValueError("no"), TimeoutError("no")])
def test_other_errors_pass(error):
    attempt = Attempt(1, error)
    with pytest.raises(type(error), match="no"):
        persist(attempt)
    assert attempt.count == 1


def test_nothing_is_tried_again_after_stop():
    attempt = Attempt(1)
    with pytest.raises(TransientError):
        persist(attempt, before=Patience.stop)
    assert attempt.count == 1


def test_the_time_is_over_in_the_middle_of_an_attempt():
    async def endless():
        await asyncio.sleep(30)

    with pytest.raises(TransientError, match=r"not done within 0\.05 seconds; what is spoken so far is kept"):
        persist(endless, seconds=0.05)


def test_a_wait_beyond_the_end_is_not_begun():
    attempt = Attempt(1, TransientError("busy", retry_after=500))
    started = time.monotonic()
    with pytest.raises(TransientError):
        persist(attempt, seconds=100)
    assert time.monotonic() - started < 60


def test_a_limit_of_one_holds_all():
    one, other = Attempt(1, TransientError("busy", retry_after=0.3)), Attempt(0)

    async def run():
        patience = Patience(60)
        first = asyncio.create_task(patience.persist(one))
        await asyncio.sleep(0.05)
        await patience.persist(other)
        await first

    asyncio.run(run())
    assert other.times[0] - one.times[0] >= 0.3


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "20"}, 20),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "20"}, 1.5),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)}, 0),
    ],
)
def test_what_servers_ask_for(headers, seconds):
    assert retry_after(headers) == seconds


def test_a_date_is_a_time_to_wait_for():
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 90 < retry_after({"retry-after": moment}) <= 100
