"""The models' files, by their names and sizes."""

from __future__ import annotations

import os

import pytest

from atenea.doctor import bundle_findings
from atenea.models.lockfile import LOCK_FILE, Lock, LockedFile, write_lock
from atenea.models.manifest import wanted_paths

NET = "hallo2/net.pth"


@pytest.fixture
def models(tmp_path):
    """A folder with all files, and their lock."""
    for path in wanted_paths(vocals=True):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"weights")
    lock(tmp_path, wanted_paths())
    return tmp_path


def lock(folder, paths):
    files = {path: LockedFile(size=7, sha256="ab" * 32) for path in paths}
    write_lock(folder, Lock(repository="r", commit="c", files=files))


def one(folder, **given):
    (finding,) = bundle_findings(folder, **given)
    return finding.status, finding.text, finding.cure


def test_all_files_are_there(models):
    text = f"all 9 files in {models} have their sizes; their content is for atenea models verify"
    assert one(models) == ("ok", text, "")


def test_missing_files(models, tmp_path):
    (models / NET).unlink()
    assert one(models) == ("problem", f"{models} lacks {NET}", "atenea models download")
    (models / "audio_separator/Kim_Vocal_2.onnx").unlink()
    said = ("problem", f"{models} lacks {NET} and 1 more", "atenea models download --vocals")
    assert one(models, vocals=True) == said
    assert one(tmp_path / "none")[1] == f"{tmp_path}/none lacks {NET} and 8 more"


def test_a_truncated_file(models):
    os.truncate(models / NET, 3)
    assert one(models) == ("problem", f"{models}/{NET} has 3 bytes instead of 7", "atenea models download")


def test_a_file_that_was_not_fetched(models):
    status, text, _ = one(models, vocals=True)
    assert (status, text) == (
        "problem",
        f"{models}/audio_separator/Kim_Vocal_2.onnx was not fetched by atenea: it is not in {LOCK_FILE}",
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
