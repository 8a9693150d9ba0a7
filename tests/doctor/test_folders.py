"""Folders, as an ordinary user meets them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from doctor.unprivileged import unprivileged

from atenea.config import Config, Limits, Paths, Watch
from atenea.doctor.folders import events, folder_findings, one_mount, other_user, own_files
from atenea.doctor.space import largest_job, needed, space_finding, space_findings
from atenea.inbox import mounts
from atenea.places import SERVICE_FILE


@pytest.fixture
def home():
    """A folder where everybody may look, which `tmp_path` is not; all folders are in it."""
    with TemporaryDirectory() as folder:
        home = Path(folder)
        home.chmod(0o755)
        for name in ("inbox", "outbox", "state", "cache", "assets"):
            (home / name).mkdir()
            (home / name).chmod(0o777)
        yield home


def configured(folder: Path, **paths: Path) -> Config:
    settings = Config()
    return settings.model_copy(update={"paths": Paths(**paths).under(folder)})


def told(config: Config) -> dict[str, tuple[str, str, str]]:
    with unprivileged():
        found = list(folder_findings(config))
    assert len({finding.check for finding in found}) == len(found)
    return {finding.check: (finding.status, finding.text, finding.cure) for finding in found}


def test_all_is_well(home):
    found = told(configured(home))
    found.pop("user", None)
    assert {check: status for check, (status, _, _) in found.items()} == dict.fromkeys(
        ("inbox", "outbox", "state", "cache", "assets"), "ok"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can have folders that are another user's")
def test_folders_that_may_not_be_used(home):
    (home / "inbox").chmod(0o755)
    (home / "outbox").chmod(0o311)
    (home / "state").chmod(0)
    (home / "plugins").mkdir()
    for name in ("assets", "plugins"):
        (home / name).chmod(0o711)
    found = told(configured(home))
    mine = {"inbox": "0755", "outbox": "0311", "state": "0000"}
    for name, mode in mine.items():
        text = (
            f"{home / name} cannot be read and written by nobody: {home / name} belongs to root and has the mode {mode}"
        )
        cure = f"let that user do it (chown, chmod), or set paths.{name} to another folder"
        assert found[name] == ("problem", text, cure)
    assert found["cache"][0] == "ok"
    assert {found[name][:2] for name in ("assets", "plugins")} == {
        ("problem", f"{home / name} cannot be read by nobody: {home / name} belongs to root and has the mode 0711")
        for name in ("assets", "plugins")
    }
    assert found["user"] == (
        "note",
        f"this was looked at as nobody, and {home}/state belongs to root",
        "run it as the daemon's user: sudo -u root atenea doctor",
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can have folders that are another user's")
def test_a_cache_that_another_user_left(home):
    config = configured(home)
    (home / "cache/espeak").mkdir()
    (home / "cache/espeak").chmod(0o777)
    (home / "cache/openai").mkdir(mode=0o755)
    with unprivileged():
        fine, closed = (finding for finding in folder_findings(config) if finding.check == "cache")
    assert fine.status == "ok"
    assert (closed.status, closed.text, closed.cure) == (
        "problem",
        f"{home}/cache/openai cannot be read and written by nobody: "
        f"{home}/cache/openai belongs to root and has the mode 0755",
        "let that user do it (chown, chmod), or set paths.cache to another folder",
    )
    (home / "cache").chmod(0o755)
    with unprivileged():
        (closed,) = (finding for finding in folder_findings(config) if finding.check == "cache")
    assert closed.text.startswith(f"{home}/cache cannot be read and written by nobody: ")


def test_folders_that_are_not_there(home):
    (home / "closed").mkdir(mode=0)
    (home / "file").touch()
    (home / "lost").symlink_to("nowhere")
    (home / "open").mkdir()
    (home / "open").chmod(0o777)
    paths = {"inbox": "closed/inbox", "outbox": "file/outbox", "state": "lost", "cache": "open/deep/cache"}
    found = told(configured(home, **{name: Path(path) for name, path in paths.items()}))
    assert {name: found[name][0] for name in paths} == {**dict.fromkeys(paths, "problem"), "cache": "ok"}
    assert found["inbox"][1].startswith(f"{home}/closed/inbox cannot be reached by ")
    assert found["outbox"][1] == f"{home}/file/outbox cannot be made: {home}/file is no folder"
    assert found["state"][1] == f"{home}/lost cannot be looked at: No such file or directory"
    assert found["cache"][1] == f"{home}/open/deep/cache is not there yet, and will be made"


def test_a_folder_that_cannot_be_made(home):
    home.chmod(0o555)
    status, text, cure = told(configured(home, inbox=Path("new")))["inbox"]
    assert status == "problem"
    assert text.startswith(f"{home}/new is not there, and ")
    assert f"sudo install -d -o {'nobody' if os.geteuid() == 0 else ''}" in cure
    home.chmod(0o755)


def test_a_file_instead_of_a_folder(home):
    (home / "inbox").rmdir()
    (home / "inbox").touch()
    status, text, cure = told(configured(home))["inbox"]
    assert (status, text) == ("problem", f"{home}/inbox is no folder")
    assert cure == "move it away, or set paths.inbox to another folder"


def test_a_ledger_that_another_user_left(home):
    (home / "state/ledger.sqlite3").touch()
    (home / "state/ledger.sqlite3").chmod(0o400)
    with unprivileged():
        (finding,) = own_files(home / "state")
    assert finding.status == "problem"
    assert finding.text.startswith(f"{home}/state/ledger.sqlite3 cannot be read and written by ")
    assert "sudo chown -R" in finding.cure


def test_the_owner_of_the_state_folder_is_told_nothing(home):
    assert list(other_user(home / "state")) == list(other_user(home / "missing")) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can have folders that are another user's")
def test_the_folders_of_a_service(home):
    (home / "service").mkdir(mode=0o700)
    with unprivileged():
        (finding,) = other_user(home / "service/state")
        assert list(other_user(home / "new/state")) == []
    assert finding.text == f"this was looked at as nobody, and {home}/service belongs to root"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can have folders that are another user's")
def test_a_member_is_told_nothing_of_what_only_the_service_may(home):
    (home / "state").chmod(0o750)
    (home / "cache").chmod(0o750)
    found = told(configured(home))
    assert found["state"][0] == found["cache"][0] == "problem"
    found = told(configured(home).model_copy(update={"file": SERVICE_FILE}))
    assert {check: status for check, (status, _, _) in found.items()} == {"user": "note"}
    assert found["user"][2] == "run it as the daemon's user: sudo -u root atenea doctor"


def test_a_file_system_that_is_mounted_read_only(other_file_system, home):
    if subprocess.run(["mount", "-o", "remount,ro", other_file_system], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    (finding,) = (f for f in folder_findings(configured(home, outbox=other_file_system)) if f.check == "outbox")
    assert finding.status == "problem"
    assert finding.text.endswith(f": {other_file_system} is on a file system that is mounted read-only")


def test_the_inbox_on_another_file_system(other_file_system, home):
    assert list(one_mount(home / "inbox", home / "state/not/yet/there")) == []
    (finding,) = one_mount(other_file_system / "inbox", home / "state")
    assert (finding.status, finding.check) == ("note", "rename")
    assert finding.text.endswith("are on different file systems, so jobs are copied, not moved")


def test_the_inbox_mounted_from_the_same_file_system(home):
    (home / "elsewhere").mkdir()
    if subprocess.run(["mount", "--bind", home / "elsewhere", home / "inbox"], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        (finding,) = one_mount(home / "inbox", home / "state")
    finally:
        subprocess.run(["umount", home / "inbox"], check=True)
    assert finding.status == "note"


def test_a_file_system_without_events(home, tmp_path, monkeypatch):
    config = configured(home)
    assert list(events(config)) == []
    device = (home / "inbox").stat().st_dev
    table = tmp_path / "mountinfo"
    table.write_text(f"36 35 {os.major(device)}:{os.minor(device)} / / rw - nfs4 server:/home rw\n")
    monkeypatch.setattr(mounts, "MOUNTS", table)
    (finding,) = events(config)
    assert finding.status == "note"
    assert finding.text == (
        "no events for what others write on nfs4: the inbox is looked through now and then, every 5 s"
    )
    assert finding.cure == "set watch.settle_seconds to the longest pause of an upload (docs/inbox.md)"
    (polling,) = events(config.model_copy(update={"watch": Watch(polling=True)}))
    assert (polling.status, polling.text) == ("ok", "watch.polling is set: the inbox is looked through every 5 s")
    assert list(events(configured(home, inbox=Path("missing")))) == []


def test_a_full_disk(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        found = list(space_findings(configured(tmp_path, state=small / "state", outbox=tmp_path / "outbox")))
    finally:
        subprocess.run(["umount", small], check=True)
    assert [finding.check for finding in found] == ["space", "space"]
    assert found[0].status == "problem"
    assert found[0].text == f"4.2 MB are free for {small}/state, and a job of 10 minutes takes about 180.0 MB"
    assert found[0].cure == "free some space, or set paths.state to a folder on a larger disk"
    assert str(small) not in found[1].text


def test_room_for_the_largest_job():
    limits, both = Limits(), ["state", "outbox"]
    paths = [Path("/state"), Path("/outbox")]
    assert needed(["outbox"], 600) == 60_000_000
    assert largest_job(both, limits) == 2 * limits.file_bytes
    assert largest_job(["outbox"], limits) == 1_333_333_333
    note = space_finding(both, paths, 1_000_000_000, limits)
    assert note.status == "note"
    assert note.text == (
        "1.0 GB are free for /state and /outbox, and the largest job that [limits] allows takes about 8.6 GB"
    )
    assert space_finding(both, paths, 9_000_000_000, limits).status == "ok"
    smaller = Limits(file_bytes=1_000_000, text_characters=15_000)
    assert space_finding(both, paths, 1_000_000_000, smaller).status == "ok"
