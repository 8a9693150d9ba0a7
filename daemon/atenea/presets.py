"""Presets as people meet them: folders in the inbox to drop into, and the files that they name in the assets folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from atenea.config import Config
from atenea.errors import AteneaError
from atenea.inbox.nofollow import folder_beneath, open_beneath, open_folder
from atenea.jobfile import FILE_KEYS


def make_folders(inbox: Path, presets: Collection[str], report: Callable[[str], None]) -> None:
    """Make the folders of presets that are not there yet, for those who may write into the inbox.

    `report` gets a sentence for each that cannot be made; of an inbox that is not there, others tell.
    """
    try:
        with folder_beneath(inbox) as parent:
            for name in sorted(presets):
                _make_folder(name, parent, report)
    except OSError:
        return


def _make_folder(name: str, parent: int, report: Callable[[str], None]) -> None:
    try:
        os.mkdir(name, dir_fd=parent)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            report(f"{name!r} in the inbox is no folder, so that nothing can be dropped for the preset; move it away")
        return
    except OSError as error:
        report(f"{name!r}, the folder of a preset, cannot be made in the inbox: {error.strerror}; make it yourself")
        return
    folder = open_folder(name, parent)
    try:
        _open_like(os.fstat(parent), folder)
    finally:
        os.close(folder)


def _open_like(other: os.stat_result, folder: int) -> None:
    """Let the same people write into the folder as into the other one, as far as we may."""
    for owner in (other.st_uid, -1):
        try:
            os.fchown(folder, owner, other.st_gid)
        except OSError:  # of another user, or a file system without owners
            continue
        break
    try:
        os.fchmod(folder, stat.S_IMODE(other.st_mode))
    except OSError:
        return


def unusable_files(config: Config) -> Iterator[str]:
    """A sentence for each file that a preset names and that its jobs would wait for in vain, or be refused for.

    Pictures are decoded, so this is for a worker.
    """
    for preset, keys in config.presets.items():
        for key in FILE_KEYS:
            name = getattr(keys, key)
            if name is not None and (problem := _problem(config, key, name)):
                yield f"presets.{preset}.{key}: {problem}"


def _problem(config: Config, key: str, name: str) -> str | None:
    assets = config.paths.assets
    try:
        os.close(open_beneath(assets, name))
    except FileNotFoundError:
        return f"{name!r} is not in the assets folder; put it into {assets}"
    except OSError as error:
        return f"{name!r} is no plain file in the assets folder ({error.strerror}); put one into {assets}"
    if key != "avatar":
        return None
    from atenea.media.pictures import load_avatar  # noqa: PLC0415 - only presets with a picture pay for it

    try:
        load_avatar(assets / name, max_pixels=config.limits.picture_pixels)
    except AteneaError as error:
        return str(error)
    return None
