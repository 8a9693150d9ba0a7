import errno
import os
import socket

import pytest

from atenea.inbox import nofollow


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    (folder / "in" / "deep").mkdir(parents=True)
    (folder / "in" / "deep" / "a.txt").write_text("inside")
    (tmp_path / "secret").write_text("outside")
    return folder


def read(fd):
    with os.fdopen(fd) as file:
        return file.read()


def test_a_file_beneath(root):
    assert read(nofollow.open_beneath(root, "in/deep/a.txt")) == "inside"


def test_the_root_may_be_a_link(root, tmp_path):
    (tmp_path / "link").symlink_to(root)
    assert read(nofollow.open_beneath(tmp_path / "link", "in/deep/a.txt")) == "inside"


def test_odd_names(root):
    for name in ("a\nb", "\udcff", "..a", "n" * 255):
        (root / name).write_text("odd")
        assert read(nofollow.open_beneath(root, name)) == "odd"


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret", "in/../../secret", "", ".", "in//deep", "in/", "a\0b"])
def test_paths_that_are_refused(root, path):
    with pytest.raises(OSError) as raised:
        nofollow.open_beneath(root, path)
    assert raised.value.errno == errno.EINVAL


def test_links_at_every_component(root, tmp_path):
    (root / "a.txt").symlink_to(tmp_path / "secret")
    (root / "inside.txt").symlink_to("in/deep/a.txt")
    (root / "link").symlink_to("in")
    (root / "in" / "link").symlink_to("deep")
    for path in ("a.txt", "inside.txt"):
        with pytest.raises(OSError) as raised:
            nofollow.open_beneath(root, path)
        assert raised.value.errno == errno.ELOOP
    for path in ("link/deep/a.txt", "in/link/a.txt"):
        with pytest.raises(OSError) as raised:
            nofollow.open_beneath(root, path)
        assert raised.value.errno in {errno.ELOOP, errno.ENOTDIR}


def test_only_regular_files(root):
    os.mkfifo(root / "fifo")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(root / "sock"))
    server.close()
    for path in ("fifo", "sock", "in"):
        with pytest.raises(OSError) as raised:
            nofollow.open_beneath(root, path)
        assert raised.value.errno == errno.EINVAL


def test_a_fifo_that_takes_the_place_of_a_file(root, monkeypatch):
    """Between the look and the opening: neither waits for a writer nor hands it out."""
    (root / "a.txt").write_text("x")
    status = os.stat(root / "a.txt")
    (root / "a.txt").unlink()
    os.mkfifo(root / "a.txt")
    monkeypatch.setattr(os, "stat", lambda *args, **kwargs: status)
    with pytest.raises(OSError) as raised:
        nofollow.open_regular(root / "a.txt")
    monkeypatch.undo()
    assert raised.value.errno == errno.EINVAL


def test_missing(root):
    for path in ("b.txt", "nowhere/b.txt"):
        with pytest.raises(FileNotFoundError):
            nofollow.open_beneath(root, path)
