"""The cache of pieces that were paid for."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atenea.speech.cache import SoundCache, entry_name
from atenea.speech.sound import Sound

NAME = entry_name({"text": "Hello."})


def sound(length=1000, **notes):
    return Sound(np.arange(length, dtype="<i2"), notes)


class Maker:
    """Counts how often it made a sound."""

    def __init__(self, made=None, error=None):
        self.made = made or sound()
        self.error = error
        self.count = 0

    async def __call__(self):
        self.count += 1
        await asyncio.sleep(0.01)
        if self.error:
            raise self.error
        return self.made


@pytest.fixture
def cache(tmp_path):
    return SoundCache(tmp_path, 10**9)


def get(cache, make, name=NAME, **options):
    return asyncio.run(cache.get(name, make, **options))


def test_a_piece_is_made_once(cache, tmp_path):
    make = Maker(sound(1000, differences=["a"]))
    first, made = get(cache, make)
    again, made_again = get(cache, make)
    assert (made, made_again, make.count) == (True, False, 1)
    assert np.array_equal(first.samples, again.samples)
    assert again.notes == {"differences": ["a"]}
    assert os.listdir(tmp_path) == [f"{NAME}.sound"]


@settings(max_examples=40)
@given(st.dictionaries(st.text(), st.one_of(st.text(), st.floats(allow_nan=False, allow_infinity=False)), min_size=1))
def test_names_are_the_same_for_the_same_facts_in_any_order(facts):
    name = entry_name(facts)
    assert name == entry_name(dict(reversed(facts.items())))
    assert len(name) == 64 and set(name) <= set("0123456789abcdef")
    for key in facts:
        assert entry_name({**facts, key: [facts[key]]}) != name


def test_a_failure_leaves_nothing(cache, tmp_path):
    with pytest.raises(ValueError, match="no"):
        get(cache, Maker(error=ValueError("no")))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-2],
        lambda data: b"",
        lambda data: data + b"xx",
        lambda data: data[:-1] + b"\xff",
        lambda data: data.replace(b"notes", b"noten"),
        lambda data: b"[1]\n",
        lambda data: b"\xff" + data,
        lambda data: data[:20],
    ],
)
def test_a_damaged_entry_is_made_again(cache, tmp_path, spoil):
    make = Maker()
    get(cache, make)
    path = tmp_path / f"{NAME}.sound"
    path.write_bytes(spoil(path.read_bytes()))
    assert cache.find(NAME) is None
    assert not path.exists()
    assert get(cache, make)[1]
    assert make.count == 2


def test_an_entry_that_will_not_do_is_replaced(cache):
    get(cache, Maker(sound(10, kept="in spite")))
    better, made = get(cache, Maker(sound(20)), accept=lambda found: not found.notes)
    assert (made, len(better.samples), len(cache.find(NAME).samples)) == (True, 20, 20)


def test_tasks_that_want_the_same_pay_once(cache):
    make = Maker()

    async def all_at_once():
        return await asyncio.gather(*(cache.get(NAME, make) for _ in range(5)))

    assert sum(made for _, made in asyncio.run(all_at_once())) == make.count == 1


HOLDER = """
import asyncio, sys
from pathlib import Path
from atenea.speech.cache import SoundCache

async def make():
    print("made", flush=True)
    sys.stdin.readline()
    raise SystemExit

asyncio.run(SoundCache(Path(sys.argv[1]), 0).get(sys.argv[2], make))
"""


@pytest.fixture
def holder(tmp_path):
    """Another process in the middle of making the piece."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path, NAME], stdin=-1, stdout=-1, text=True)
    assert process.stdout.readline() == "made\n"
    yield process
    process.kill()
    process.communicate()


def test_another_process_is_waited_for_and_its_death_noticed(cache, holder, tmp_path):
    waits = []

    def waiting():
        waits.append(time.monotonic())
        if len(waits) == 3:
            holder.kill()

    make = Maker()
    assert get(cache, make, waiting=waiting)[1]
    assert len(waits) >= 3
    assert make.count == 1
    assert os.listdir(tmp_path) == [f"{NAME}.sound"]


def test_waiting_can_be_given_up(cache, holder):
    async def impatient():
        await asyncio.wait_for(cache.get(NAME, Maker()), 0.3)

    with pytest.raises(TimeoutError):
        asyncio.run(impatient())


def names(count):
    return [entry_name({"number": number}) for number in range(count)]


def fill(cache, tmp_path, ages):
    """Entries that were last used so many seconds ago; each has 2000 bytes of samples."""
    for name, age in zip(names(len(ages)), ages, strict=True):
        get(cache, Maker(), name)
        moment = time.time() - age
        os.utime(tmp_path / f"{name}.sound", (moment, moment))


def test_what_was_used_longest_ago_goes_first(tmp_path):
    cache = SoundCache(tmp_path, 6500, spare_seconds=60)
    fill(cache, tmp_path, [5000, 4000, 3000, 2000, 1000])
    assert cache.find(names(5)[0])  # which makes it the latest
    cache.trim()
    assert [cache.find(name) is not None for name in names(5)] == [True, False, False, True, True]


def test_what_a_running_job_uses_stays_in_spite_of_the_limit(tmp_path):
    cache = SoundCache(tmp_path, 0, spare_seconds=60)
    fill(cache, tmp_path, [100, 50, 0])
    cache.trim()
    assert [cache.find(name) is not None for name in names(3)] == [False, True, True]


def test_what_crashes_left_is_removed_when_it_is_old(cache, tmp_path, holder):
    old = time.time() - 100_000
    for name in (".0123456789abcdef.tmp", "gone.lock", "young.lock"):
        (tmp_path / name).touch()
    for name in (".0123456789abcdef.tmp", "gone.lock", f"{NAME}.lock"):
        os.utime(tmp_path / name, (old, old))
    cache.trim()
    assert sorted(os.listdir(tmp_path)) == sorted(["young.lock", f"{NAME}.lock"])
