"""README's first command in a clean copy of the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What a clone would have: the tracked files, and those that are about to be."""
    for program in ("git", "make"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    listed = subprocess.run(
        ["git", "-C", str(REPOSITORY), "ls-files", "-coz", "--exclude-standard"], capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("this is no git checkout")
    folder = tmp_path / "atenea"
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)
    return folder


def make_run(folder: Path) -> str:
    """What `make run` prints."""
    inherited = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "VENV", "VIRTUAL_ENV", "PYTHONPATH"}
    environment = {name: value for name, value in os.environ.items() if name not in inherited}
    environment["PYTHON"] = os.path.realpath(sys.executable)
    done = subprocess.run(["make", "run"], cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


def says_of_itself(folder: Path, video: Path) -> str:
    """What the new installation reads from a video."""
    command = [folder / ".venv/bin/atenea", "show", "--provenance", video]
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=True).stdout
    return said.partition(": ")[2].partition(";")[0]


def test_make_run_leaves_a_video_and_prints_its_path(copy: Path) -> None:
    outbox = copy / "outbox"
    assert make_run(copy).splitlines()[-1] == str(outbox / "hello.mp4")
    first = ["hello.jpg", "hello.json", "hello.mp4"]
    assert sorted(path.name for path in outbox.glob("[!.]*")) == first
    assert (outbox / "hello.mp4").read_bytes()[4:8] == b"ftyp"
    assert says_of_itself(copy, outbox / "hello.mp4") == "made by AI: yes"
    assert (copy / "examples" / "hello.txt").is_file()

    assert make_run(copy).splitlines()[-1] == str(outbox / "hello-2.mp4")
    assert sorted(path.name for path in outbox.glob("[!.]*")) == [
        *["hello-2.jpg", "hello-2.json", "hello-2.mp4"],
        *first,
    ]
    assert sorted(path.name for path in (copy / "inbox").glob("[!.]*")) == []
