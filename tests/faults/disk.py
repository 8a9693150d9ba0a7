"""What a power cut may leave of a folder, in the manner of LevelDB's fault_injection_test.

`Disk` watches a folder by looking at it before every step that somebody makes there, and hears of every sync. So it
knows what must be on the disk, and what may be: content that was written and not synced, and changes of names whose
folders were not synced. As journaling file systems do, it keeps a rename whole, and the order of what concerns the
same names; anything else that was not synced may or may not have happened.
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

Entry = tuple[int, str]
"""A name in a folder: the folder's inode, and the name."""


@dataclass(frozen=True)
class Content:
    """What a file held at one moment."""

    data: bytes
    mtime_ns: int


@dataclass
class Change:
    """A change of names: what each entry is from now on (an inode, or None), which other changes it comes after."""

    entries: dict[Entry, int | None]
    after: list[Change]
    unsynced: set[int]

    def with_all_before(self) -> list[Change]:
        """The change and all that it cannot happen without, in their order."""
        found: dict[int, Change] = {}
        for change in self.after:
            found |= {id(one): one for one in change.with_all_before()}
        return [*found.values(), self]


@dataclass(frozen=True)
class Moment:
    """What is known of the disk at one moment.

    Attributes:
        what: the step that is about to be made.
        folders: the inodes that are folders.
        durable: the entries that are on the disk.
        pending: changes that may be.
        synced: the content that is on the disk, by inode.
        live: the content as running programs see it.
        database: the ledger's files, which SQLite looks after itself, as of the last commit.
    """

    what: str
    root: int
    folders: frozenset[int]
    durable: Mapping[Entry, int]
    pending: tuple[Change, ...]
    synced: Mapping[int, Content]
    live: Mapping[int, Content]
    database: Mapping[str, bytes]


@dataclass
class Disk:
    """Watches a folder.

    Args:
        root: the folder.
        vault: an empty folder on the same file system, which gets a link to each file: its inode is not used again.
        ledger: the path of the ledger, relative to the root, which is watched as a database.
    """

    root: Path
    vault: Path
    ledger: str
    moments: list[Moment] = field(default_factory=list)
    _folders: set[int] = field(default_factory=set)
    _entries: dict[Entry, int] = field(default_factory=dict)
    _durable: dict[Entry, int] = field(default_factory=dict)
    _pending: list[Change] = field(default_factory=list)
    _synced: dict[int, Content] = field(default_factory=dict)
    _live: dict[int, Content] = field(default_factory=dict)
    _database: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._top = self.root.stat().st_ino
        self._look()
        self.all_synced()

    def before(self, what: str) -> None:
        """Somebody is about to do something: the power may fail here."""
        self._look()
        moment = Moment(
            what,
            self._top,
            frozenset(self._folders),
            dict(self._durable),
            tuple(self._pending),
            dict(self._synced),
            {inode: self._live[inode] for inode in set(self._entries.values()) - self._folders},
            dict(self._database),
        )
        self.moments.append(moment)

    def synced(self, inode: int) -> None:
        """A file's content, or a folder's names, are on the disk from now on."""
        self._look()
        if inode in self._folders:
            for change in self._pending:
                change.unsynced.discard(inode)
            for change in [change for change in self._pending if not change.unsynced]:
                self._settle(change)
        elif inode in self._live:
            self._synced[inode] = self._live[inode]

    def all_synced(self) -> None:
        """All is on the disk from now on."""
        self._look()
        for change in list(self._pending):
            self._settle(change)
        self._synced = dict(self._live)

    def _settle(self, change: Change) -> None:
        for one in change.with_all_before():
            if one in self._pending:
                _apply(self._durable, one)
                self._pending = [other for other in self._pending if other is not one]

    def _look(self) -> None:
        entries: dict[Entry, int] = {}
        depths: dict[int, int] = {self._top: 0}
        self._folders.add(self._top)
        self._walk(self.root, self._top, entries, depths)
        before = self._entries
        gone = {entry for entry in before if entries.get(entry) != before[entry]}
        new = {entry: inode for entry, inode in entries.items() if before.get(entry) != inode}
        moved = {before[entry]: entry for entry in gone if before[entry] in new.values()}
        self._depths = {**getattr(self, "_depths", {}), **depths}
        # What goes out of a folder goes before the folder itself, and what comes into one comes after it.
        for entry in sorted(gone - set(new) - set(moved.values()), key=lambda entry: -self._depths[entry[0]]):
            self._note({entry: None})
        for entry, inode in sorted(new.items(), key=lambda item: self._depths[item[0][0]]):
            left = moved.pop(inode, None)
            self._note({**({left: None} if left and left not in new else {}), entry: inode})
        self._entries = entries

    def _walk(self, folder: Path, inode: int, entries: dict[Entry, int], depths: dict[int, int]) -> None:
        for entry in os.scandir(folder):
            path = Path(entry.path)
            if str(path.relative_to(self.root)).startswith(self.ledger):
                self._read_database(path)
                continue
            facts = entry.stat(follow_symlinks=False)
            entries[inode, entry.name] = facts.st_ino
            if stat.S_ISDIR(facts.st_mode):
                self._folders.add(facts.st_ino)
                depths[facts.st_ino] = depths[inode] + 1
                self._walk(path, facts.st_ino, entries, depths)
            elif stat.S_ISREG(facts.st_mode):
                self._read(path, facts)

    def _read(self, path: Path, facts: os.stat_result) -> None:
        if not (self.vault / str(facts.st_ino)).exists():
            os.link(path, self.vault / str(facts.st_ino))
        self._live[facts.st_ino] = Content(path.read_bytes(), facts.st_mtime_ns)

    def _read_database(self, path: Path) -> None:
        if not path.name.endswith("-shm"):
            self._database[path.name] = path.read_bytes()

    def _note(self, entries: dict[Entry, int | None]) -> None:
        touched = {inode for inode in entries.values() if inode is not None} | {self._was(entry) for entry in entries}
        after = [
            change
            for change in self._pending
            if entries.keys() & change.entries.keys()  # the same name
            or any(inode in change.entries.values() for inode, _ in entries)  # its folder was made or moved
            or any(inode in touched for inode, _ in change.entries)  # the folder had to be emptied, or comes along
        ]
        self._pending.append(Change(entries, after, {folder for folder, _ in entries}))

    def _was(self, entry: Entry) -> int | None:
        return self._entries.get(entry)


def _apply(entries: dict[Entry, int], change: Change) -> None:
    for entry, inode in change.entries.items():
        if inode is None:
            entries.pop(entry, None)
        else:
            entries[entry] = inode


def _none(_moment: Moment, _draw: random.Random) -> tuple[list[Change], dict[int, Content]]:
    return [], {}


def _all(moment: Moment, _draw: random.Random) -> tuple[list[Change], dict[int, Content]]:
    return list(moment.pending), dict(moment.live)


def _names(moment: Moment, _draw: random.Random) -> tuple[list[Change], dict[int, Content]]:
    return list(moment.pending), {}


def _some(moment: Moment, draw: random.Random) -> tuple[list[Change], dict[int, Content]]:
    share = draw.random()
    happened = {
        id(one): one
        for change in moment.pending
        if draw.random() < share
        for one in change.with_all_before()
        if one in moment.pending
    }
    return [change for change in moment.pending if id(change) in happened], {
        inode: _part(content, draw) for inode, content in moment.live.items() if draw.random() < share
    }


def _part(content: Content, draw: random.Random) -> Content:
    """Written in part, or as a hole of the right size, or all of it."""
    written = draw.choice([0, len(content.data), draw.randint(0, len(content.data))])
    hole = bytes(len(content.data) - written) if draw.random() < 0.5 else b""
    return Content(content.data[:written] + hole, content.mtime_ns)


FATES = {"nothing": _none, "everything": _all, "names alone": _names, "some": _some}
"""What happens to all that was not synced."""


@dataclass(frozen=True)
class State:
    """One state of the disk that a power cut may leave."""

    root: int
    folders: frozenset[int]
    entries: Mapping[Entry, int]
    contents: Mapping[int, Content]
    database: Mapping[str, bytes]

    @classmethod
    def after(cls, moment: Moment, fate: str, draw: random.Random) -> State:
        """What is left if the power fails at the moment."""
        changes, written = FATES[fate](moment, draw)
        entries = dict(moment.durable)
        for change in changes:
            _apply(entries, change)
        contents = {}
        for inode in set(entries.values()) - moment.folders:
            synced = moment.synced.get(inode)
            is_safe = synced is not None and synced == moment.live.get(inode, synced)
            contents[inode] = synced if is_safe and synced else written.get(inode, synced or Content(b"", 1))
        return cls(moment.root, moment.folders, entries, contents, moment.database)

    def __hash__(self) -> int:
        return hash(self._key())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, State) and self._key() == other._key()

    def _key(self) -> tuple[object, ...]:
        return (
            frozenset(self.entries.items()),
            frozenset(self.contents.items()),
            tuple(sorted(self.database.items())),
        )

    def build(self, target: Path, vault: Path, ledger: str) -> None:
        """Make the folder, in an empty one: with the inodes of before, by which the daemon knows files again."""
        self._build(target, self.root, vault)
        if (target / ledger).parent.is_dir():
            for name, data in self.database.items():
                (target / ledger).with_name(name).write_bytes(data)

    def _build(self, target: Path, folder: int, vault: Path) -> None:
        for (parent, name), inode in self.entries.items():
            if parent != folder:
                continue
            if inode in self.folders:
                (target / name).mkdir()
                self._build(target / name, inode, vault)
            else:
                content = self.contents[inode]
                kept = vault / str(inode)
                kept.write_bytes(content.data)
                os.utime(kept, ns=(content.mtime_ns, content.mtime_ns))
                os.link(kept, target / name)
