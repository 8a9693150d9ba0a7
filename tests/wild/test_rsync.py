"""rsync in the ways that people use it; its temporary names are left alone, and so is a part with the time 0."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from system.instance import PATIENCE_SECONDS, Instance, wait_until
from wild.tools import assert_once, avatar, long_text, needs, picture, run, running, said, send, sha256, stall, taken

SLOW = "--bwlimit=200"
LONG = long_text(600_000)


@pytest.fixture(autouse=True)
def rsync() -> str:
    return needs("rsync", "rsync")


def source(tmp_path: Path, name: str, text: str = LONG) -> Path:
    path = tmp_path / f"{name}.txt"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "options",
    [(), ("-a",), ("--inplace",), ("-a", "--delay-updates"), ("-a", "--preallocate")],
    ids=["plain", "archive", "inplace", "delay-updates", "preallocate"],
)
def test_rsync(inbox: Instance, tmp_path: Path, options: tuple[str, ...]) -> None:
    name = f"rsync{''.join(options)}"
    run("rsync", *options, source(tmp_path, name), f"{inbox.inbox}/")
    assert_once(inbox, name, LONG)


def test_rsync_by_way_of_another_file_system(inbox: Instance, tmp_path: Path, other_file_system: Path) -> None:
    """`-T`: the file is copied to its final name at the end, not renamed."""
    run("rsync", "-T", other_file_system, source(tmp_path, "rsync-T"), f"{inbox.inbox}/")
    assert_once(inbox, "rsync-T", LONG)


def test_rsync_inplace_stalled(inbox: Instance, tmp_path: Path) -> None:
    """The job gets all of it, but rsync does not find the file where it was, and may say so (code 23)."""
    path = source(tmp_path, "inplace-stalled")
    with running("rsync", SLOW, "--inplace", path, f"{inbox.inbox}/") as rsync:
        stall(rsync, inbox, "inplace-stalled", len(LONG))
        assert rsync.wait(PATIENCE_SECONDS) in {0, 23}
    assert_once(inbox, "inplace-stalled", LONG)


def test_rsync_partial_interrupted(inbox: Instance, tmp_path: Path) -> None:
    """The part has the final name, but the time 0: it stays until rsync comes back for it."""
    path = source(tmp_path, "partial")
    with running("rsync", SLOW, "-a", "--partial", path, f"{inbox.inbox}/") as rsync:
        interrupt(rsync, inbox, "partial")
    part = inbox.inbox / "partial.txt"
    wait_until(part.exists, "the part")
    assert int(part.stat().st_mtime) == 0
    inbox.drop("after-partial.txt", "Another job.")
    assert_once(inbox, "after-partial", "Another job.")
    assert part.exists()
    assert taken(inbox, "partial") == 0
    run("rsync", "-a", "--partial", path, f"{inbox.inbox}/")
    assert_once(inbox, "partial", LONG)


def test_rsync_partial_without_times_interrupted(inbox: Instance, tmp_path: Path) -> None:
    """Without `-t` (or `-a`) nothing tells the part from a whole file."""
    with running("rsync", SLOW, "--partial", source(tmp_path, "timeless"), f"{inbox.inbox}/") as rsync:
        interrupt(rsync, inbox, "timeless")
    assert LONG.startswith(said(inbox, "timeless"))


def interrupt(rsync: subprocess.Popen[bytes], instance: Instance, name: str) -> None:
    """Press Ctrl-C in the middle."""
    wait_until(lambda: any(part.stat().st_size for part in instance.inbox.glob(f".{name}.txt.*")), "the upload")
    send(rsync, signal.SIGINT)
    rsync.wait(PATIENCE_SECONDS)


def test_rsync_of_a_text_with_its_picture(inbox: Instance, tmp_path: Path) -> None:
    """The picture, which comes after its text by name, still has a temporary one when the text is there."""
    path, face = source(tmp_path, "webp", "Hello."), tmp_path / "webp.webp"
    face.write_bytes(picture(size=400))
    run("rsync", SLOW, path, face, f"{inbox.inbox}/")
    assert_once(inbox, "webp", "Hello.")
    assert avatar(inbox, "webp") == sha256(face.read_bytes())
