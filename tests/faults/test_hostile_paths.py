"""Files and folders that are exchanged for links while they are taken and copied: nothing outside is touched."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults.swapping import CANARY, Swapper, exchange, facts, outside, with_the_canary
from system.conftest import new_instance
from system.instance import Instance, NewInstance

from atenea import durable
from atenea.config import load_config
from atenea.errors import MistakesError
from atenea.inbox.late import bring_rest, opened_rest, put_into, rest_folder
from atenea.inbox.nofollow import folder_beneath
from atenea.inbox.scan import Scanner
from atenea.inbox.taking import Taker
from atenea.intake import Intake
from atenea.ledger import Ledger
from atenea.plugin_manager import PluginManager

__all__ = ["new_instance"]

ROUNDS = 40


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "inbox/news").mkdir(parents=True)
    (tmp_path / "state/jobs").mkdir(parents=True)
    return tmp_path / "inbox"


@pytest.fixture
def beyond(tmp_path: Path) -> Path:
    return outside(tmp_path / "outside", "a.txt", "job.toml", "diary.txt", "deep/diary.txt")


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "_fsync", lambda path, flags: None)
    monkeypatch.setattr(durable, "_syncfs", lambda fd: 0)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "state/ledger.sqlite")
    yield ledger
    ledger.close()


@pytest.mark.parametrize("way", ["rename", "copy"])
def test_what_is_exchanged_while_it_is_taken(
    inbox: Path,
    beyond: Path,
    ledger: Ledger,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
    way: str,
) -> None:
    if way == "copy":
        rename = durable._renameat2
        monkeypatch.setattr(durable, "_renameat2", _renames_only_within(inbox, rename))
    (tmp_path / "links").mkdir()
    for name, target in (("a.txt", "a.txt"), ("news", ""), ("folder", "")):
        (tmp_path / "links" / name).symlink_to(beyond / target)
    scanner = Scanner(inbox, {"news"}, 0, report=lambda _: None)
    taker = Taker(inbox, tmp_path / "state", {"news"}, ledger, report=lambda _: None)
    taker.recover()
    before = facts(beyond)
    swapper, taken = Swapper(), 0
    pairs = [(inbox / name, tmp_path / "links" / name) for name in ("a.txt", "news", "folder")]
    for number in range(ROUNDS):
        for mine, link in pairs:
            _put_right(mine, link)
        (inbox / "a.txt").write_text(f"hello {number}")
        (inbox / "news").mkdir(exist_ok=True)
        (inbox / "news/a.txt").write_text("hello")
        (inbox / "folder").mkdir(exist_ok=True)
        (inbox / "folder/job.toml").write_text("text = 'hello'")
        with swapper.at_work(*pairs):
            scanner.scan()
            taken += len(taker.take(scanner.scan().settled))
    assert swapper.swaps > ROUNDS
    assert taken > ROUNDS // 20
    assert with_the_canary(tmp_path / "state") == []
    assert facts(beyond) == before
    record_property("Nothing outside", (swapper.swaps, f"exchanges by {way}"))


def _put_right(mine: Path, link: Path) -> None:
    """The link outside the inbox again, where it was taken, and put back, between an exchange and the next."""
    if mine.is_symlink() and not link.is_symlink():
        exchange(mine, link) or mine.rename(link)


def _renames_only_within(inbox: Path, rename):
    """As on a mount of its own: what is renamed from the inbox to elsewhere must be copied."""

    def renameat2(source: int, name: bytes, target: int, *rest: object) -> int:
        leaves = source >= 0 and target < 0
        return errno.EXDEV if leaves else rename(source, name, target, *rest)

    return renameat2


def test_a_rest_that_is_exchanged_for_a_link(
    inbox: Path, beyond: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    rest, original = rest_folder(inbox, "1"), tmp_path / "state/jobs/1/original"
    original.mkdir(parents=True)
    (original / "a.txt").write_text("hello")
    link = tmp_path / "link"
    link.symlink_to(beyond)
    before = facts(beyond)
    swapper = Swapper()
    for number in range(ROUNDS):
        (inbox / "a.txt").write_text(f"hello {number}")
        rest.mkdir(exist_ok=True)
        with swapper.at_work((rest, link)), folder_beneath(inbox) as folder:
            for act in (_move_into, _bring, _remove):
                try:
                    act(rest, original, folder)
                except OSError as error:
                    assert error.errno in {errno.ENOTDIR, errno.ELOOP, errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY}
    assert swapper.swaps > ROUNDS
    assert with_the_canary(tmp_path / "state") == []
    assert facts(beyond) == before
    record_property("Nothing outside", (swapper.swaps, "of what a copied job leaves"))


def _move_into(rest: Path, _original: Path, folder: int) -> None:
    put_into(rest, "a.txt", "a.txt", folder)


def _bring(rest: Path, original: Path, _folder: int) -> None:
    with opened_rest(rest) as opened:
        if opened:
            bring_rest(opened, original, "a.txt")


def _remove(rest: Path, _original: Path, _folder: int) -> None:
    durable.remove_tree(rest)


def test_a_link_in_place_of_a_rest_is_neither_read_nor_emptied(inbox: Path, beyond: Path, tmp_path: Path) -> None:
    rest_folder(inbox, "1").symlink_to(beyond)
    before = facts(beyond)
    with opened_rest(rest_folder(inbox, "1")) as opened:
        assert opened is None
    with pytest.raises(NotADirectoryError):
        durable.remove_tree(rest_folder(inbox, "1"))
    (inbox / "b.txt").write_text("mine")
    with folder_beneath(inbox) as folder, pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        put_into(rest_folder(inbox, "1"), "b.txt", "b.txt", folder)
    assert facts(beyond) == before


def test_named_files_that_are_exchanged_while_they_are_copied(
    inbox: Path, beyond: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    (tmp_path / "atenea.toml").write_text("[watch]\nsettle_seconds = 0\n[presets.news]\npriority = 1\n")
    config = load_config(tmp_path / "atenea.toml")
    plugins = PluginManager(config.paths.plugins, cache=tmp_path / "cache")
    folder = tmp_path / "state/jobs/1"
    (folder / "original/news").mkdir(parents=True)
    (inbox / "news/deep").mkdir()
    (inbox / "news/diary.txt").write_text("Dear diary.")
    (inbox / "news/deep/diary.txt").write_text("Dear diary.")
    pairs = []
    for name in ("news", "news/deep", "news/diary.txt"):
        link = tmp_path / f"link-{len(pairs)}"
        link.symlink_to(beyond / name.removeprefix("news").lstrip("/"))
        pairs.append((inbox / name, link))
    before = facts(beyond)
    swapper, made = Swapper(), 0
    with swapper.at_work(*pairs):
        for number in range(ROUNDS):
            name = ("diary.txt", "deep/diary.txt")[number % 2]
            (folder / "original/news/a.toml").write_text(f"text_file = '{name}'")
            intake = Intake(config, plugins, folder, relative="news/a.toml", preset="news", previous={})
            try:
                made += "steps" in intake.run("1")
            except MistakesError as error:
                assert CANARY not in str(error)
            assert with_the_canary(folder) == []
    assert swapper.swaps > ROUNDS
    assert made > 0
    assert facts(beyond) == before
    record_property("Nothing outside", (swapper.swaps, "of named files"))


def test_an_outbox_that_is_full_of_links(new_instance: NewInstance, beyond: Path) -> None:
    instance = new_instance("[outbox]\nprogress_files = true\n")
    for suffix in (".mp4", ".json", ".error.txt", ".progress.txt"):
        (instance.outbox / f"a{suffix}").symlink_to(beyond / "diary.txt")
        (instance.outbox / f"b{suffix}").symlink_to(beyond / "new")
    before = facts(beyond)
    instance.drop("a.txt", "Hello.")
    instance.drop("b.toml", "text = 7")
    instance.atenea("run", "--once", code=1)
    assert {"a-2.mp4", "a-2.json", "b-2.error.txt"} <= set(instance.outputs())
    assert facts(beyond) == before


HOSTILE_NAMES = [
    "-rf *.txt",
    "$(touch owned).txt",
    "`touch owned`;&|.txt",
    "%s%n{0}{job.id}.txt",
    "two\nlines\r.txt",
    "\x1b[31mred\x07.txt",
    "\u202etxt.exe\u2066.txt",
    "a\u0301\u0301\u0301\u200b.txt",
    "\udcff\udcfe.txt",
    "n" * 251 + ".txt",
    "~.txt",
    "con:aux|.txt",
]


def test_hostile_names_are_names_and_nothing_more(new_instance: NewInstance, beyond: Path) -> None:
    instance = new_instance("[limits]\nwait_for_files_seconds = 0\n[render]\nplugin = 'nobody'\n")
    instance.plugin("nobody", "@hookimpl\ndef render(job, wav, ctx): ...\n")
    for name in HOSTILE_NAMES:
        (instance.inbox / name).write_text(" ")  # nothing to speak
    odd = (
        "/etc/passwd",
        "../atenea.toml",
        "link",
        "fifo",
        "a\\nb",
        "\\u202e",
        "\\u0000",
        "",
        ".",
        "a/../../b",
        "n" * 300,
    )
    for number, name in enumerate(odd):
        instance.drop(f"names-{number}.toml", f'text_file = "{name}"')
    (instance.inbox / "link").symlink_to(beyond / "diary.txt")
    os.mkfifo(instance.inbox / "fifo")
    (instance.inbox / "linked.txt").symlink_to(beyond / "diary.txt")
    os.mkfifo(instance.inbox / "piped.txt")
    _make_device(instance)
    instance.atenea("run", "--once", code=1)
    answers = [name for name in instance.outputs() if name.endswith(".error.txt")]
    assert len(answers) == len(HOSTILE_NAMES) + len(odd)
    for answer in answers:
        assert answer.isprintable()
        first, second, *_ = (instance.outbox / answer).read_text().split("\n")
        assert first.isprintable()
        assert second == ""
        assert "Traceback" not in (instance.outbox / answer).read_text()
    assert not list(instance.folder.rglob("owned"))
    assert (
        all(line.startswith("{") for line in instance.log.read_text().splitlines()) if instance.log.exists() else True
    )
    assert with_the_canary(instance.folder / "state", instance.outbox) == []
    assert {"link", "fifo", "linked.txt", "piped.txt"} <= set(os.listdir(instance.inbox))


def _make_device(instance: Instance) -> None:
    if os.geteuid() == 0:
        os.mknod(instance.inbox / "device.txt", 0o020600, os.makedev(1, 5))
