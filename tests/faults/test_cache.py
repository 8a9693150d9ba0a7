"""A cache of paid speech on a full or read-only disk: nothing is paid twice, and the job succeeds."""

from __future__ import annotations

import asyncio
import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from faults.small_disk import fill, small_disk
from plugins.openai_server import SpeechServer
from system.conftest import new_instance
from system.instance import RENDER_STUB, Instance, NewInstance, wait_until

from atenea.speech.cache import SoundCache, entry_name
from atenea.speech.sound import Sound

__all__ = ["new_instance"]

NAMES = [entry_name({"number": number}) for number in range(3)]
FIRST = "Twenty boats lay in the harbour that year, and nobody had painted one of them since the war. " * 9
SECOND = "In the spring a letter came from the capital, and with it a man who had never seen the sea. " * 9


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for little more than a cache asks for."""
    folder = tmp_path / "disk"
    with small_disk(folder, 24):
        yield folder


class Maker:
    """Makes the same second of noise again and again."""

    def __init__(self, disk: Path | None = None) -> None:
        self.paid = 0
        self._disk = disk

    async def __call__(self) -> Sound:
        self.paid += 1
        if self._disk:
            fill(self._disk)  # what others write meanwhile
        return Sound(np.arange(24_000, dtype="<i2"), {})


def test_a_disk_that_fills_up_while_a_piece_is_made(disk: Path, tmp_path: Path) -> None:
    told: list[OSError] = []
    cache = SoundCache(disk, 10**9, refuge=tmp_path / "refuge", on_trouble=told.append)
    make = Maker(disk)
    sounds = [asyncio.run(cache.get(name, make))[0] for name in (*NAMES, *NAMES)]
    assert make.paid == len(NAMES)
    assert {sound.samples.tobytes() for sound in sounds} == {np.arange(24_000, dtype="<i2").tobytes()}
    assert [error.errno for error in told] == [errno.ENOSPC]
    assert sorted(path.stem for path in (tmp_path / "refuge").iterdir()) == sorted(NAMES)
    assert [path.name for path in disk.iterdir()] == ["ballast"]
    # The job's next attempt, when there is room again.
    (disk / "ballast").unlink()
    again = SoundCache(disk, 10**9, refuge=tmp_path / "refuge")
    assert asyncio.run(again.get(NAMES[0], make))[1] is False


def test_where_no_piece_can_be_kept_none_is_paid(disk: Path, tmp_path: Path) -> None:
    fill(disk)
    make = Maker()
    for cache in (SoundCache(disk, 10**9), SoundCache(disk, 10**9, refuge=disk / "refuge")):
        with pytest.raises(OSError, match="No space left on device"):
            asyncio.run(cache.get(NAMES[0], make))
    assert make.paid == 0


def test_what_a_read_only_cache_has_is_used(disk: Path, tmp_path: Path) -> None:
    make = Maker()
    kept, spoiled, new = NAMES
    for name in (kept, spoiled):
        asyncio.run(SoundCache(disk, 10**9).get(name, make))
    (disk / f"{spoiled}.sound").write_bytes(b"{}\n")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    told: list[OSError] = []
    cache = SoundCache(disk, 0, spare_seconds=-60, refuge=tmp_path / "refuge", on_trouble=told.append)
    assert [asyncio.run(cache.get(name, make))[1] for name in (kept, spoiled, new)] == [False, True, True]
    cache.trim()
    assert [cache.find(name) is not None for name in NAMES] == [True, True, True]
    assert [error.errno for error in told] == [errno.EROFS]


def test_a_piece_that_cannot_be_read_is_made_again(tmp_path: Path) -> None:
    make = Maker()
    cache = SoundCache(tmp_path, 10**9)
    (tmp_path / f"{NAMES[0]}.sound").symlink_to("/proc/self/mem")  # which answers EIO, as a bad sector does
    assert asyncio.run(cache.get(NAMES[0], make))[1] is True
    assert asyncio.run(cache.get(NAMES[0], make))[1] is False
    assert make.paid == 1


def speaking(new_instance: NewInstance, server: SpeechServer) -> Instance:
    instance: Instance = new_instance(
        "[tts]\nplugin = 'openai'\n"
        f"[tts.openai]\nmodel = 'tts-1'\nbase_url = '{server.base_url}'\nparallel = 1\n[render]\nplugin = 'stub'\n",
        OPENAI_API_KEY="sk-secret-0123456789",
    )
    instance.plugin("stub", RENDER_STUB)
    return instance


@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_a_job_pays_once_without_a_cache(new_instance: NewInstance, fault: str) -> None:
    with SpeechServer() as server:
        server.script.extend(["ok", "quota"])
        instance = speaking(new_instance, server)
        cache = instance.folder / "cache"
        with small_disk(cache, 24):
            instance.start()
            if fault == "full":
                (cache / "openai").mkdir()
                fill(cache)
            else:
                subprocess.run(["mount", "-o", "remount,ro", cache], check=True)
            instance.drop("hello.txt", f"{FIRST}\n\n{SECOND}")
            assert "no credit left" in instance.output("hello.error.txt").read_text()
            instance.atenea("retry", "hello")
            instance.output("hello.mp4")
            wait_until(lambda: not (instance.outbox / "hello.error.txt").exists(), "the old answer to go")
            assert sorted(server.paid.values()) == [1, 1]
            told = [event for event in instance.events() if event["event"].startswith("the cache can")]
            assert [event["level"] for event in told if event["plugin"] == "openai"] == ["warning"] * 2  # attempts
            instance.stop()
