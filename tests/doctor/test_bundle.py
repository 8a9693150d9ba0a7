"""The models' files: whether they are there, and as they were when they were read."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from doctor.unprivileged import unprivileged

from atenea.doctor import bundle_findings
from atenea.models import verify
from atenea.models.lockfile import LOCK_FILE, Lock, LockedFile, write_lock
from atenea.models.manifest import wanted_paths
from atenea.models.reading import READ_FILE

NET = "hallo2/net.pth"
VOCALS = "audio_separator/Kim_Vocal_2.onnx"


@pytest.fixture
def models():
    """A folder with all files, and their lock; everybody may look there, which is not so in `tmp_path`."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for path in wanted_paths(vocals=True):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(b"weights")
        lock(folder, wanted_paths())
        yield folder


def lock(folder, paths):
    files = {path: LockedFile(size=7, sha256=sha256(b"weights").hexdigest()) for path in paths}
    write_lock(folder, Lock(repository="r", commit="c", files=files))


def one(folder, **given):
    (finding,) = bundle_findings(folder, **given)
    return finding.status, finding.text, finding.cure


def unread(what):
    return "note", f"{what} changed since the last reading, or never been read whole", "atenea models verify"


def test_all_files_are_as_they_were_when_verified(models):
    assert one(models) == unread(f"{models}/{NET} and 8 more have")
    first = datetime.now(UTC).date()
    (models / VOCALS).unlink()
    assert verify(models).faults == ()
    status, text, cure = one(models)
    days = (first, datetime.now(UTC).date())
    assert text in {f"all 9 files in {models} are as they were when verified on {day}" for day in days}
    assert (status, cure) == ("ok", "")


@pytest.mark.parametrize("keep_time", [False, True])
def test_a_byte_that_was_changed(models, keep_time):
    """What a disk damages by itself keeps even the time, and is found when the file is read."""
    (models / VOCALS).unlink()
    assert verify(models).faults == ()
    before = (models / NET).stat()
    (models / NET).write_bytes(b"wEights")
    times = (before.st_mtime_ns if keep_time else before.st_mtime_ns + 1,) * 2
    os.utime(models / NET, ns=times)
    assert (one(models)[0] == "ok") is keep_time
    assert verify(models).faults == (f"{NET}: was changed: its SHA-256 is not what was fetched",)
    assert one(models) == unread(f"{models}/{NET} has")
    (models / NET).write_bytes(b"weights")
    assert verify(models).faults == ()
    assert one(models)[0] == "ok"


def test_a_copy_of_the_models_was_not_read(models):
    (models / VOCALS).unlink()
    verify(models)
    shutil.copy2(models / NET, models / "copy")
    (models / "copy").replace(models / NET)
    assert one(models) == unread(f"{models}/{NET} has")


def test_readings_that_are_of_no_use(models):
    (models / VOCALS).unlink()
    verify(models)
    fresh = {path: LockedFile(size=7, sha256="ab" * 32) for path in wanted_paths()}
    write_lock(models, Lock(repository="r", commit="d", files=fresh))
    assert one(models) == unread(f"{models}/{NET} and 8 more have")
    lock(models, wanted_paths())
    assert one(models)[0] == "ok"
    (models / READ_FILE).write_text("{")
    assert one(models) == unread(f"{models}/{NET} and 8 more have")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can have folders that are another user's")
def test_who_may_not_note_what_was_read(models):
    (models / VOCALS).unlink()
    with unprivileged():
        assert verify(models).faults == ()
        assert one(models)[2] == f"atenea models verify, as a user who may write {models}"
    assert not (models / READ_FILE).exists()


def test_missing_files(models, tmp_path):
    (models / NET).unlink()
    assert one(models) == ("problem", f"{models} lacks {NET}", "atenea models download")
    (models / VOCALS).unlink()
    said = ("problem", f"{models} lacks {NET} and 1 more", "atenea models download --vocals")
    assert one(models, vocals=True) == said
    assert one(tmp_path / "none")[1] == f"{tmp_path}/none lacks {NET} and 8 more"


def test_a_truncated_file(models):
    os.truncate(models / NET, 3)
    assert one(models) == ("problem", f"{models}/{NET} has 3 bytes instead of 7", "atenea models download")


def test_a_file_that_this_user_may_not_read(models):
    (models / NET).chmod(0)
    with unprivileged():
        assert one(models) == ("problem", f"{models}/{NET} may not be read by this user", f"chmod a+r {models}/{NET}")


def test_a_file_that_was_not_fetched(models):
    status, text, _ = one(models, vocals=True)
    assert (status, text) == (
        "problem",
        f"{models}/{VOCALS} was not fetched by atenea: it is not in {LOCK_FILE}",
    )


def test_files_that_were_copied_by_hand(models):
    (models / LOCK_FILE).unlink()
    status, text, cure = one(models)
    assert (status, text) == ("note", f"{models} has no {LOCK_FILE}, so nothing vouches for the models in it")
    assert cure.startswith("atenea models download compares")


def test_a_damaged_lock(models):
    (models / LOCK_FILE).write_text("{")
    said = ("problem", f"{models}/{LOCK_FILE}: is damaged", "remove it and run atenea models download")
    assert one(models) == said
