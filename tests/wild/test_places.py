"""The inbox itself, how files are moved into it, and the file systems that it may lie on."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from system.instance import Instance, NewInstance, wait_until
from wild.tools import (
    SETTLE_SECONDS,
    assert_once,
    avatar,
    mounted,
    needs,
    picture,
    run,
    sha256,
    taken,
    visible,
    wild,
)

_QUEUED_EVENTS = Path("/proc/sys/fs/inotify/max_queued_events")


@pytest.fixture
def instance(new_instance: NewInstance) -> Instance:
    return wild(new_instance).start()


def write(path: Path, text: str = "Hello.") -> Path:
    path.write_text(text)
    return path


def test_mv_into_the_folder(inbox: Instance) -> None:
    run("mv", write(inbox.folder / "moved.txt"), inbox.inbox)
    assert_once(inbox, "moved", "Hello.")


def test_mv_from_another_file_system(inbox: Instance, other_file_system: Path) -> None:
    """Which is a copy, with the old time stamp."""
    path = write(other_file_system / "from-afar.txt")
    os.utime(path, (1_000_000_000, 1_000_000_000))
    run("mv", path, inbox.inbox)
    assert_once(inbox, "from-afar", "Hello.")


def test_hard_links(inbox: Instance) -> None:
    """The name is taken, the file outside stays."""
    draft = write(inbox.folder / "draft.txt")
    run("ln", draft, inbox.inbox / "linked.txt")
    assert_once(inbox, "linked", "Hello.")
    assert draft.read_text() == "Hello."


def make_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "job.toml").write_text('text = "Hello."\navatar = "face.png"\n')
    return folder


def test_a_folder_moved_in_with_its_files(inbox: Instance) -> None:
    folder = make_folder(inbox.folder / "whole")
    (folder / "face.png").write_bytes(picture())
    run("mv", folder, inbox.inbox)
    assert_once(inbox, "whole", "Hello.")
    assert avatar(inbox, "whole") == sha256(picture())


def test_a_job_folder_that_fills_slowly(inbox: Instance) -> None:
    """It stays until what its job file names is there."""
    folder = make_folder(inbox.inbox / "fills")
    wait_until(lambda: "'fills' waits: it names" in inbox.log.read_text(), "the report")
    (folder / "face.png").write_bytes(picture())
    assert_once(inbox, "fills", "Hello.")
    assert avatar(inbox, "fills") == sha256(picture())
    assert len([event for event in inbox.events() if event["event"].startswith("'fills' waits: it names")]) == 1


def test_the_inbox_deleted_and_made_again(instance: Instance) -> None:
    shutil.rmtree(instance.inbox)
    wait_until(lambda: "jobs are taken again once it can" in instance.log.read_text(), "the report")
    instance.inbox.mkdir()
    instance.drop("after.txt", "Hello.")
    assert_once(instance, "after", "Hello.")


def test_the_inbox_deleted_and_made_again_at_once(instance: Instance) -> None:
    """Too fast to be seen missing."""
    shutil.rmtree(instance.inbox)
    instance.inbox.mkdir()
    instance.drop("after.txt", "Hello.")
    assert_once(instance, "after", "Hello.")


def test_the_inbox_renamed(instance: Instance) -> None:
    """What lies in the renamed one is nobody's business until it has its name again."""
    away = instance.inbox.rename(instance.folder / "away")
    wait_until(lambda: "jobs are taken again once it can" in instance.log.read_text(), "the report")
    write(away / "renamed.txt")
    away.rename(instance.inbox)
    assert_once(instance, "renamed", "Hello.")


def test_the_inbox_unmounted_and_mounted_again(new_instance: NewInstance) -> None:
    instance = wild(new_instance)
    disk = instance.folder / "disk"
    disk.mkdir()
    with mounted(instance.inbox, "--bind", disk):
        instance.start()
        instance.drop("before.txt", "Before.")
        assert_once(instance, "before", "Before.")
    write(disk / "after.txt", "After.")
    with mounted(instance.inbox, "--bind", disk):
        assert_once(instance, "after", "After.")
    assert visible(disk) == []
    instance.stop()


def test_a_file_system_without_events(new_instance: NewInstance) -> None:
    instance = wild(new_instance, polling=True).start()
    instance.drop("polled.txt", "Hello.")
    assert_once(instance, "polled", "Hello.")


@contextmanager
def disk(instance: Instance, program: str, package: str, *options: str) -> Iterator[None]:
    """A file system in a file, mounted as the inbox."""
    make = needs(program, package)
    image = instance.folder / "image"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    run(make, *options, image)
    with mounted(instance.inbox, "-o", "loop", image):
        yield


@pytest.mark.parametrize(
    ("program", "package", "options"),
    [("mkfs.ext3", "e2fsprogs", ("-q", "-I", "128")), ("mkfs.vfat", "dosfstools", ())],
    ids=["1 second", "2 seconds"],
)
def test_coarse_time_stamps(new_instance: NewInstance, program: str, package: str, options: tuple[str, ...]) -> None:
    """A file of the final size that changes twice within the file system's second."""
    instance = wild(new_instance)
    with disk(instance, program, package, *options):
        instance.start()
        whole = "The whole text."
        for text in ("-" * len(whole), whole):
            with (instance.inbox / "coarse.txt").open("r+" if text == whole else "w") as upload:
                upload.write(text)
            time.sleep(2 * SETTLE_SECONDS)
        assert_once(instance, "coarse", whole)
        instance.stop()


def test_another_mount_than_the_state(new_instance: NewInstance) -> None:
    instance = wild(new_instance)
    with mounted(instance.inbox, "-t", "tmpfs", "tmpfs"):
        instance.start()
        instance.drop("far.png", picture())
        instance.drop("far.txt", "Hello.")
        make_folder(instance.inbox / "far-folder")
        shutil.copy(instance.inbox / "far.png", instance.inbox / "far-folder" / "face.png")
        for name in ("far", "far-folder"):
            assert_once(instance, name, "Hello.")
            assert avatar(instance, name) == sha256(picture())
        instance.stop()


def test_an_overflown_event_queue(new_instance: NewInstance) -> None:
    """Stopped while 200 files come, with room for 16 events."""
    before = _QUEUED_EVENTS.read_text()
    instance = wild(new_instance)
    try:
        _QUEUED_EVENTS.write_text("16")
    except OSError:
        pytest.skip("fs.inotify.max_queued_events cannot be set here")
    try:
        instance.start()
    finally:
        _QUEUED_EVENTS.write_text(before)
    assert instance.process is not None
    instance.process.send_signal(signal.SIGSTOP)
    for number in range(200):
        instance.drop(f"burst-{number}.txt", "Hello.")
    instance.process.send_signal(signal.SIGCONT)
    wait_until(lambda: len(instance.events("job taken")) == 200, "all 200 jobs")
    assert visible(instance.inbox) == []
    instance.drop("last.txt", "Hello.")
    wait_until(lambda: taken(instance, "last"), "events to work on")
