"""Taking jobs: from the inbox into the state folder and the ledger, so that no crash loses or doubles one.

A taken job lies in `STATE/jobs/ID/original`, which mirrors the inbox: the folder of a preset is kept. By rename:

1. make the job's folders; 2. rename the picture, then what makes it a job; 3. look whether it is still what had
settled, else put it back; 4. sync; 5. commit the rows of a whole batch.

A crash before 5 leaves folders without a row. `recover` enters those that hold a whole job; all else goes back to the
inbox. Where the inbox cannot be renamed from (another mount, or a sandbox that forbids it):

1. copy into the hidden folder `STATE/jobs/ID/.copy`, synced; 2. look whether the source is still what had settled;
3. commit the row as an unfinished copy; 4. rename `.copy` to `original`; 5. rename the source into the hidden folder
`INBOX/.atenea-ID`; 6. remove that when nobody can write into it any more, or when it no longer matters (see `late`);
7. tell the ledger.

A crash before 3 leaves a hidden folder without a row, which is removed; later, the ledger says what is unfinished. A
source that cannot be removed stays unfinished, and is not taken again until it changes.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from atenea import durable
from atenea.inbox import names
from atenea.inbox.late import NO_RENAME, REST, opened_rest, put_into, rest_folder
from atenea.inbox.names import Kind
from atenea.inbox.nofollow import folder_beneath, open_beneath
from atenea.inbox.readings import (
    Reading,
    Readings,
    digest,
    fingerprint,
    read_file,
    read_job,
    read_status,
    survey,
)
from atenea.inbox.scan import Candidate, refusal_of
from atenea.inbox.taken import TakenRow
from atenea.inbox.writers import is_written

_log = logging.getLogger(__name__)

ORIGINAL = "original"
COPY = ".copy"


class TakingLedger(Protocol):
    """What taking needs of the ledger. Each change is one transaction, durable when the call returns."""

    def new_ids(self, count: int, /) -> list[str]:
        """Ids that no job has or had."""

    def add_taken(self, rows: Sequence[TakenRow], /) -> None:
        """Enter the jobs, all or none."""

    def knows(self, job_id: str, /) -> bool:
        """Whether there is such a job."""

    def unfinished_copies(self) -> Sequence[TakenRow]:
        """The rows with `copied` for which `copy_finished` was not called."""

    def copy_finished(self, job_id: str, /) -> None:
        """The inbox no longer holds the source of this job."""

    def is_past_changes(self, job_id: str, /) -> bool:
        """Whether the job would not start over any more if its original changed."""


class _StaysError(Exception):
    """A job stays in the inbox, because it is no longer what had settled or cannot be copied."""


class Taker:
    """Takes settled jobs into the state folder. Call `recover` once before anything else.

    `report` gets a sentence for each thing that a person should know, once while it lasts.
    """

    def __init__(
        self,
        inbox: Path,
        state: Path,
        presets: Collection[str],
        ledger: TakingLedger,
        report: Callable[[str], None] = _log.warning,
    ) -> None:
        self._inbox = inbox
        self._jobs = state / "jobs"
        self._ledger = ledger
        self._presets = frozenset(presets)
        self._report = report
        self._reported: set[tuple[str, str]] = set()
        self._unfinished: dict[str, TakenRow] = {}
        self._in_doubt: list[str] = []
        self._not_undone: list[str] = []

    def take(self, candidates: Sequence[Candidate]) -> list[TakenRow]:
        """Take what still is as it had settled, and enter it in the ledger with one commit.

        Raises:
            OSError: the state folder cannot be written or synced.
            Exception: what the ledger raises. Either way the next call begins with putting things right.
        """
        taken = self._settle_doubts()
        self._remember_copies()
        self._finish_copies()
        if candidates:
            taken += self._take_batch(candidates)
        return taken

    def recover(self) -> list[TakenRow]:
        """Put right what a crash left behind; returns the jobs that are entered only now."""
        durable.make_folder(self._jobs)
        durable.fsync_folder(self._jobs.parent)
        self._in_doubt = sorted(entry.name for entry in os.scandir(self._jobs) if entry.is_dir(follow_symlinks=False))
        taken = self._settle_doubts()
        self._remember_copies()
        self._finish_copies()
        return taken

    # Taking

    def _take_batch(self, candidates: Sequence[Candidate]) -> list[TakenRow]:
        candidates = [candidate for candidate in candidates if not self._is_copied(candidate)]
        job_ids = self._ledger.new_ids(len(candidates))
        self._in_doubt = job_ids
        rows = []
        for candidate, job_id in zip(candidates, job_ids, strict=True):
            if row := self._take_one(candidate, job_id):
                rows.append(row)
        self._commit(rows)
        for row in rows:
            if row.copied:
                self._unfinished[row.job_id] = row
                self._finish_copy(row)
        return rows

    def _commit(self, rows: Sequence[TakenRow]) -> None:
        if rows:
            durable.sync_all(self._places(rows))
            self._ledger.add_taken(rows)
        self._in_doubt, self._not_undone = self._not_undone, []

    def _take_one(self, candidate: Candidate, job_id: str) -> TakenRow | None:
        """Bring the job into its folder, not yet synced; None when it stays in the inbox."""
        try:
            copied = self._move(candidate, job_id)
            mark = fingerprint(self._jobs / job_id / (COPY if copied else ORIGINAL), candidate.relative)
        except _StaysError:
            self._undo(job_id)
            return None
        except OSError as error:
            self._once("take", candidate.relative, f"{candidate.relative!r} cannot be taken: {error.strerror}")
            self._undo(job_id)
            return None
        self._reported.discard(("take", candidate.relative))
        return _row(job_id, candidate, mark, copied)

    def _move(self, candidate: Candidate, job_id: str) -> bool:
        """Rename the job, or else copy it; whether it was copied."""
        if not self._still(candidate):
            raise _StaysError
        try:
            self._rename(candidate, job_id)
        except FileNotFoundError as error:
            raise _StaysError from error
        except OSError as error:
            if error.errno not in NO_RENAME:
                raise
        else:
            return False
        self._undo(job_id)
        if candidate.refusal is not None:
            self._once("copy", candidate.relative, f"{candidate.refusal}; it stays where it is")
            raise _StaysError
        self._copy(candidate, job_id)
        return True

    def _rename(self, candidate: Candidate, job_id: str) -> None:
        original = self._make_folders(job_id, ORIGINAL, candidate.preset)
        with folder_beneath(self._inbox, candidate.preset or "") as source:
            for piece in candidate.pieces:
                durable.rename_exclusive(piece.rpartition("/")[2], original / piece, src_dir_fd=source)
        # A writer, or somebody who swapped the file for a link, may have been faster than the rename.
        if fingerprint(original, candidate.relative) != digest(candidate.readings):
            raise _StaysError

    def _copy(self, candidate: Candidate, job_id: str) -> None:
        copy = self._make_folders(job_id, COPY, candidate.preset)
        for path, reading in candidate.readings:
            for folder in reversed(Path(path).parents[:-1]):
                durable.make_folder(copy / folder)
            try:
                fd = open_beneath(self._inbox, path)
            except FileNotFoundError as error:
                raise _StaysError from error
            try:
                if Reading.of(os.fstat(fd)) != reading:
                    raise _StaysError
                durable.copy_synced(fd, copy / path)
            finally:
                os.close(fd)
        if not self._still(candidate):
            raise _StaysError

    def _still(self, candidate: Candidate) -> bool:
        """Whether the job in the inbox is as it had settled."""
        try:
            if candidate.is_folder:
                return read_job(self._inbox, candidate.relative) == candidate.readings
            with folder_beneath(self._inbox, candidate.preset or "") as folder:
                return all(
                    read_file(path.rpartition("/")[2], folder) == reading for path, reading in candidate.readings
                )
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _make_folders(self, job_id: str, top: str, preset: str | None) -> Path:
        folder = self._jobs / job_id
        for path in (folder, folder / top, folder / top / (preset or "")):
            durable.make_folder(path)
        return folder / top

    def _undo(self, job_id: str) -> None:
        """Leave nothing of a job that is not taken after all; what cannot go back now is tried again."""
        try:
            self._dissolve(job_id)
        except OSError as error:
            self._not_undone.append(job_id)
            sentence = f"{str(self._jobs / job_id)!r} cannot be put back into the inbox: {error.strerror}"
            self._once("put back", job_id, sentence)

    def _places(self, rows: Sequence[TakenRow]) -> list[Path]:
        """What must be on the disk before the rows: the files, the folders they lie in now, and those they left."""
        places: dict[Path, None] = {}
        for row in rows:
            folder = self._jobs / row.job_id
            top = folder / (COPY if row.copied else ORIGINAL)
            files = [top / path for path, _ in read_job(top, row.relative)]
            parents = [parent for file in files for parent in file.parents if parent.is_relative_to(folder)]
            places |= dict.fromkeys([*files, *parents])
        places |= dict.fromkeys([self._jobs])
        places |= dict.fromkeys(self._inbox / (row.preset or "") for row in rows if not row.copied)
        return [place for place in places if place.exists()]

    # Copies

    def _is_copied(self, candidate: Candidate) -> bool:
        """Whether this is the source of a job that was taken, but could not be removed."""
        return any(
            row.relative == candidate.relative and _unchanged(row.source_readings, candidate.readings)
            for row in self._unfinished.values()
        )

    def _remember_copies(self) -> None:
        self._unfinished = {row.job_id: row for row in self._ledger.unfinished_copies()}

    def _finish_copies(self) -> None:
        for row in list(self._unfinished.values()):
            self._finish_copy(row)

    def _finish_copy(self, row: TakenRow) -> None:
        folder = self._jobs / row.job_id
        if not REST.acquire(blocking=False):
            return  # while something late is brought; the next call goes on
        try:
            if (folder / COPY).exists():
                durable.rename_exclusive(folder / COPY, folder / ORIGINAL)
                durable.fsync_folder(folder)
            self._put_away(row)
            if self._may_change(row):
                return
            durable.remove_tree(rest_folder(self._inbox, row.job_id))
            durable.fsync_folder(self._inbox)
            self._ledger.copy_finished(row.job_id)
        except OSError as error:
            sentence = f"{row.relative!r} was taken, but cannot be removed from the inbox: {error.strerror}"
            self._once("remove", row.relative, sentence)
            return
        finally:
            REST.release()
        del self._unfinished[row.job_id]
        self._reported.discard(("remove", row.relative))

    def _put_away(self, row: TakenRow) -> None:
        """Move what was copied out of sight; when what makes it a job is another file by now, all stays."""
        readings = dict(row.source_readings)
        is_folder = row.relative not in readings
        first = f"{row.relative}/{names.JOB_FILE}" if is_folder else row.relative
        rest = rest_folder(self._inbox, row.job_id)
        if not rest.exists():
            self._check_mounted(row, readings[first])
        if not self._put_away_same(first, readings.pop(first), rest):
            return
        for path, reading in readings.items():
            self._put_away_same(path, reading, rest)
        if is_folder:
            self._remove_empty(row.relative, (first, *readings))
        for parent in sorted({row.preset or "", *(os.path.dirname(path) for path in (first, *readings))}):
            with suppress(FileNotFoundError, NotADirectoryError), folder_beneath(self._inbox, parent):
                durable.fsync_folder(self._inbox / parent)

    def _may_change(self, row: TakenRow) -> bool:
        """Whether what was put away may get more content, or has, and the job could still be made of that."""
        with opened_rest(rest_folder(self._inbox, row.job_id)) as rest:
            if rest is None or not (rest / (row.preset or "")).exists() or self._ledger.is_past_changes(row.job_id):
                return False
            copied = {path: reading[1:4] for path, reading in row.source_readings}
            changed = any(copied.get(path) != reading[1:4] for path, reading in read_job(rest, row.relative))
            return changed or is_written(rest, row.relative) is not False

    def _check_mounted(self, row: TakenRow, reading: Reading) -> None:
        """A file that is missing because its file system is away is not gone."""
        home = self._inbox / (row.preset or "")
        device = (home if home.exists() else self._inbox).stat().st_dev
        if device != reading.device and not read_job(self._inbox, row.relative):
            raise OSError(errno.ENOENT, "another file system is mounted there", str(home))

    def _put_away_same(self, path: str, reading: Reading, rest: Path) -> bool:
        """Move a file of the inbox away if it is the one that was copied; whether it is gone."""
        parent, _, name = path.rpartition("/")
        with suppress(FileNotFoundError, NotADirectoryError), folder_beneath(self._inbox, parent) as folder:
            now = read_status(name, folder)
            if now is None:
                return True
            if now.st_ino != reading.inode:
                return False
            try:
                put_into(rest, path, name, folder)
            except OSError as error:
                if error.errno not in NO_RENAME:
                    raise
                if not Reading.of(now).unchanged_since(reading):
                    return False
                durable.remove_file(name, dir_fd=folder)
        return True

    def _remove_empty(self, relative: str, paths: Sequence[str]) -> None:
        """Remove the folders of a job folder, from the inside out, as far as nothing else is in them."""
        folders = {str(parent) for path in paths for parent in Path(path).parents}
        for path in sorted(folders, key=len, reverse=True):
            if path == relative or path.startswith(f"{relative}/"):
                parent, _, name = path.rpartition("/")
                with suppress(OSError), folder_beneath(self._inbox, parent) as folder:
                    durable.remove_folder(name, dir_fd=folder)

    # Putting right

    def _settle_doubts(self) -> list[TakenRow]:
        """Enter or dissolve the job folders that a crash, or an error at the commit, left without a row."""
        if not self._in_doubt:
            return []
        rows = []
        for job_id in self._in_doubt:
            if self._ledger.knows(job_id):
                continue
            try:
                row = self._whole_job(job_id)
            except OSError as error:
                self._once("put right", job_id, f"{str(self._jobs / job_id)!r} is not read: {error.strerror}")
                self._not_undone.append(job_id)
                continue
            if row is None:
                self._undo(job_id)
            else:
                rows.append(row)
        self._commit(rows)
        self._remember_copies()
        return rows

    def _whole_job(self, job_id: str) -> TakenRow | None:
        """The row of a job that was renamed and not entered."""
        original = self._jobs / job_id / ORIGINAL
        for level in _levels(original, self._presets):
            preset = level or None
            for name, is_folder in _jobs_at(original / level):
                relative = f"{level}/{name}" if level else name
                with folder_beneath(original, level) as folder:
                    too_many = is_folder and survey(name, folder).too_many
                refusal = refusal_of(relative, too_many=too_many)
                candidate = Candidate(relative, preset, read_job(original, relative), is_folder, refusal)
                self._drop_first_names(candidate)
                return _row(job_id, candidate, digest(candidate.readings), copied=False)
        return None

    def _drop_first_names(self, job: Candidate) -> None:
        """Where a rename is a link and an unlink, a crash may have come between."""
        if job.is_folder:
            return
        with (
            suppress(FileNotFoundError, NotADirectoryError),
            folder_beneath(self._inbox, job.preset or "") as folder,
        ):
            for path, reading in job.readings:
                name = path.rpartition("/")[2]
                other = read_file(name, folder)
                if other is not None and other[:2] == reading[:2]:
                    durable.remove_file(name, dir_fd=folder)

    def _dissolve(self, job_id: str) -> None:
        """Remove what was copied, put back what was renamed, and remove the folder."""
        folder = self._jobs / job_id
        original = folder / ORIGINAL
        durable.remove_tree(folder / COPY)
        for level in _levels(original, self._presets):
            self._put_back_all(original, level)
        durable.remove_folder(original)
        durable.remove_folder(folder)

    def _put_back_all(self, original: Path, level: str) -> None:
        # What makes it a job goes first: a crash in between must not leave it here without its picture.
        entries = sorted(os.scandir(original / level), key=lambda entry: names.kind(entry.name) is Kind.PICTURE)
        if level and entries and not (self._inbox / level).is_dir():
            self._put_back(original / level, "")
            return
        for entry in entries:
            self._put_back(Path(entry.path), level)
        if level:
            durable.remove_folder(original / level)

    def _put_back(self, path: Path, preset: str) -> None:
        with folder_beneath(self._inbox, preset) as folder:
            try:
                durable.rename_exclusive(path, path.name, dst_dir_fd=folder)
            except FileExistsError:
                if path.is_dir() and not path.is_symlink():
                    raise
                # Somebody has replaced the file since, as if it had never left.
                durable.remove_file(path)
                return
        durable.fsync_folder(self._inbox / preset)

    def _once(self, what: str, about: str, sentence: str) -> None:
        if (what, about) not in self._reported:
            self._reported.add((what, about))
            self._report(sentence)


def _row(job_id: str, candidate: Candidate, mark: str, copied: bool) -> TakenRow:
    readings = dict(candidate.readings)
    first = readings[f"{candidate.relative}/{names.JOB_FILE}" if candidate.is_folder else candidate.relative]
    source = {
        "device": first.device,
        "inode": first.inode,
        "readings": [[path, list(reading)] for path, reading in candidate.readings],
    }
    return TakenRow(
        job_id, candidate.relative, candidate.preset, candidate.name, mark, copied, source, candidate.refusal
    )


def _unchanged(before: Readings, now: Readings) -> bool:
    return [path for path, _ in before] == [path for path, _ in now] and all(
        reading.unchanged_since(earlier) for (_, earlier), (_, reading) in zip(before, now, strict=True)
    )


def _levels(original: Path, presets: frozenset[str]) -> Iterator[str]:
    """The folders of `original` that mirror folders of jobs: those of presets, then "" for itself.

    A folder that is neither a preset's, by the configuration of now, nor a job, was a preset's when the job was taken.
    """
    try:
        entries = sorted(os.scandir(original), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False) and (entry.name in presets or not _has_job_file(Path(entry.path))):
            yield entry.name
    yield ""


def _jobs_at(folder: Path) -> Iterator[tuple[str, bool]]:
    """What is a job in a folder of `original`, as (name, whether it is a folder)."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            if _has_job_file(Path(entry.path)):
                yield entry.name, True
        elif entry.is_file(follow_symlinks=False) and names.kind(entry.name) in {Kind.TEXT, Kind.TOML}:
            yield entry.name, False


def _has_job_file(folder: Path) -> bool:
    with suppress(FileNotFoundError, NotADirectoryError):
        return stat.S_ISREG((folder / names.JOB_FILE).lstat().st_mode)
    return False
