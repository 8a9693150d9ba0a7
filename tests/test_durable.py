import errno
import os
from pathlib import Path

import pytest

from atenea import durable


class Calls:
    """`os`, with a list of the calls that sync or change something."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __getattr__(self, name: str):
        function = getattr(os, name)
        if name not in {"fsync", "replace", "rename", "link", "unlink", "sync"}:
            return function

        def called(*args, **kwargs):
            self.made.append(name)
            return function(*args, **kwargs)

        return called


@pytest.fixture
def calls(monkeypatch):
    calls = Calls()
    monkeypatch.setattr(durable, "os", calls)
    monkeypatch.setattr(durable, "_syncfs", lambda fd: calls.made.append("syncfs") or 0)
    return calls


@pytest.fixture(params=["renameat2", "no flag"])
def both_renames(request, monkeypatch):
    if request.param == "no flag":
        monkeypatch.setattr(durable, "_renameat2", lambda *_: errno.EINVAL)


@pytest.mark.usefixtures("both_renames")
class TestRenameExclusive:
    def test_file(self, tmp_path):
        (tmp_path / "a").write_text("A")
        durable.rename_exclusive(tmp_path / "a", tmp_path / "b")
        assert [path.name for path in tmp_path.iterdir()] == ["b"]
        assert (tmp_path / "b").read_text() == "A"

    def test_folder(self, tmp_path):
        (tmp_path / "a" / "in").mkdir(parents=True)
        durable.rename_exclusive(tmp_path / "a", tmp_path / "b")
        assert (tmp_path / "b" / "in").is_dir()
        assert not (tmp_path / "a").exists()

    @pytest.mark.parametrize("taken", ["file", "dangling link", "empty folder"])
    @pytest.mark.parametrize("source", ["file", "folder"])
    def test_never_replaces(self, tmp_path, source, taken):
        a, b = tmp_path / "a", tmp_path / "b"
        a.write_text("A") if source == "file" else a.mkdir()
        {"file": b.touch, "dangling link": lambda: b.symlink_to("nowhere"), "empty folder": b.mkdir}[taken]()
        before = os.lstat(b)
        with pytest.raises(FileExistsError):
            durable.rename_exclusive(a, b)
        assert os.lstat(b).st_ino == before.st_ino
        assert a.exists()

    def test_missing(self, tmp_path):
        with pytest.raises(FileNotFoundError) as raised:
            durable.rename_exclusive(tmp_path / "a", tmp_path / "b")
        assert raised.value.filename == str(tmp_path / "a")

    def test_between_descriptors(self, tmp_path):
        (tmp_path / "from").mkdir()
        (tmp_path / "to").mkdir()
        (tmp_path / "from" / "a\n\udcff").write_text("A")
        source, target = (os.open(tmp_path / name, os.O_RDONLY) for name in ("from", "to"))
        durable.rename_exclusive("a\n\udcff", "b", src_dir_fd=source, dst_dir_fd=target)
        os.close(source)
        os.close(target)
        assert (tmp_path / "to" / "b").read_text() == "A"
        assert os.listdir(tmp_path / "from") == []

    def test_a_link_itself_is_renamed(self, tmp_path):
        (tmp_path / "a").symlink_to("nowhere")
        durable.rename_exclusive(tmp_path / "a", tmp_path / "b")
        assert os.readlink(tmp_path / "b") == "nowhere"


def test_rename_without_flag_and_hard_links(tmp_path, monkeypatch):
    monkeypatch.setattr(durable, "_renameat2", lambda *_: errno.EINVAL)

    def no_link(*args, **kwargs):
        raise PermissionError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", no_link)
    (tmp_path / "a").write_text("A")
    (tmp_path / "c").touch()
    with pytest.raises(FileExistsError):
        durable.rename_exclusive(tmp_path / "a", tmp_path / "c")
    durable.rename_exclusive(tmp_path / "a", tmp_path / "b")
    assert sorted(os.listdir(tmp_path)) == ["b", "c"]


def test_errors_of_renameat2_are_oserrors(tmp_path, monkeypatch):
    monkeypatch.setattr(durable, "_renameat2", lambda *_: errno.EXDEV)
    with pytest.raises(OSError) as raised:
        durable.rename_exclusive(tmp_path / "a", tmp_path / "b")
    assert (raised.value.errno, raised.value.filename, raised.value.filename2) == (
        errno.EXDEV,
        str(tmp_path / "a"),
        str(tmp_path / "b"),
    )


def test_a_function_that_the_c_library_lacks():
    assert durable._from_libc("no_such_function")(1, 2) == errno.ENOSYS


class TestWriteAtomic:
    def test_order(self, tmp_path, calls):
        (tmp_path / "a").write_text("old")
        durable.write_atomic(tmp_path / "a", b"new")
        assert calls.made == ["fsync", "replace", "fsync"]
        assert (tmp_path / "a").read_bytes() == b"new"
        assert os.listdir(tmp_path) == ["a"]

    def test_longest_name_and_mode(self, tmp_path):
        path = tmp_path / ("n" * 255)
        durable.write_atomic(path, b"x", 0o600)
        assert path.stat().st_mode & 0o777 == 0o600

    def test_failure_leaves_the_old(self, tmp_path, monkeypatch):
        (tmp_path / "a").write_text("old")

        def full(fd):
            raise OSError(errno.ENOSPC, "full")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError):
            durable.write_atomic(tmp_path / "a", b"new")
        assert (tmp_path / "a").read_text() == "old"
        assert os.listdir(tmp_path) == ["a"]


class TestCopySynced:
    def test_content_and_time(self, tmp_path, calls):
        data = os.urandom((1 << 20) + 17)
        (tmp_path / "a").write_bytes(data)
        os.utime(tmp_path / "a", ns=(1, 1_600_000_000_123_456_789))
        durable.copy_synced(tmp_path / "a", tmp_path / "b")
        assert (tmp_path / "b").read_bytes() == data
        assert (tmp_path / "b").stat().st_mtime_ns == 1_600_000_000_123_456_789
        assert calls.made == ["fsync"]

    def test_descriptor_is_read_from_its_start(self, tmp_path):
        (tmp_path / "a").write_text("abc")
        with (tmp_path / "a").open("rb") as file:
            file.seek(2)
            durable.copy_synced(file.fileno(), tmp_path / "b")
            assert file.tell() == 2
        assert (tmp_path / "b").read_text() == "abc"

    def test_never_replaces_and_never_follows(self, tmp_path):
        (tmp_path / "a").write_text("A")
        (tmp_path / "b").write_text("B")
        (tmp_path / "link").symlink_to("a")
        with pytest.raises(FileExistsError):
            durable.copy_synced(tmp_path / "a", tmp_path / "b")
        with pytest.raises(OSError) as raised:
            durable.copy_synced(tmp_path / "link", tmp_path / "c")
        assert raised.value.errno == errno.ELOOP
        assert (tmp_path / "b").read_text() == "B"

    def test_failure_leaves_nothing_and_names_the_copy(self, tmp_path, monkeypatch):
        (tmp_path / "a").write_text("A")

        def full(fd, data):
            raise OSError(errno.ENOSPC, "full")

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError) as raised:
            durable.copy_synced(tmp_path / "a", tmp_path / "b")
        assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(tmp_path / "b"))
        assert os.listdir(tmp_path) == ["a"]


class TestSyncAll:
    def test_few_one_by_one(self, tmp_path, calls):
        (tmp_path / "a").touch()
        durable.sync_all([tmp_path / "a", tmp_path])
        assert calls.made == ["fsync", "fsync"]

    def test_many_at_once(self, tmp_path, calls):
        files = [tmp_path / str(number) for number in range(9)]
        for file in files:
            file.touch()
        durable.sync_all(files)
        assert calls.made == ["syncfs"]

    def test_syncfs_is_real(self, tmp_path):
        fd = os.open(tmp_path, os.O_RDONLY)
        assert durable._syncfs(fd) == 0
        os.close(fd)
        assert durable._syncfs(fd) == errno.EBADF

    def test_without_syncfs(self, tmp_path, calls, monkeypatch):
        monkeypatch.setattr(durable, "_syncfs", lambda fd: errno.ENOSYS)
        durable.sync_all([tmp_path] * 9)
        assert calls.made == ["sync"]

    def test_error_of_syncfs(self, tmp_path, monkeypatch):
        monkeypatch.setattr(durable, "_syncfs", lambda fd: errno.EIO)
        with pytest.raises(OSError) as raised:
            durable.sync_all([tmp_path] * 9)
        assert raised.value.errno == errno.EIO

    def test_a_file_that_cannot_be_opened(self, tmp_path, calls, monkeypatch):
        (tmp_path / "a").touch()

        def forbidden(path):
            raise PermissionError(errno.EACCES, "forbidden", str(path))

        monkeypatch.setattr(durable, "fsync_file", forbidden)
        durable.sync_all([tmp_path / "a"])
        assert calls.made == ["syncfs"]


def test_fsync_names_the_file(tmp_path, monkeypatch):
    (tmp_path / "a").touch()

    def broken(fd):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError) as raised:
        durable.fsync_file(tmp_path / "a")
    assert (raised.value.errno, raised.value.filename) == (errno.EIO, str(tmp_path / "a"))


def test_a_folder_that_cannot_be_synced_is_fine(tmp_path, monkeypatch):
    def unable(fd):
        raise OSError(errno.EINVAL, "no")

    monkeypatch.setattr(os, "fsync", unable)
    durable.fsync_folder(tmp_path)


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert durable.sha256_file(tmp_path / "a") == digest


def test_folders_and_removal(tmp_path):
    folder = tmp_path / "a"
    durable.make_folder(folder)
    durable.make_folder(folder)
    (folder / "b").mkdir()
    (folder / "b" / "c").touch()
    (tmp_path / "kept").touch()
    (folder / "link").symlink_to(tmp_path)
    durable.remove_tree(folder)
    durable.remove_tree(folder)
    durable.remove_file(folder)
    durable.remove_folder(folder)
    assert os.listdir(tmp_path) == ["kept"]


def test_folders_above_are_made_and_their_names_synced(tmp_path, calls):
    durable.make_folders(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert calls.made == ["fsync", "fsync"]
    durable.make_folders(tmp_path / "a" / "b")
    assert calls.made == ["fsync", "fsync"]
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        durable.make_folders(tmp_path / "file")


def test_a_second_name_or_a_copy(tmp_path, monkeypatch, calls):
    (tmp_path / "a").write_text("A")
    (tmp_path / "a").chmod(0o640)
    durable.link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").samefile(tmp_path / "a")
    assert calls.made == ["link", "fsync"]
    monkeypatch.setattr(os, "link", lambda *_, **__: os.close(-1))
    durable.link_or_copy(tmp_path / "a", tmp_path / "c")
    assert not (tmp_path / "c").samefile(tmp_path / "a")
    assert ((tmp_path / "c").read_text(), (tmp_path / "c").stat().st_mode & 0o777) == ("A", 0o640)
    with pytest.raises(FileExistsError):
        durable.link_or_copy(tmp_path / "a", tmp_path / "c")


def test_files_are_synced_with_the_folders_that_lead_to_them(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(durable, "sync_all", synced.extend)
    durable.sync_below(tmp_path / "job", [tmp_path / "job" / "work" / "tts" / "a.wav"])
    names = [str(path.relative_to(tmp_path)) for path in synced]
    assert names == ["job/work/tts/a.wav", "job/work/tts", "job/work", "job"]


def test_nothing_leaks_a_descriptor(tmp_path):
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    (tmp_path / "a").touch()
    before = count()
    durable.write_atomic(tmp_path / "a", b"x")
    durable.copy_synced(Path(tmp_path / "a"), tmp_path / "b")
    durable.sync_all([tmp_path / "a", tmp_path])
    durable.sync_all([tmp_path] * 9)
    assert count() == before
