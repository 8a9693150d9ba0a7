"""Events of the real kernel. What must come is waited for; that nothing comes is shown by what comes after it."""

import errno
import os
import subprocess
import threading
import time

import pytest
from watchdog.observers.inotify_c import InotifyFD
from watchdog.observers.inotify_move_event_grouper import InotifyMoveEventGrouper

from atenea.inbox import hints as hints_module
from atenea.inbox.hints import Hints
from atenea.inbox.scan import Scanner

DEADLINE = 60.0


class Wakes:
    """Counts the calls of `on_change`."""

    def __init__(self) -> None:
        self.count = 0
        self.fails = False
        self._condition = threading.Condition()

    def __call__(self) -> None:
        with self._condition:
            self.count += 1
            self._condition.notify_all()
        if self.fails:
            raise RuntimeError("the loop is closed")

    def come(self, act) -> bool:
        """Whether what `act` does causes a call."""
        with self._condition:
            before = self.count
            act()
            return self._condition.wait_for(lambda: self.count > before, DEADLINE)

    def settle(self) -> int:
        """The count once no more calls come for a while."""
        before = -1
        while before != self.count:
            before = self.count
            time.sleep(0.1)
        return before


@pytest.fixture
def wakes():
    return Wakes()


@pytest.fixture
def complaints():
    return []


@pytest.fixture
def watch(inbox, wakes, complaints):
    """A function that starts hints for the inbox."""
    started = []

    def watch(folder=inbox, **options):
        hints = Hints(folder, ["news"], wakes, report=complaints.append, **options)
        started.append(hints)
        hints.start()
        return hints

    yield watch
    for hints in started:
        hints.stop()


def test_what_wakes(watch, inbox, wakes, tmp_path, complaints):
    (inbox / "news").mkdir()
    (tmp_path / "c").mkdir()
    hints = watch()
    assert hints.refresh() is True
    assert wakes.come((inbox / "a.txt").touch)
    assert wakes.come(lambda: (inbox / "a.txt").rename(inbox / "b.txt"))
    assert wakes.come((inbox / "news" / "a.txt").touch)
    assert wakes.come(lambda: (tmp_path / "c").rename(inbox / "c"))
    wakes.settle()
    with (inbox / "b.txt").open("w") as file:
        file.write("x")
        file.flush()
        assert wakes.come(file.close)
    assert complaints == []


def test_scans_and_reading_wake_nobody(watch, inbox, wakes):
    (inbox / "news").mkdir()
    (inbox / "c").mkdir()
    for name in ("a.txt", "c/job.toml", "news/a.txt"):
        (inbox / name).touch()
    watch()
    scanner = Scanner(inbox, ["news"], 0)
    for _ in range(3):
        scanner.scan()
    (inbox / "a.txt").read_text()
    assert wakes.come((inbox / "b.txt").touch)
    # Creating and closing; the same event twice in a row may come as one.
    assert wakes.settle() <= 2


def test_taking_does_not_hold_up_what_comes_next(watch, inbox, wakes, tmp_path, monkeypatch):
    monkeypatch.setattr(InotifyMoveEventGrouper, "delay", 2 * DEADLINE)
    (inbox / "taken.txt").touch()
    watch()
    (inbox / "taken.txt").rename(tmp_path / "taken.txt")
    assert wakes.come((inbox / "next.txt").touch)


def test_an_exception_is_logged_and_the_next_event_comes(watch, inbox, wakes, caplog):
    hints = watch()
    wakes.fails = True
    for number in range(3):
        assert wakes.come((inbox / str(number)).touch)
        wakes.settle()
    assert hints.refresh() is True
    assert "could not be woken" in caplog.text
    assert "RuntimeError: the loop is closed" in caplog.text


class TestFollowing:
    """`refresh` watches what is there now."""

    def test_a_preset_folder_made_later(self, watch, inbox, wakes):
        hints = watch()
        assert wakes.come((inbox / "news").mkdir)
        assert hints.refresh() is True
        assert wakes.come((inbox / "news" / "a.txt").touch)

    def test_renamed_and_made_again(self, watch, inbox, wakes):
        hints = watch()
        inbox.rename(inbox.parent / "old")
        assert hints.refresh() is False
        inbox.mkdir()
        assert hints.refresh() is True
        assert wakes.come((inbox / "a.txt").touch)
        wakes.settle()
        before = wakes.count
        (inbox.parent / "old" / "a.txt").touch()
        assert wakes.settle() == before

    def test_deleted_and_made_again_at_once(self, watch, inbox, wakes):
        """The new folder may well have the inode number of the old."""
        hints = watch()
        for _ in range(5):
            inbox.rmdir()
            inbox.mkdir()
            end = time.monotonic() + DEADLINE
            while hints._alive() and hints._folders() == hints._watched and time.monotonic() < end:
                time.sleep(0.01)
            assert hints.refresh() is True
            assert wakes.come((inbox / "a.txt").touch)
            (inbox / "a.txt").unlink()

    def test_an_inbox_that_comes_later(self, watch, inbox, wakes, complaints):
        inbox.rmdir()
        hints = watch()
        assert hints.refresh() is False
        inbox.mkdir()
        assert hints.refresh() is True
        assert wakes.come((inbox / "a.txt").touch)
        assert complaints == []

    def test_unmounted_and_mounted_again(self, watch, other_mount, wakes):
        if not os.path.ismount(other_mount):
            pytest.skip("mounting is not allowed")
        hints = watch(other_mount)
        assert wakes.come((other_mount / "a.txt").touch)
        for _ in range(2):
            subprocess.run(["umount", str(other_mount)], check=True)
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(other_mount)], check=True)
            assert hints.refresh() is True
            assert wakes.come((other_mount / "a.txt").touch)

    def test_behind_a_link_that_is_turned(self, watch, inbox, wakes, tmp_path):
        (tmp_path / "link").symlink_to(inbox)
        hints = watch(tmp_path / "link")
        assert wakes.come((inbox / "a.txt").touch)
        (tmp_path / "new").mkdir()
        (tmp_path / "link").unlink()
        (tmp_path / "link").symlink_to(tmp_path / "new")
        assert hints.refresh() is True
        assert wakes.come((tmp_path / "new" / "a.txt").touch)

    def test_a_linked_preset_folder_is_not_watched(self, watch, inbox, wakes, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        (inbox / "news").symlink_to(tmp_path / "elsewhere")
        hints = watch()
        (tmp_path / "elsewhere" / "a.txt").touch()
        assert wakes.settle() == 0
        assert hints.refresh() is True

    def test_nothing_changed_nothing_done(self, watch):
        hints = watch()
        observer = hints._observer
        assert hints.refresh() is True
        assert hints._observer is observer


class TestWithoutEvents:
    def test_polling(self, watch, inbox, wakes, complaints):
        threads = threading.active_count()
        hints = watch(polling=True)
        assert hints.refresh() is False
        assert threading.active_count() == threads
        (inbox / "a.txt").touch()
        assert wakes.settle() == 0
        assert complaints == []

    @pytest.mark.parametrize(
        ("function", "code", "reason"),
        [
            ("_create_inotify_fd", errno.EMFILE, "inotify instance limit reached"),
            ("add_callback", errno.ENOSPC, "inotify watch limit reached"),
        ],
    )
    def test_limits(self, watch, inbox, wakes, complaints, monkeypatch, function, code, reason):
        def exhausted(*args):
            raise OSError(code, reason)

        with monkeypatch.context() as patch:
            patch.setattr(InotifyFD, function, exhausted)
            hints = watch()
            assert hints.refresh() is False
            assert hints.refresh() is False
        sentence = f"no file system events ({reason}): the inbox is looked through now and then"
        assert complaints == [sentence]
        assert hints.refresh() is True
        assert complaints == [sentence, "file system events work again"]
        assert wakes.come((inbox / "a.txt").touch)

    def test_a_file_system_that_others_write_to(self, watch, inbox, wakes, complaints, monkeypatch):
        monkeypatch.setattr(hints_module, "file_system", lambda device: "nfs4")
        hints = watch()
        assert hints.refresh() is False
        assert complaints == ["no events for what others write on nfs4: the inbox is looked through now and then"]
        assert wakes.come((inbox / "a.txt").touch)

    def test_the_type_of_a_file_system(self, other_mount):
        assert hints_module.file_system(other_mount.stat().st_dev) == "tmpfs"
        assert hints_module.file_system(0) == ""

    def test_an_unreadable_inbox_is_not_taken_for_a_quiet_one(self, watch, inbox, monkeypatch):
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        hints = watch()
        assert hints.refresh() is False
        monkeypatch.undo()
        assert hints.refresh() is True
