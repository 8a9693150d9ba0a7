"""Which steps start now, and when a failed one is tried again."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atenea.config import Retry
from atenea.rows import JobRow, join_needs, split_needs
from atenea.scheduler import choose, free_slots, may_try_again, retry_delay

_KINDS = ("cpu", "network", "gpu", "intake", "publish")


def row(job_id: str, needs: str | frozenset[str], priority: int = 0) -> JobRow:
    """A job whose next step needs this."""
    return JobRow(
        id=job_id,
        name="a",
        state="queued",
        preset=None,
        priority=priority,
        position=1,
        needs=needs if isinstance(needs, str) else join_needs(needs),
        created=0,
        started=None,
        finished=None,
        not_before=0,
        deaths=0,
        relative="a.txt",
        source={},
        fingerprint="",
        refusal=None,
        waiting={},
        content=None,
        stem=None,
        publishing=None,
        outputs={},
        error=None,
        details=None,
        cleaned=False,
    )


def chosen(ready: list[JobRow], **free: int) -> list[str]:
    return [job.id for job in choose(ready, free)]


def test_by_priority_then_by_age() -> None:
    ready = [row("3", "cpu"), row("1", "cpu"), row("4", "cpu", 7), row("2", "cpu", -1)]
    assert chosen(ready, cpu=9) == ["4", "1", "3", "2"]
    assert chosen(ready, cpu=2) == ["4", "1"]
    assert chosen(ready, cpu=0) == []


def test_a_job_that_does_not_fit_does_not_hold_up_one_with_other_needs() -> None:
    ready = [row("1", "gpu", 9), row("2", "gpu", 9), row("3", "cpu"), row("4", "network")]
    assert chosen(ready, gpu=1, cpu=1, network=1) == ["1", "3", "4"]
    assert chosen(ready, gpu=0, cpu=1, network=1) == ["3", "4"]


def test_a_step_with_two_needs_takes_both_or_none() -> None:
    ready = [row("1", "gpu,network"), row("2", "network"), row("3", "gpu")]
    assert chosen(ready, gpu=1, network=1) == ["1"]
    assert chosen(ready, gpu=0, network=1) == ["2"]
    assert chosen(ready, gpu=1, network=2) == ["1", "2"]


def test_a_need_that_nobody_serves_never_starts() -> None:
    assert chosen([row("1", "quantum")], cpu=5) == []


_NEEDS = st.frozensets(st.sampled_from(_KINDS), min_size=1, max_size=3)
_FREE = st.dictionaries(st.sampled_from(_KINDS), st.integers(-2, 4))
_READY = st.lists(st.tuples(_NEEDS, st.integers(-2, 2)), max_size=12).map(
    lambda jobs: [row(f"{n:02}", needs, priority) for n, (needs, priority) in enumerate(jobs)]
)


@given(_READY, _FREE, st.randoms())
def test_what_starts_fits_is_in_order_and_leaves_no_room(ready: list[JobRow], free: dict[str, int], random) -> None:  # type: ignore[no-untyped-def]
    shuffled = random.sample(ready, len(ready))
    started = choose(shuffled, free)
    used = Counter(need for job in started for need in split_needs(job.needs or ""))
    assert all(count <= free.get(need, 0) for need, count in used.items())
    order = sorted(ready, key=lambda job: (-job.priority, job.id))
    assert started == [job for job in order if job in started]
    # Whoever stays found no room after those before it, so only a need of its own can have held it up.
    for position, job in enumerate(order):
        before = Counter(n for j in order[:position] if j in started for n in split_needs(j.needs or ""))
        fits = all(free.get(need, 0) - before[need] > 0 for need in split_needs(job.needs or ""))
        assert fits == (job in started)


@given(st.dictionaries(st.sampled_from(_KINDS), st.integers(0, 5)), st.lists(_NEEDS, max_size=8))
def test_free_is_capacity_less_what_runs(capacity: dict[str, int], running: list[frozenset[str]]) -> None:
    before = dict(capacity)
    free = free_slots(capacity, running)
    for kind in _KINDS:
        assert free.get(kind, 0) == before.get(kind, 0) - sum(kind in needs for needs in running)
    assert capacity == before


# Retries

_RETRY = Retry(attempts=4, first_seconds=10, factor=3, max_seconds=1000, worker_deaths=3)


@given(st.integers(0, 10_000))
def test_delays_grow_to_a_limit_with_some_jitter(failures: int) -> None:
    expected = min(10.0 * 3.0 ** min(failures, 20), 1000.0)
    assert 0.8 * expected <= retry_delay(failures, _RETRY) <= 1.2 * expected


def test_each_delay_is_longer_than_the_one_before_until_the_limit() -> None:
    delays = [retry_delay(failures, _RETRY) for failures in range(4)]
    assert delays == sorted(delays)


def test_many_do_not_come_at_once() -> None:
    assert len({retry_delay(1, _RETRY) for _ in range(20)}) > 1


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        (500.0, 500.0, 500.0),
        (1.0, 8.0, 12.0),
        (-5.0, 8.0, 12.0),
        (float("nan"), 8.0, 12.0),
        (1e99, 86_400.0, 86_400.0),
        (float("inf"), 86_400.0, 86_400.0),
    ],
)
def test_what_the_other_side_asked_for_is_the_least_up_to_a_day(asked: float, least: float, most: float) -> None:
    assert least <= retry_delay(0, _RETRY, asked) <= most


@pytest.mark.parametrize(
    ("failures", "deaths", "again"), [(1, 0, True), (3, 2, True), (4, 0, False), (1, 3, False), (9, 9, False)]
)
def test_attempts_and_deaths_have_an_end(failures: int, deaths: int, again: bool) -> None:
    assert may_try_again(failures, deaths, _RETRY) is again
