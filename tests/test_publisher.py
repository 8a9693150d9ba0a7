"""A finished job's files in the outbox: each whole, none replaced, all under one stem, whatever ends the process."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from stock import Jobs

from atenea import durable
from atenea.ledger import Ledger
from atenea.publisher import HIDDEN_PREFIX, Publisher
from atenea.rows import JobRow

_CONTENT = {".jpg": b"picture", ".json": b"{}\n", ".mp4": b"video" * 1000}


@pytest.fixture
def outbox(tmp_path: Path) -> Path:
    folder = tmp_path / "outbox"
    folder.mkdir()
    return folder


@pytest.fixture
def publisher(outbox: Path, db: Ledger) -> Publisher:
    return Publisher(outbox, db)


def made(folder: Path, content: dict[str, bytes] = _CONTENT) -> dict[str, Path]:
    """Files as a job's stages leave them."""
    folder.mkdir(exist_ok=True)
    files = {}
    for suffix, data in content.items():
        files[suffix] = folder / f"file{suffix}"
        files[suffix].write_bytes(data)
    return files


def shown(outbox: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in outbox.iterdir()}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


_HASHES = {suffix: sha256(data) for suffix, data in _CONTENT.items()}


def test_all_files_of_a_job_appear_under_its_name(
    tmp_path: Path, outbox: Path, publisher: Publisher, jobs: Jobs
) -> None:
    job = jobs.to_publish()
    places = publisher.publish(job, made(tmp_path / "made"))
    assert places == {suffix: outbox / f"hello{suffix}" for suffix in _CONTENT}
    assert shown(outbox) == {f"hello{suffix}": data for suffix, data in _CONTENT.items()}
    job = jobs.now(job)
    assert (job.stem, job.publishing) == ("hello", _HASHES)
    assert jobs.finish(job).outputs == _HASHES


def test_the_video_appears_last(
    tmp_path: Path, outbox: Path, publisher: Publisher, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    rename = durable.rename_exclusive
    monkeypatch.setattr(durable, "rename_exclusive", lambda src, dst: (rename(src, dst), order.append(dst.suffix)))
    publisher.publish(jobs.to_publish(), made(tmp_path / "made"))
    assert order[-1] == ".mp4"
    assert sorted(order) == sorted(_CONTENT)


@pytest.mark.parametrize("name", ["hello.mp4", "hello.json", "hello.jpg", "hello.error.txt", "hello.progress.txt"])
def test_one_suffix_is_chosen_for_all_files_of_a_job(
    tmp_path: Path, outbox: Path, publisher: Publisher, jobs: Jobs, name: str
) -> None:
    (outbox / name).write_bytes(b"theirs")
    publisher.publish(jobs.to_publish(), made(tmp_path / "made"))
    assert shown(outbox) == {name: b"theirs"} | {f"hello-2{suffix}": data for suffix, data in _CONTENT.items()}


def test_numbers_go_on_and_even_dangling_links_are_not_replaced(
    tmp_path: Path, outbox: Path, publisher: Publisher, jobs: Jobs
) -> None:
    (outbox / "hello.mp4").symlink_to("nowhere")
    (outbox / "hello-2.jpg").mkdir()
    publisher.publish(jobs.to_publish(), made(tmp_path / "made"))
    publisher.publish(jobs.to_publish(), made(tmp_path / "made"))
    assert sorted(path.name for path in outbox.iterdir()) == sorted(
        ["hello.mp4", "hello-2.jpg", *(f"hello-{n}{suffix}" for n in (3, 4) for suffix in _CONTENT)]
    )
    assert (outbox / "hello.mp4").is_symlink()


def test_files_with_other_suffixes_do_not_matter(
    tmp_path: Path, outbox: Path, publisher: Publisher, jobs: Jobs
) -> None:
    (outbox / "hello.en.srt").write_bytes(b"theirs")
    publisher.publish(jobs.to_publish(), made(tmp_path / "made"))
    assert (outbox / "hello.mp4").exists()


@pytest.mark.parametrize("late", [".jpg", ".json", ".mp4"])
def test_a_file_that_appears_meanwhile_is_not_replaced_and_all_move_on(
    tmp_path: Path, outbox: Path, db: Ledger, jobs: Jobs, late: str
) -> None:
    job = jobs.to_publish()
    with interrupted(db, foreign=outbox / f"hello{late}"):
        places = Publisher(outbox, db).publish(job, made(tmp_path / "made"))
    assert places == {suffix: outbox / f"hello-2{suffix}" for suffix in _CONTENT}
    assert shown(outbox) == {f"hello{late}": b"theirs"} | {f"hello-2{s}": data for s, data in _CONTENT.items()}
    assert jobs.now(job).stem == "hello-2"


def test_the_stem_of_before_is_kept(tmp_path: Path, outbox: Path, publisher: Publisher, jobs: Jobs) -> None:
    job = jobs.to_publish()
    (outbox / "hello.mp4").write_bytes(b"theirs")
    jobs.ledger.choose_stem(job, publisher.claim_stem(job))
    (outbox / "hello.mp4").unlink()
    assert publisher.claim_stem(jobs.now(job)) == "hello-2"
    publisher.publish(jobs.now(job), made(tmp_path / "made"))
    assert (outbox / "hello-2.mp4").exists()


# Other file systems, modes


def test_an_outbox_on_another_file_system(tmp_path: Path, other_file_system: Path, db: Ledger, jobs: Jobs) -> None:
    files = made(tmp_path / "made")
    files[".mp4"].chmod(0o640)
    job = jobs.to_publish()
    Publisher(other_file_system, db).publish(job, files)
    assert shown(other_file_system) == {f"hello{suffix}": data for suffix, data in _CONTENT.items()}
    modes = {path.suffix: stat.S_IMODE(path.stat().st_mode) for path in other_file_system.iterdir()}
    assert modes == {suffix: stat.S_IMODE(path.stat().st_mode) for suffix, path in files.items()}
    assert modes[".mp4"] == 0o640


def test_on_one_file_system_nothing_is_copied(tmp_path: Path, outbox: Path, publisher: Publisher, jobs: Jobs) -> None:
    files = made(tmp_path / "made")
    publisher.publish(jobs.to_publish(), files)
    assert (outbox / "hello.mp4").samefile(files[".mp4"])


# Crashes


class Crash(BaseException):
    """The process ends here."""


@contextmanager
def interrupted(
    ledger: Ledger, *, at: int = -1, after: bool = False, foreign: Path | None = None
) -> Iterator[list[str]]:
    """Ends the process before or after the `at`th step of publishing; the steps that were begun.

    With `foreign`, somebody else puts a file into the outbox once a stem is chosen.
    """
    steps: list[str] = []

    def wrapped(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            steps.append(name)
            number = len(steps) - 1
            if number == at and not after:
                raise Crash
            try:
                return call(*args, **kwargs)
            finally:
                if name == "publish" and foreign and steps.count("publish") == 1:
                    foreign.write_bytes(b"theirs")
                if number == at:
                    raise Crash

        return step

    with pytest.MonkeyPatch.context() as patch:
        for name in ("fsync_file", "fsync_folder", "rename_exclusive", "copy_synced", "sha256_file"):
            patch.setattr(durable, name, wrapped(name, getattr(durable, name)))
        patch.setattr(os, "link", wrapped("link", os.link))
        patch.setattr(Path, "unlink", wrapped("unlink", Path.unlink))
        patch.setattr(ledger, "publish", wrapped("publish", ledger.publish))
        yield steps


def publish_and_crash(
    folder: Path, *, at: int, after: bool, late: str | None, again: int = -1
) -> tuple[list[str], dict[str, bytes], JobRow]:
    """One job published by a process that ends, perhaps twice, and by one that comes after it."""
    folder.mkdir(parents=True)
    outbox = folder / "outbox"
    outbox.mkdir()
    ledger = Ledger(folder / "ledger")
    jobs = Jobs(ledger)
    job = jobs.to_publish()
    files = made(folder / "made")
    foreign = outbox / f"hello{late}" if late else None
    try:
        with interrupted(ledger, at=at, after=after, foreign=foreign) as steps:
            try:
                Publisher(outbox, ledger).publish(jobs.now(job), files)
            except Crash:
                assert at >= 0
        if again >= 0:
            with interrupted(ledger, at=again):
                try:
                    successor = Publisher(outbox, ledger)
                    successor.tidy()
                    successor.publish(jobs.now(job), files)
                except Crash:
                    pass
        successor = Publisher(outbox, ledger)
        successor.tidy()
        successor.publish(jobs.now(job), files)
        return steps, shown(outbox), jobs.finish(jobs.now(job))
    finally:
        ledger.close()


def assert_one_set(files: dict[str, bytes], job: JobRow, late: str | None) -> None:
    """The job's files are there once, under one stem, and so is what is not ours."""
    theirs = {f"hello{late}": b"theirs"} if files.get(f"hello{late}") == b"theirs" else {}
    stem = "hello-2" if theirs else "hello"
    assert files == theirs | {f"{stem}{suffix}": data for suffix, data in _CONTENT.items()}
    assert (job.stem, job.outputs) == (stem, _HASHES)


@pytest.mark.parametrize("late", [None, ".jpg", ".mp4"])
@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_step_leaves_one_set_of_files(tmp_path: Path, after: bool, late: str | None) -> None:
    steps, files, job = publish_and_crash(tmp_path / "whole", at=-1, after=after, late=late)
    assert_one_set(files, job, late)
    assert {"publish", "rename_exclusive", "fsync_folder", "link"} <= set(steps)
    for at in range(len(steps)):
        begun, files, job = publish_and_crash(tmp_path / str(at), at=at, after=after, late=late)
        assert len(begun) == at + 1
        assert_one_set(files, job, late)


def test_a_crash_while_putting_a_crash_right_leaves_one_set_of_files(tmp_path: Path) -> None:
    steps, *_ = publish_and_crash(tmp_path / "whole", at=-1, after=False, late=".mp4")
    for at in range(0, len(steps), 3):
        for again in range(0, len(steps), 4):
            _, files, job = publish_and_crash(tmp_path / f"{at}-{again}", at=at, after=True, late=".mp4", again=again)
            assert_one_set(files, job, ".mp4")


def test_what_arrived_before_a_crash_is_not_written_again(
    tmp_path: Path, outbox: Path, publisher: Publisher, jobs: Jobs
) -> None:
    job = jobs.to_publish()
    files = made(tmp_path / "made")
    publisher.publish(job, files)
    inodes = {path.name: path.stat().st_ino for path in outbox.iterdir()}
    (outbox / "hello.mp4").unlink()
    publisher.publish(jobs.now(job), files)
    assert shown(outbox) == {f"hello{suffix}": data for suffix, data in _CONTENT.items()}
    assert {path.name: path.stat().st_ino for path in outbox.iterdir()} == inodes


def test_tidying_removes_what_was_staged_and_nothing_else(outbox: Path, publisher: Publisher) -> None:
    (outbox / f"{HIDDEN_PREFIX}123.mp4").write_bytes(b"half")
    (outbox / f"{HIDDEN_PREFIX}124.mp4").symlink_to("nowhere")
    (outbox / f"{HIDDEN_PREFIX}folder").mkdir()
    (outbox / "hello.mp4").write_bytes(b"whole")
    (outbox / ".hidden").write_bytes(b"theirs")
    publisher.tidy()
    assert {path.name for path in outbox.iterdir()} == {f"{HIDDEN_PREFIX}folder", "hello.mp4", ".hidden"}


# The answer to a failure


def failed(jobs: Jobs, publisher: Publisher, folder: Path, text: bytes = b"broke") -> JobRow:
    """A job whose failure was answered in the outbox."""
    job = jobs.take()
    jobs.ledger.give_up(jobs.begin(job), job, error="broke", details="", died=False)
    return answered(jobs, publisher, folder, job, text)


def answered(jobs: Jobs, publisher: Publisher, folder: Path, job: JobRow, text: bytes) -> JobRow:
    publisher.withdraw(jobs.now(job))
    publisher.publish(jobs.now(job), made(folder, {".error.txt": text}))
    return jobs.finish(jobs.now(job), "failed")


def test_the_success_of_a_retry_removes_the_answer(
    tmp_path: Path, outbox: Path, publisher: Publisher, jobs: Jobs, db: Ledger
) -> None:
    job = failed(jobs, publisher, tmp_path / "made")
    assert shown(outbox) == {"hello.error.txt": b"broke"}
    db.retry(job)
    jobs.plan(job)
    publisher.withdraw(jobs.now(job))
    publisher.publish(jobs.now(job), made(tmp_path / "made"))
    jobs.finish(jobs.now(job))
    assert shown(outbox) == {f"hello{suffix}": data for suffix, data in _CONTENT.items()}


@pytest.mark.parametrize("text", [b"broke", b"broke again"])
def test_a_retry_that_fails_too_leaves_one_answer(
    tmp_path: Path, outbox: Path, publisher: Publisher, jobs: Jobs, db: Ledger, text: bytes
) -> None:
    job = failed(jobs, publisher, tmp_path / "made")
    db.retry(job)
    db.give_up(jobs.begin(job), jobs.now(job), error="broke", details="", died=False)
    job = answered(jobs, publisher, tmp_path / "made", job, text)
    assert shown(outbox) == {"hello.error.txt": text}
    assert job.outputs == {".error.txt": sha256(text)}


def test_an_answer_that_is_not_the_jobs_own_stays(
    tmp_path: Path, outbox: Path, publisher: Publisher, jobs: Jobs
) -> None:
    job = failed(jobs, publisher, tmp_path / "made")
    (outbox / "hello.error.txt").unlink()
    publisher.withdraw(job)
    (outbox / "hello.error.txt").write_bytes(b"of another job")
    publisher.withdraw(job)
    publisher.withdraw(jobs.to_publish("hello"))
    assert shown(outbox) == {"hello.error.txt": b"of another job"}
