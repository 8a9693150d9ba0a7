"""The power fails: whatever of the unsynced is left on the disk, every job is done exactly once.

SOAK_STATES, 10 if it is not set, is how many states of the disk are tried of those found in each case; 0 tries all.
"""

from __future__ import annotations

import errno
import io
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import av
import numpy as np
import pytest
from faults.disk import Disk, State
from faults.power import Machine, observed, states_after
from faults.promise import Drop, assert_kept
from PIL import Image

from atenea import durable
from atenea.ledger_file import LEDGER
from atenea.media.segments import SegmentStore

STATES = int(os.environ.get("SOAK_STATES", "10"))
SEEDS = 3
NOTE = frozenset({".note.txt"})


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "teal").save(file, "PNG")
    return file.getvalue()


CASES = {
    "text": {"a": Drop({"a.txt": b"Hello."}, attachments=NOTE)},
    "text with picture": {"a": Drop({"a.txt": b"Hello.", "a.png": picture()}, attachments=NOTE)},
    "folder": {
        "a": Drop(
            {
                "a/job.toml": b"text_file = 'in/text'\navatar = 'face.png'\n",
                "a/in/text": b"Hello.",
                "a/face.png": picture(),
            },
            attachments=NOTE,
        )
    },
    "several": {
        "a": Drop({"news/a.txt": b"Hello."}, attachments=NOTE),
        "b": Drop({"b.toml": b"text = 'Hello.'\n"}, attachments=NOTE),
        "c": Drop({"c.toml": b"text = 5\n"}, frozenset({"failed"})),
    },
}

_RENAME = durable._renameat2


def rename_from_elsewhere(src_fd: int, src: bytes, dst_fd: int, dst: bytes, flags: int) -> int:
    """As if the inbox were another mount."""
    return errno.EXDEV if src_fd >= 0 > dst_fd else _RENAME(src_fd, src, dst_fd, dst, flags)


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a place: nothing here waits for a disk."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else tmp_path) as folder:
        yield Path(folder)


class Bench:
    """A machine that does its work once, under observation, and one for each state that a power cut may leave."""

    def __init__(self, folder: Path, drops: Mapping[str, Drop], more: str = "") -> None:
        self._folder = folder
        for name in ("machine", "vault", "plugins"):
            (folder / name).mkdir()
        machine = Machine(folder / "machine", folder / "plugins")
        machine.set_up(more)
        machine.drop(drops)
        self.root = machine.root
        self.disk = Disk(machine.root, folder / "vault", f"state/{LEDGER}")
        with observed(self.disk):
            machine.run()

    def try_states(self, name: str, check: Callable[[Path], None]) -> int:
        """Let machines go on from some of the states, and check each when it has come to rest; how many it were."""
        states = list(states_after(self.disk, SEEDS))
        chosen = random.Random(name).sample(states, min(STATES or len(states), len(states)))
        broken = [sentence for what, state in chosen if (sentence := self._broken(what, state, check))]
        print(
            f"{name}: the power failed at {len(self.disk.moments)} moments, {len(chosen)} of {len(states)} states tried"
        )
        assert broken == [], "\n".join(broken)
        return len(chosen)

    def _broken(self, what: str, state: State, check: Callable[[Path], None]) -> str:
        after = Machine(self._folder / "after", self._folder / "plugins")
        after.root.mkdir()
        state.build(after.root, self._folder / "vault", f"state/{LEDGER}")
        try:
            after.run()
            check(after.root)
        except Exception as error:
            return f"{what}: {type(error).__name__} {error}"[:500]
        finally:
            shutil.rmtree(after.root)
        return ""


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.mark.parametrize("way", ["rename", "copy"])
@pytest.mark.parametrize("case", CASES)
def test_the_power_fails_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None], case: str, way: str
) -> None:
    if way == "copy":
        monkeypatch.setattr(durable, "_renameat2", rename_from_elsewhere)
    bench = Bench(tmp_path, CASES[case])
    assert_kept(bench.root, CASES[case])
    tried = bench.try_states(f"{case}, {way}", lambda root: assert_kept(root, CASES[case]))
    record_property("After a power cut", (tried, "states of the disk"))


def test_the_power_fails_while_a_job_is_forgotten(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    bench = Bench(tmp_path, CASES["text"], "[retention]\ndone_days = 0\nhistory_days = 0\n")

    def check(root: Path) -> None:
        assert sorted(os.listdir(root / "outbox")) == ["a.json", "a.mp4", "a.note.txt"]
        assert os.listdir(root / "state" / "jobs") == os.listdir(root / "inbox" / "news") == []

    check(bench.root)
    record_property("After a power cut", (bench.try_states("a job is forgotten", check), "states of the disk"))


def test_the_power_fails_while_segments_are_written(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    (tmp_path / "vault").mkdir()
    root = tmp_path / "job"
    root.mkdir()
    disk = Disk(root, tmp_path / "vault", "no ledger")
    pictures = np.zeros((3, 64, 64, 3), np.uint8)
    with observed(disk):
        store = SegmentStore(root / "clips", {"fact": 1}, 25)
        for number in range(4):
            disk.before(f"{number} segments")
            store.add(pictures, f"state {number}".encode())

    finished = 0
    states = [(what, state) for what, state in states_after(disk, SEEDS)]
    for number, (what, state) in enumerate(states):
        if what.partition(" before ")[2][1:].startswith(" segments"):
            finished = int(what.partition(" before ")[2][0])
        after = tmp_path / f"after-{number}"
        after.mkdir()
        state.build(after, tmp_path / "vault", "no ledger")
        found = SegmentStore(after / "clips", {"fact": 1}, 25)
        assert found.count >= finished, what
        assert found.state == (f"state {found.count - 1}".encode() if found.count else None), what
        for path in found.paths:
            with av.open(str(path)) as video:
                assert sum(1 for _ in video.decode(video=0)) == len(pictures), what
    record_property("After a power cut", (len(states), "states of the disk"))
