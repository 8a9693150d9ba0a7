"""A job's file in its folder: the same job comes back, wherever the folder was moved."""

from __future__ import annotations

import datetime
import os

import pytest

from atenea import Job, PermanentError, StageSettings
from atenea.job_store import JOB_FILE, read_job_file, write_job_file


def job(**more):
    options = {"a": {"b": [1, {"c": 2}]}, "when": datetime.date(2026, 1, 2)}
    settings = StageSettings(plugin="x", options=options)
    return Job(id="1", name="a", text="hi", audio=settings, render=settings, post=(settings,), **more)


def test_round_trip_to_another_place(tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    write_job_file(folder, job(avatar=folder / "input/a.png"))
    write_job_file(folder, job(avatar=folder / "input/b.png"))
    assert os.listdir(folder) == [JOB_FILE]
    moved = folder.rename(tmp_path / "there")
    found = read_job_file(moved)
    assert found.avatar == moved / "input/b.png"
    assert found.audio_file is None
    assert found.post[0].options["a"]["b"][1]["c"] == 2
    assert found.post[0].options["when"] == "2026-01-02"


@pytest.mark.parametrize("path", ["/etc/passwd", "../a.png"])
def test_files_outside_the_folder(tmp_path, path):
    with pytest.raises(PermanentError, match="lies outside the job's folder"):
        write_job_file(tmp_path, job(avatar=tmp_path / path))
    write_job_file(tmp_path, job(avatar=tmp_path / "a.png"))
    file = tmp_path / JOB_FILE
    file.write_text(file.read_text().replace("a.png", path))
    with pytest.raises(PermanentError, match="lies outside the job's folder"):
        read_job_file(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]", b"\xff"])
def test_damaged(tmp_path, content):
    with pytest.raises(PermanentError, match="is missing"):
        read_job_file(tmp_path)
    (tmp_path / JOB_FILE).write_bytes(content)
    with pytest.raises(PermanentError, match="is damaged; submit the job again"):
        read_job_file(tmp_path)
