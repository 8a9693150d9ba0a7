"""What is in the inbox, and which of it has settled: the truth that file system events only hint at.

A scan judges names before it looks at files, so that a folder with 100,000 files of other kinds costs little.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from atenea.inbox import names
from atenea.inbox.named_files import missing_files
from atenea.inbox.names import Kind
from atenea.inbox.nofollow import open_folder, open_folder_beneath
from atenea.inbox.readings import MAX_ENTRIES, Reading, Readings, fingerprint, read_file, read_status, survey
from atenea.naming import shortened

__all__ = ["Candidate", "Reading", "ScanResult", "Scanner", "fingerprint"]

_log = logging.getLogger(__name__)

EMPTY_PATIENCE = 10
"""An empty file, which many programs make long before they fill it, settles so many times as slowly."""

_COARSE_SECONDS = 2.0
"""What whole seconds as time stamps may hide: those of FAT are even ones."""


@dataclass(frozen=True)
class Candidate:
    """What makes up one job.

    Attributes:
        relative: the path of its text, TOML file or folder, relative to the inbox.
        preset: the preset whose folder it lies in.
        readings: of all its files.
        is_folder: it is taken as a whole.
        refusal: why it will be refused, in a sentence.
    """

    relative: str
    preset: str | None
    readings: Readings
    is_folder: bool = False
    refusal: str | None = None

    @property
    def name(self) -> str:
        """What users call the job: the file's stem, or the folder's name."""
        return job_name(self.relative, is_folder=self.is_folder)

    @property
    def pieces(self) -> tuple[str, ...]:
        """The paths that are moved to take it, the one that makes it a job last."""
        if self.is_folder:
            return (self.relative,)
        return (*(path for path, _ in self.readings if path != self.relative), self.relative)


class ScanResult(NamedTuple):
    """What a scan found.

    Attributes:
        settled: the jobs to take now.
        pending: how many more there are that have not settled.
        next_due: the time by the scanner's clock at which the first of those can be; None when only a change will help.
        problem: why the inbox cannot be read, in a sentence.
    """

    settled: list[Candidate]
    pending: int
    next_due: float | None
    problem: str | None = None


class _Watched(NamedTuple):
    readings: Readings
    since: float


class _Found(NamedTuple):
    candidate: Candidate
    in_progress: bool
    uploads: Readings = ()

    @property
    def readings(self) -> Readings:
        """Of all that must not change any more."""
        return self.candidate.readings + self.uploads


def job_name(relative: str, *, is_folder: bool) -> str:
    """The name of the job at this path."""
    name = relative.rpartition("/")[2]
    return name if is_folder else names.stem(name)


def refusal_of(relative: str, *, too_many: bool) -> str | None:
    """Why a folder like this is refused, if it is."""
    if not too_many:
        return None
    return (
        f"the folder {relative!r} holds more than {MAX_ENTRIES} files or too deep folders: "
        "split it into several jobs, or move what they share into the assets folder"
    )


class Scanner:
    """Remembers how files looked, and calls those settled that look the same `settle_seconds` later.

    A job folder waits up to `wait_for_files_seconds` for files that its job file names and that are not in `assets`.
    `report` gets a sentence for each thing that a person should know, once.
    """

    def __init__(
        self,
        inbox: Path,
        presets: Collection[str],
        settle_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        report: Callable[[str], None] = _log.warning,
        *,
        assets: Path | None = None,
        wait_for_files_seconds: float = 600.0,
    ) -> None:
        self._inbox = inbox
        self._presets = frozenset(presets)
        self._settle_seconds = settle_seconds
        self._assets = assets
        self._wait_for_files_seconds = wait_for_files_seconds
        self._clock = clock
        self._report = report
        self._watched: dict[str, _Watched] = {}
        self._reported: set[tuple[object, ...]] = set()
        self._seen: set[tuple[object, ...]] = set()
        self._problem: str | None = None

    def scan(self) -> ScanResult:
        """Look at everything once. A missing or unreadable inbox gives a result with a problem."""
        began = self._clock()
        self._seen = set()
        try:
            found = list(self._inbox_jobs())
        except OSError as error:
            return self._without_inbox(error)
        if self._problem is not None:
            self._problem = None
            self._report(f"the inbox {str(self._inbox)!r} is back")
        result = self._judge(found, began)
        self._reported &= self._seen
        return result

    def _without_inbox(self, error: OSError) -> ScanResult:
        problem = f"the inbox {str(self._inbox)!r} cannot be read: {error.strerror}"
        if problem != self._problem:
            self._report(f"{problem}; jobs are taken again once it can")
        self._problem = problem
        self._watched.clear()
        return ScanResult([], 0, None, problem)

    def _judge(self, found: list[_Found], began: float) -> ScanResult:
        settled: list[Candidate] = []
        due: list[float] = []
        watched: dict[str, _Watched] = {}
        for job in found:
            relative = job.candidate.relative
            before = self._watched.get(relative)
            if before is None or before.readings != job.readings:
                before = _Watched(job.readings, self._clock())
            watched[relative] = before
            if job.in_progress:
                continue
            settles = before.since + self._seconds_to_settle(job.readings)
            if settles > began:
                due.append(settles)
            elif self._is_whole(job.candidate, began - before.since):
                settled.append(job.candidate)
        self._watched = watched
        return ScanResult(settled, len(found) - len(settled), min(due, default=None))

    def _seconds_to_settle(self, readings: Readings) -> float:
        seconds = self._settle_seconds
        if any(reading.size == 0 for _, reading in readings):
            seconds *= EMPTY_PATIENCE
        if any(reading.is_coarse for _, reading in readings):
            seconds += _COARSE_SECONDS
        return seconds

    def _is_whole(self, candidate: Candidate, unchanged_for: float) -> bool:
        """Whether a job folder has all files that its job file names, or did not change for too long."""
        if not candidate.is_folder or candidate.refusal or unchanged_for >= self._wait_for_files_seconds:
            return True
        missing = missing_files(self._inbox, candidate.relative, self._assets)
        if missing:
            named = " and ".join(shortened(repr(name)) for name in missing)
            self._once(("missing", candidate.relative, *missing), f"{candidate.relative!r} waits: it names {named}")
        return not missing

    def _inbox_jobs(self) -> Iterator[_Found]:
        folder = open_folder_beneath(self._inbox)
        try:
            subfolders: list[str] = []
            yield from self._jobs_in(folder, None, subfolders.append)
            for name in subfolders:
                if name in self._presets:
                    yield from self._preset_jobs(name, folder)
                else:
                    yield from self._folder_job(name, folder, None)
        finally:
            os.close(folder)

    def _preset_jobs(self, preset: str, dir_fd: int) -> Iterator[_Found]:
        try:
            folder = open_folder(preset, dir_fd)
        except OSError as error:
            self._report_unreadable(preset, error)
            return
        try:
            subfolders: list[str] = []
            yield from self._jobs_in(folder, preset, subfolders.append)
            for name in subfolders:
                yield from self._folder_job(name, folder, preset)
        except OSError as error:
            self._report_unreadable(preset, error)
        finally:
            os.close(folder)

    def _jobs_in(self, folder: int, preset: str | None, on_subfolder: Callable[[str], None]) -> Iterator[_Found]:
        """The jobs that are files of this folder, and through the callback the folders that may be jobs."""
        jobs: list[tuple[str, Kind]] = []
        pictures: set[str] = set()
        uploads: dict[str, str] = {}
        with os.scandir(folder) as entries:
            for entry in entries:
                kind = names.kind_by_suffix(entry.name)
                regular = entry.is_file(follow_symlinks=False)
                if regular and (final := names.becomes(entry.name)):
                    uploads[final] = entry.name
                if (regular and kind is Kind.OTHER) or self._is_left_alone(entry.name, preset):
                    continue
                if not regular:
                    self._sort_irregular(entry, folder, preset, on_subfolder)
                elif kind is Kind.PICTURE:
                    pictures.add(entry.name)
                else:
                    jobs.append((entry.name, kind))
        for name, kind in sorted(jobs, key=lambda job: job[0]):
            for found in self._file_job(name, kind, folder, preset, pictures):
                yield found._replace(uploads=_uploads_of_picture(name, kind, folder, uploads))

    def _is_left_alone(self, name: str, preset: str | None) -> bool:
        return names.is_left_alone(name) and not (preset is None and name in self._presets)

    def _sort_irregular(
        self,
        entry: os.DirEntry[str],
        folder: int,
        preset: str | None,
        on_subfolder: Callable[[str], None],
    ) -> None:
        if entry.is_dir(follow_symlinks=False):
            on_subfolder(entry.name)
        else:
            self._report_irregular(_join(preset, entry.name), os.fstat(folder).st_dev, entry.inode())

    def _file_job(self, name: str, kind: Kind, folder: int, preset: str | None, pictures: set[str]) -> Iterator[_Found]:
        files = [name]
        if kind is Kind.TEXT and (picture := next(filter(pictures.__contains__, names.picture_names(name)), None)):
            pictures.discard(picture)
            files.append(picture)
        readings = []
        for file in files:
            reading = read_file(file, folder)
            if reading is None:
                return
            readings.append((_join(preset, file), reading))
        yield _found(Candidate(_join(preset, name), preset, tuple(sorted(readings))))

    def _folder_job(self, name: str, dir_fd: int, preset: str | None) -> Iterator[_Found]:
        relative = _join(preset, name)
        job_file = f"{relative}/{names.JOB_FILE}"
        try:
            status = read_status(f"{name}/{names.JOB_FILE}", dir_fd)
            if status is None or stat.S_ISDIR(status.st_mode):
                return
            if not stat.S_ISREG(status.st_mode):
                self._report_irregular(job_file, status.st_dev, status.st_ino)
                return
            files = survey(name, dir_fd, _join(preset, ""))
        except OSError as error:
            self._report_unreadable(relative, error)
            return
        for path, device, inode in files.irregular:
            self._report_irregular(path, device, inode)
        if files.partial is not None:
            self._once(("partial", files.partial), f"{relative!r} waits: {files.partial!r} is still being uploaded")
        if job_file not in dict(files.readings):
            return
        refusal = refusal_of(relative, too_many=files.too_many)
        yield _found(Candidate(relative, preset, files.readings, True, refusal), files.partial is not None)

    def _report_irregular(self, path: str, device: int, inode: int) -> None:
        self._once(
            (device, inode, path),
            f"{path!r} in the inbox is neither a file nor a folder: it stays where it is",
        )

    def _report_unreadable(self, path: str, error: OSError) -> None:
        if isinstance(error, FileNotFoundError):
            return
        self._once((path, error.errno), f"{path!r} in the inbox cannot be read: {error.strerror}")

    def _once(self, key: tuple[object, ...], sentence: str) -> None:
        self._seen.add(key)
        if key not in self._reported:
            self._reported.add(key)
            self._report(sentence)


def _found(candidate: Candidate, partial: bool = False) -> _Found:
    return _Found(candidate, partial or any(reading.in_progress for _, reading in candidate.readings))


def _uploads_of_picture(text: str, kind: Kind, folder: int, uploads: dict[str, str]) -> Readings:
    """What is being written, under other names yet, that will be the text's picture."""
    if kind is not Kind.TEXT:
        return ()
    parts = [uploads[name] for name in names.picture_names(text) if name in uploads]
    return tuple((part, reading) for part in parts if (reading := read_file(part, folder)))


def _join(preset: str | None, name: str) -> str:
    return name if preset is None else f"{preset}/{name}"
