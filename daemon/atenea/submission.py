"""Puts job files into an inbox so that the daemon sees each of them whole, with the files that it names."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Collection
from itertools import count
from pathlib import Path
from tempfile import mkdtemp
from typing import NamedTuple

from atenea import durable
from atenea.errors import MistakesError, UsageError
from atenea.inbox import names
from atenea.inbox.names import JOB_FILE, Kind
from atenea.jobfile import FILE_KEYS, parse_job_toml


class Submitted(NamedTuple):
    """A job in the inbox: where, and the device and inode by which it is known once it was taken."""

    path: Path
    device: int
    inode: int


def submit_file(file: Path, inbox: Path, presets: Collection[str] = ()) -> Submitted:
    """Submit a text (with the picture of the same stem beside it), a TOML job file (with the files beside it that it
    names, as a job folder), or a job folder. A name that is in use in the inbox, or a preset's, gets a number.

    Raises:
        UsageError: it is none of these, or the inbox cannot be written.
        MistakesError: a TOML job file has mistakes.
    """
    kind = Kind.OTHER if file.is_dir() else names.kind(file.name)
    try:
        staging = Path(mkdtemp(prefix=".submit-", dir=inbox))
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"{inbox}: there is no such inbox; start the daemon (atenea run), or name its --config"
        ) from None
    except OSError as error:
        raise UsageError(f"{inbox}: cannot be written: {error.strerror}") from None
    try:
        if file.is_dir():
            return _submit_folder(file, staging, inbox, presets)
        if kind is Kind.TEXT:
            return _submit_text(file, staging, inbox, presets)
        if kind is Kind.TOML:
            return _submit_toml(file, staging, inbox, presets)
        raise UsageError(f"{file}: is no job; submit a .txt, a .toml, or a folder with a {JOB_FILE} inside")
    except OSError as error:
        raise UsageError(f"{error.filename or file}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _submit_text(file: Path, staging: Path, inbox: Path, presets: Collection[str]) -> Submitted:
    pictures = (file.with_name(name) for name in names.picture_names(file.name))
    picture = next((path for path in pictures if os.path.isfile(path)), None)  # False for too long a name, too
    _copy(file, staging / "job")
    stem = _free_stem(names.stem(file.name), inbox, presets)
    if picture:
        _copy(picture, staging / "picture")
        durable.rename_exclusive(staging / "picture", inbox / f"{stem}{picture.suffix}")
    return _place(staging / "job", inbox / f"{stem}.txt")


def _submit_toml(file: Path, staging: Path, inbox: Path, presets: Collection[str]) -> Submitted:
    keys = parse_job_toml(file.read_bytes(), str(file))
    named = {name for key in FILE_KEYS if (name := getattr(keys, key)) and (file.parent / name).is_file()}
    if not named:
        _copy(file, staging / "job")
        return _place(staging / "job", inbox / f"{_free_stem(names.stem(file.name), inbox, presets)}.toml")
    folder = staging / names.stem(file.name)
    _refuse_left_alone(file, folder.name)
    for name in named:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise MistakesError(str(file), [f"{name!r} lies outside the job's folder; name a file beside the job"])
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        _copy(file.parent / name, folder / name)
    _copy(file, folder / JOB_FILE)
    return _place_folder(folder, inbox, presets)


def _submit_folder(folder: Path, staging: Path, inbox: Path, presets: Collection[str]) -> Submitted:
    _refuse_left_alone(folder, folder.resolve().name)
    if not (folder / JOB_FILE).is_file():
        raise UsageError(f"{folder}: is no job folder; there is no {JOB_FILE} in it")
    copy = staging / folder.resolve().name
    for root, _folders, files in os.walk(folder, onerror=_raise):
        here = copy / Path(root).relative_to(folder)
        here.mkdir()
        for name in files:
            _copy(Path(root) / name, here / name)
    return _place_folder(copy, inbox, presets)


def _refuse_left_alone(file: Path, name: str) -> None:
    if names.is_left_alone(name):
        raise UsageError(f"{file}: folders of the name {name!r} are left alone in the inbox; rename it")


def _copy(source: Path, target: Path) -> None:
    """Copy a file so that the daemon, which may be another user, can read it, and as one written now."""
    source = source.resolve()
    if source.exists() and not source.is_file():
        raise UsageError(f"{source}: is no file that can be submitted; remove it from the job")
    durable.copy_synced(source, target)
    target.chmod(0o644)
    os.utime(target)


def _place(staged: Path, target: Path) -> Submitted:
    status = staged.stat()
    durable.rename_exclusive(staged, target)
    durable.fsync_folder(target.parent)
    return Submitted(target, status.st_dev, status.st_ino)


def _place_folder(folder: Path, inbox: Path, presets: Collection[str]) -> Submitted:
    if inbox.stat().st_mode & stat.S_IWGRP:  # the daemon, of that group, is to move and remove what is in it
        for root, _folders, _files in os.walk(folder):
            os.chmod(root, stat.S_IMODE(os.stat(root).st_mode) | stat.S_IWGRP)
    status = (folder / JOB_FILE).stat()
    target = inbox / _free_stem(folder.name, inbox, presets)
    durable.rename_exclusive(folder, target)
    durable.fsync_folder(inbox)
    return Submitted(target, status.st_dev, status.st_ino)


def _free_stem(stem: str, inbox: Path, presets: Collection[str]) -> str:
    """The stem that nothing in the inbox has, nearest to the wanted one."""
    suffixes = ("", ".txt", ".toml", *names.PICTURE_SUFFIXES)
    candidates = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
    return next(
        candidate
        for candidate in candidates
        if candidate not in presets and not any(os.path.lexists(inbox / f"{candidate}{end}") for end in suffixes)
    )


def _raise(error: OSError) -> None:
    raise error
