"""`atenea models download` and `atenea models verify`, run as people run them, against a hub on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from models.command import PATIENCE_SECONDS, Command
from models.hub_server import Failure, FakeHub

from atenea.doctor import bundle_findings
from atenea.models.lockfile import only_downloader
from atenea.models.manifest import COMMIT, PARTS, REPOSITORY, wanted_paths

NET = "hallo2/net.pth"
CONFIG = "sd-vae-ft-mse/config.json"
FACE = "face_analysis/models/glintr100.onnx"
VOCALS = "audio_separator/Kim_Vocal_2.onnx"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that is not hidden, and not the lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name != "models.lock.json"}


def published(hub: FakeHub, *more: str) -> dict[str, bytes]:
    return {path: hub.files[path] for path in (*wanted_paths(), *more)}


def lock(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "models.lock.json").read_bytes())
    return read


def test_a_download_fetches_what_is_used_and_the_next_asks_for_nothing(hub: FakeHub, command: Command) -> None:
    output, complaints = command.run("download", "--yes")
    assert complaints == ""
    assert contents(command.folder) == published(hub)
    assert [path for path, _ in hub.fetched()] == list(wanted_paths())
    assert lock(command.folder) == {
        "version": 1,
        "repository": REPOSITORY,
        "commit": COMMIT,
        "files": {
            path: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for path, data in published(hub).items()
        },
    }
    for part in PARTS:
        line = f"  {part.name} ({part.purpose}): {part.licence}\n    {part.origin}\n"
        assert (line in output) is not part.optional
    assert output.endswith(f"{command.folder}: all 9 files are there and right, 308.0 kB\n")
    hidden = sorted(path.name for path in command.folder.rglob(".*"))
    assert hidden == [".download.lock", ".read.json"]
    (finding,) = bundle_findings(command.folder)
    assert finding.text.startswith(f"all 9 files in {command.folder} are as they were when verified on ")
    mask = os.umask(0o022)
    os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in command.folder.rglob("*.*")} <= {0o666 & ~mask, 0o644 & ~mask}

    tokens = {request.path.startswith("/content/"): request.token for request in hub.requests}
    assert tokens == {False: "Bearer hf_secret", True: None}

    hub.requests.clear()
    output, _ = command.run("download", "--yes")
    assert output == f"{command.folder}: all 9 files are there and right, 308.0 kB\n"
    assert hub.requests == []
    output, _ = command.run("verify")
    assert output == f"{command.folder}: all 9 files are right, 308.0 kB of {REPOSITORY} at {COMMIT[:7]}\n"
    assert hub.requests == []


def test_vocals_are_fetched_when_asked_for(hub: FakeHub, command: Command, filled: Path) -> None:
    output, _ = command.run("download", "--yes", "--vocals")
    assert [path for path, _ in hub.fetched()] == [VOCALS]
    assert contents(command.folder) == published(hub, VOCALS)
    assert "Kim_Vocal_2 (takes music out of a recording): not stated\n" in output


def test_a_lost_connection_is_taken_up_again(hub: FakeHub, command: Command, filled: Path) -> None:
    (filled / NET).unlink()
    hub.failures[NET] = [Failure(after=100_000)]
    command.run("download", "--yes")
    assert hub.fetched() == [(NET, None), (NET, "bytes=100000-")]
    assert contents(filled) == published(hub)


def test_ctrl_c_stops_and_the_next_download_goes_on(hub: FakeHub, command: Command, filled: Path) -> None:
    (filled / NET).unlink()
    hub.failures[NET] = [Failure(after=131_072, stall=True)]
    process = command.start("download", "--yes")
    assert hub.stalled.wait(PATIENCE_SECONDS)
    parts = filled / "hallo2"
    while sum(path.stat().st_size for path in parts.iterdir()) < 65_536:
        assert process.poll() is None
    assert command.interrupt(process) == "atenea: stopped; run it again, and it goes on where it is"
    assert not (filled / NET).exists()
    (part,) = parts.iterdir()
    have = part.stat().st_size
    command.run("download", "--yes")
    assert hub.fetched() == [(NET, None), (NET, f"bytes={have}-")]
    assert contents(filled) == published(hub)


def test_wrong_content_is_refused_and_removed(hub: FakeHub, command: Command, filled: Path) -> None:
    (filled / NET).unlink()
    hub.failures[NET] = [Failure(content=bytes(len(hub.files[NET])))]
    _, complaints = command.run("download", "--yes", code=1)
    assert complaints == (
        f"atenea: {NET}: what {hub.endpoint} sent is not what it states, and was removed; run it again, or take "
        "another mirror"
    )
    assert list((filled / "hallo2").iterdir()) == []
    assert NET not in lock(filled)["files"]


def test_a_hub_that_refuses(hub: FakeHub, command: Command) -> None:
    hub.failures["api"] = [Failure(401)]
    output, complaints = command.run("download", "--yes", code=1)
    assert complaints == (
        f"atenea: {hub.endpoint}: answered 401 when asked for {REPOSITORY}; it wants to know who you are: set HF_TOKEN "
        "to a token of yours"
    )
    assert output == ""


def test_a_hub_that_cannot_be_reached(command: Command) -> None:
    command.environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
    _, complaints = command.run("download", "--yes", code=1)
    assert complaints == (
        "atenea: http://127.0.0.1:9: cannot be reached ([Errno 111] Connection refused); "
        "check the network and HF_ENDPOINT"
    )


def test_verify_names_every_wrong_file_and_download_mends_them(hub: FakeHub, command: Command, filled: Path) -> None:
    command.run("download", "--yes")
    assert hub.fetched() == []
    os.truncate(filled / NET, 1000)
    (filled / FACE).write_bytes(bytes(1000))
    (filled / CONFIG).unlink()
    _, complaints = command.run("verify", code=1)
    cure = "; run atenea models download"
    assert complaints.splitlines() == [
        f"atenea: {filled}/{NET}: has 1000 bytes instead of 300000{cure}",
        f"atenea: {filled}/{CONFIG}: is missing{cure}",
        f"atenea: {filled}/{FACE}: was changed: its SHA-256 is not what was fetched{cure}",
    ]
    command.run("download", "--yes")
    assert hub.fetched() == [(NET, None), (CONFIG, None), (FACE, None)]
    # Only the commit that is recorded is ever asked for, wherever the repository's branch has gone since.
    assert {match[0] for request in hub.requests for match in re.finditer(r"[0-9a-f]{40}|main", request.path)} == {
        COMMIT
    }
    command.run("verify")


def test_files_put_there_by_hand_are_listed_and_then_taken_over(hub: FakeHub, command: Command, filled: Path) -> None:
    output, complaints = command.run("verify", code=1)
    assert output.splitlines() == [f"{path}: {len(data)} bytes" for path, data in published(hub).items()]
    assert complaints == (
        f"atenea: {filled}: has no models.lock.json, so nothing vouches for its files; atenea models download "
        "compares them with the hub's and keeps what is right"
    )
    command.run("download", "--yes")
    assert hub.fetched() == []
    command.run("verify")


def test_verify_of_nothing(command: Command) -> None:
    _, complaints = command.run("verify", code=1)
    assert complaints.splitlines() == [
        f"atenea: {command.folder}/{path}: is missing; run atenea models download" for path in wanted_paths()
    ]


def test_without_a_terminal_licences_cannot_be_asked_about(hub: FakeHub, command: Command) -> None:
    _, complaints = command.run("download", code=2)
    assert complaints == (
        "atenea: the models' licences have to be accepted, and there is no terminal to ask on; read docs/models.md "
        "and add --yes"
    )
    assert hub.requests == []
    assert not command.folder.exists()


@pytest.mark.parametrize(("answer", "code"), [(b"n\n", 1), (b"y\n", 0)])
def test_licences_are_asked_about_on_a_terminal(
    hub: FakeHub, command: Command, filled: Path, answer: bytes, code: int
) -> None:
    (filled / FACE).unlink()
    ours, theirs = os.openpty()
    try:
        os.write(ours, answer)
        done = subprocess.run(
            [sys.executable, "-m", "atenea", "models", "download"],
            stdin=theirs,
            capture_output=True,
            text=True,
            cwd=command.home,
            env=command.environment,
            timeout=PATIENCE_SECONDS,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == code, done.stderr
    assert "InsightFace antelopev2 (finds the face and tells whose it is): for non-commercial research only" in (
        done.stdout
    )
    assert "Do you accept these licences? [y/N]" in done.stdout
    assert (filled / FACE).exists() is (code == 0)


def test_two_downloads_at_once(command: Command) -> None:
    with only_downloader(command.folder):
        _, complaints = command.run("download", "--yes", code=3)
    assert complaints == (
        f"atenea: {command.folder}: another atenea models download is at work there; wait until it ends"
    )


def test_a_folder_that_cannot_be_made(command: Command) -> None:
    command.folder.write_text("")
    _, complaints = command.run("download", "--yes", code=2)
    assert complaints == (
        f"atenea: {command.folder}: models cannot be put there: File exists; let this user write it, or set "
        "paths.models"
    )


def test_not_enough_room(hub: FakeHub, command: Command) -> None:
    hub.stated[NET] = 10**18
    _, complaints = command.run("download", "--yes", code=1)
    assert re.fullmatch(
        rf"atenea: {command.folder}: needs 1\.0 EB and has \S+ \SB free; make room, or set paths\.models", complaints
    )


def test_a_disk_that_fills_up(hub: FakeHub, command: Command, filled: Path) -> None:
    (filled / NET).unlink()
    digest = hashlib.sha256(hub.files[NET]).hexdigest()
    (filled / f"hallo2/.net.pth.{digest[:16]}.part").symlink_to("/dev/full")
    _, complaints = command.run("download", "--yes", code=1)
    assert complaints == (
        f"atenea: {filled}: the disk is full; make room for 300.0 kB more, run it again, and it goes on"
    )


def test_without_huggingface_hub(command: Command) -> None:
    (command.home / "huggingface_hub.py").write_text("raise ImportError('not here')")
    command.environment["PYTHONPATH"] = str(command.home)
    _, complaints = command.run("download", "--yes", code=1)
    assert complaints == (
        f"atenea: huggingface_hub is not installed; run: {sys.executable} -m pip install 'atenea[hallo2]'"
    )


def test_a_damaged_lock(command: Command) -> None:
    command.folder.mkdir()
    (command.folder / "models.lock.json").write_text("{")
    _, complaints = command.run("verify", code=1)
    assert complaints == (
        f"atenea: {command.folder}/models.lock.json: is damaged; remove it and run atenea models download"
    )
