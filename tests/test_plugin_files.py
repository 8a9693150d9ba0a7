"""Which plugin files are loaded: owners, modes, kinds of files."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

import pytest

from atenea import plugin_files
from atenea.plugin_files import UnsafePluginError, is_private_group, read_plugin

STRANGER = 54321
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    folder = tmp_path / "plugins"
    folder.mkdir(mode=0o755)
    file = folder / "a.py"
    file.write_bytes(b"x = 1")
    file.chmod(0o644)
    return file


@pytest.fixture
def users(monkeypatch):
    """Ana has a private group 700; Ben and Carl share 800, which Ben calls his own."""
    people = {
        "ana": pwd.struct_passwd(("ana", "x", 700, 700, "", "/", "/bin/sh")),
        "ben": pwd.struct_passwd(("ben", "x", 800, 800, "", "/", "/bin/sh")),
        "carl": pwd.struct_passwd(("carl", "x", 801, 800, "", "/", "/bin/sh")),
        "dora": pwd.struct_passwd(("dora", "x", 900, 900, "", "/", "/bin/sh")),
    }
    groups = {
        700: grp.struct_group(("ana", "x", 700, [])),
        800: grp.struct_group(("ben", "x", 800, [])),
        900: grp.struct_group(("dora", "x", 900, ["dora", "carl"])),
    }
    by_uid = {person.pw_uid: person for person in people.values()}
    monkeypatch.setattr(plugin_files.pwd, "getpwuid", by_uid.__getitem__)
    monkeypatch.setattr(plugin_files.pwd, "getpwall", lambda: list(people.values()))
    monkeypatch.setattr(plugin_files.grp, "getgrgid", groups.__getitem__)


def facts(*, mode: int = 0o644, uid: int = 0, gid: int = 0) -> os.stat_result:
    return os.stat_result((0o100000 | mode, 1, 1, 1, uid, gid, 5, 0, 0, 0))


def test_a_good_file(plugin):
    assert read_plugin(plugin) == b"x = 1"


@pytest.mark.parametrize("mode", [0o646, 0o666, 0o602])
def test_a_file_that_everybody_may_write(plugin, mode):
    plugin.chmod(mode)
    with pytest.raises(UnsafePluginError, match=f"chmod go-w {plugin}"):
        read_plugin(plugin)


def test_a_folder_that_everybody_may_write(plugin):
    plugin.parent.chmod(0o1777)
    with pytest.raises(UnsafePluginError, match=f"chmod go-w {plugin.parent}$"):
        read_plugin(plugin)


@as_root
@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_strangers(plugin, what):
    path = plugin if what == "file" else plugin.parent
    os.chown(path, STRANGER, STRANGER)
    with pytest.raises(UnsafePluginError, match=f"{path} belongs to user {STRANGER}, .*chown root {path}"):
        read_plugin(plugin)


@as_root
def test_the_owner_of_the_code_is_trusted(plugin, monkeypatch):
    os.chown(plugin, STRANGER, STRANGER)
    monkeypatch.setattr(plugin_files, "__file__", str(plugin))
    assert read_plugin(plugin) == b"x = 1"


@as_root
def test_a_file_that_a_shared_group_may_write(plugin):
    os.chown(plugin, 0, STRANGER)
    plugin.chmod(0o664)
    with pytest.raises(UnsafePluginError, match=f"changed by the group {STRANGER}; protect it: chmod go-w"):
        read_plugin(plugin)


def test_private_groups(users):
    assert is_private_group(700, 700)
    assert not is_private_group(800, 800), "carl is in it too"
    assert not is_private_group(900, 900), "carl is a member"
    assert not is_private_group(700, 801), "not his own"
    assert not is_private_group(12345, 700), "unknown group"
    assert not is_private_group(700, 12345), "unknown user"


def test_group_writable_is_fine_for_a_private_group(users, monkeypatch):
    monkeypatch.setattr(plugin_files, "trusted_owners", lambda: frozenset({700, 900}))
    plugin_files.refuse_unsafe(Path("/p/a.py"), facts(mode=0o664, uid=700, gid=700))
    with pytest.raises(UnsafePluginError, match="by the group dora"):
        plugin_files.refuse_unsafe(Path("/p/a.py"), facts(mode=0o664, uid=900, gid=900))


def test_links(plugin, tmp_path):
    link = plugin.with_name("b.py")
    link.symlink_to(plugin)
    with pytest.raises(UnsafePluginError, match=r"b\.py is a symbolic link; put the file itself there"):
        read_plugin(link)
    folder = tmp_path / "linked"
    folder.symlink_to(plugin.parent)
    with pytest.raises(UnsafePluginError, match="linked is a symbolic link or no folder"):
        read_plugin(folder / "a.py")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file(plugin, make):
    make(plugin.with_name("b.py"))
    with pytest.raises(UnsafePluginError, match="is not a regular file"):
        read_plugin(plugin.with_name("b.py"))


def test_no_descriptor_is_left(plugin):
    before = len(os.listdir("/proc/self/fd"))
    read_plugin(plugin)
    plugin.chmod(0o666)
    with pytest.raises(UnsafePluginError):
        read_plugin(plugin)
    with pytest.raises(FileNotFoundError):
        read_plugin(plugin.with_name("missing.py"))
    assert len(os.listdir("/proc/self/fd")) == before
