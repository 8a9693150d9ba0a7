"""Who still writes a file, and what is brought into a job's original after it was taken."""

import fcntl
import mmap
import os

import pytest

from atenea.inbox import late, writers
from atenea.inbox.late import bring_picture, bring_rest, rest_folder
from atenea.inbox.readings import fingerprint
from atenea.inbox.taking import Taker
from atenea.inbox.writers import has_writer, is_written


def ask(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        return has_writer(fd)
    finally:
        os.close(fd)


class TestWriters:
    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "a.txt"
        path.write_text("text")
        if ask(path) is None:
            pytest.skip("the kernel does not tell here")
        return path

    def test_open_and_closed(self, path):
        with path.open("a"):
            assert ask(path) is True
        assert ask(path) is False

    def test_readers_do_not_count(self, path):
        with path.open():
            assert ask(path) is False

    def test_a_map_counts_when_its_file_is_closed(self, path):
        with path.open("r+b") as file:
            memory = mmap.mmap(file.fileno(), 4)
        assert ask(path) is True
        memory.close()
        assert ask(path) is False

    def test_no_lease_is_left(self, path):
        fd = os.open(path, os.O_RDONLY)
        assert has_writer(fd) is False
        assert fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_UNLCK
        os.close(fd)

    def test_another_machines_file_system_does_not_tell(self, path, monkeypatch):
        monkeypatch.setattr(writers, "file_system", lambda device: "nfs4")
        with path.open("a"):
            assert ask(path) is None

    def test_somebody_elses_file_does_not_tell(self, path, monkeypatch):
        def forbidden(fd, command, argument):
            if command == fcntl.F_SETLEASE:
                raise PermissionError

        monkeypatch.setattr(fcntl, "fcntl", forbidden)
        assert ask(path) is None

    def test_any_file_of_a_job(self, path):
        (path.with_suffix(".png")).write_text("picture")
        assert is_written(path.parent, "a.txt") is False
        with path.with_suffix(".png").open("a"):
            assert is_written(path.parent, "a.txt") is True
            assert is_written(path.parent, "a.txt", patience=100) is True
            assert is_written(path.parent, "a.txt", patience=-1) is False


@pytest.fixture
def original(state):
    original = state / "jobs" / "1" / "original"
    original.mkdir(parents=True)
    (original / "a.txt").write_text("text")
    return original


def bring(inbox, original, arrived_before=1e12, relative="a.txt"):
    rest = rest_folder(inbox, "1")
    return bring_picture(inbox, original, relative, arrived_before=arrived_before, before_copy=lambda: rest)


class TestPicture:
    def test_comes_to_its_text(self, inbox, original):
        (inbox / "a.webp").write_text("picture")
        before = fingerprint(original, "a.txt")
        assert bring(inbox, original)
        assert sorted(os.listdir(original)) == ["a.txt", "a.webp"]
        assert os.listdir(inbox) == []
        assert fingerprint(original, "a.txt") != before

    def test_is_copied_from_another_mount(self, other_mount, original):
        (other_mount / "a.png").write_text("picture")
        assert bring(other_mount, original)
        assert (original / "a.png").read_text() == "picture"
        assert (rest_folder(other_mount, "1") / "a.png").exists()
        assert not (other_mount / "a.png").exists()

    @pytest.mark.parametrize("why", ["none", "too late", "the text has one", "it is the next text's", "no text"])
    def test_stays(self, inbox, original, why):
        if why != "none":
            (inbox / "a.png").write_text("picture")
        if why == "the text has one":
            (original / "a.jpg").write_text("picture")
        if why == "it is the next text's":
            (inbox / "a.txt").write_text("text")
        before = sorted(os.listdir(inbox))
        arguments = {"arrived_before": 1.0} if why == "too late" else {}
        arguments |= {"relative": "a.toml"} if why == "no text" else {}
        assert not bring(inbox, original, **arguments)
        assert sorted(os.listdir(inbox)) == before


def test_only_what_differs_is_copied_again(inbox, original):
    rest = rest_folder(inbox, "1")
    rest.mkdir()
    (rest / "a.txt").write_text("text")
    inode = (original / "a.txt").stat().st_ino
    bring_rest(rest, original, "a.txt")
    assert (original / "a.txt").stat().st_ino == inode
    (rest / "a.txt").write_text("more text")
    (original.parent / ".brought").write_text("of a crash")
    bring_rest(rest, original, "a.txt")
    assert (original / "a.txt").read_text() == "more text"
    assert os.listdir(original.parent) == ["original"]


def test_a_rest_that_is_gone_meanwhile(inbox, original):
    bring_rest(rest_folder(inbox, "1"), original, "a.txt")
    assert (original / "a.txt").read_text() == "text"


def test_what_nobody_tells_of_is_kept_until_it_no_longer_matters(other_mount, state, ledger, settled, monkeypatch):
    monkeypatch.setattr("atenea.inbox.taking.is_written", lambda root, relative: None)
    (other_mount / "a.txt").write_text("text")
    taker = Taker(other_mount, state, (), ledger)
    taker.recover()
    (row,) = taker.take(settled(other_mount))
    taker.take([])
    assert os.listdir(other_mount) == [rest_folder(other_mount, row.job_id).name]
    ledger.past_changes.add(row.job_id)
    taker.take([])
    assert os.listdir(other_mount) == []
    assert ledger.unfinished == set()


def test_a_rest_is_not_removed_under_what_is_brought(other_mount, state, ledger, settled):
    (other_mount / "a.txt").write_text("text")
    taker = Taker(other_mount, state, (), ledger)
    taker.recover()
    with late.REST:
        (row,) = taker.take(settled(other_mount))
        assert [taken.job_id for taken in ledger.unfinished_copies()] == [row.job_id]
    taker.take([])
    assert ledger.unfinished_copies() == []
    assert list(other_mount.iterdir()) == []


def test_hidden_names_are_what_a_scan_leaves_alone(inbox):
    assert late.rest_folder(inbox, "1").name.startswith(".")
