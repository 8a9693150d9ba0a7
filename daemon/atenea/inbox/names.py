"""Which names in the inbox can be jobs, and which are left alone.

Names are `str` as the file system gives them: undecodable bytes as lone surrogates, any character but the slash.
"""

from __future__ import annotations

import re
from enum import Enum

JOB_FILE = "job.toml"
"""A folder with this file inside is one job."""

PICTURE_SUFFIXES = (".png", ".jpg", ".webp", ".PNG", ".JPG", ".WEBP")
"""A text's picture is the first of these that lies beside it."""


class Kind(Enum):
    """What a regular file's name says about it."""

    TEXT = ".txt"
    TOML = ".toml"
    PICTURE = "picture"
    OTHER = "other"


_BY_SUFFIX = {
    ".txt": Kind.TEXT,
    ".toml": Kind.TOML,
    **{suffix.lower(): Kind.PICTURE for suffix in PICTURE_SUFFIXES},
}

_PARTIAL = re.compile(
    r"""
      \..+\..+\.[A-Za-z0-9]{6}          # rsync: .NAME.txt.Xa81bZ
    | \.~tmp~                           # rsync --delay-updates
    | \.rsync-(?:partial|tmp).*
    | [.~]syncthing[.~].*\.tmp          # Syncthing on Unix and on Windows
    | \..*\.~[0-9a-f]+                  # Nextcloud, ownCloud: .NAME.txt.~1a2b3c
    | .*\.ocTransferId\d+\.part
    | \.dropbox\.cache
    | \.~\w+\.dropbox.*
    | \.in\..*                          # lftp
    | .*\.(?:filepart                   # WinSCP
          |part|partial                 # Firefox, KDE, rclone
          |crdownload|opdownload|download  # Chromium, Opera, Safari
          |aria2)
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
"""Names under which programs write what will get its own name later."""

_BECOMES = re.compile(
    r"""
      \.(.+\..+)\.[A-Za-z0-9]{6}
    | [.~]syncthing[.~](.+)\.tmp
    | \.(.+)\.~[0-9a-f]+
    | \.in\.(.+?)\.?
    | (.+?)\.(?:ocTransferId\d+\.part|filepart|part|partial|crdownload|opdownload|download|aria2)
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
"""Of those, the ones that hold the file's own name."""

_MAY_BECOME = (".", "~")
_MAY_BECOME_BY_END = ("part", "partial", "load", "aria2")

_BY_THE_WAY = re.compile(
    r"""
      \..*                              # hidden: locks of LibreOffice and emacs, swap files of vim and nano, ...
    | .*~                               # backups of vim, emacs, gedit and rsync --backup
    | ~\$.*                             # Microsoft Office, open
    | .*\.(?:bak|orig|tmp|temp)
    | .*\.sync-conflict-\d{8}-\d{6}.*   # Syncthing
    | .*_conflict-\d{8}-\d{6}.*         # ownCloud, older
    | .*\((?:.*\b)?(?:conflicted\ copy|case\ conflict|selective\ sync\ conflict|unicode\ encoding\ conflict
          |copia\ en\ conflicto|copie\ en\ conflit|in\ konflikt\ stehende\ kopie)\b.*\).*  # Dropbox, Nextcloud
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
"""Names that would be jobs but for this; what has a suffix of its own (`a.txt.save`, `#a.txt#`) needs no line here."""


def is_partial(name: str) -> bool:
    """Whether a program writes under this name what is not whole yet."""
    return _PARTIAL.fullmatch(name) is not None


def becomes(name: str) -> str | None:
    """The name that a file will have which a program still writes under this one; None when that is not known."""
    # Of 100,000 names that are no business of ours, few come as far as the pattern.
    if not name.startswith(_MAY_BECOME) and not name.endswith(_MAY_BECOME_BY_END):
        return None
    match = _BECOMES.fullmatch(name)
    return next(filter(None, match.groups())) if match else None


def is_left_alone(name: str) -> bool:
    """Whether a file or folder of this name is no business of ours: hidden, temporary, a backup or a conflict."""
    return _BY_THE_WAY.fullmatch(name) is not None or is_partial(name)


def kind_by_suffix(name: str) -> Kind:
    """What the suffix says; cheap, and blind to names that are left alone."""
    dot = name.rfind(".")
    return _BY_SUFFIX.get(name[dot:].lower(), Kind.OTHER) if dot > 0 else Kind.OTHER


def kind(name: str) -> Kind:
    """What a regular file of this name is to us."""
    by_suffix = kind_by_suffix(name)
    return Kind.OTHER if by_suffix is not Kind.OTHER and is_left_alone(name) else by_suffix


def stem(name: str) -> str:
    """The name without its last suffix."""
    return name[: name.rfind(".")]


def picture_names(text: str) -> tuple[str, ...]:
    """The names that the picture of a text may have, the first that exists counts."""
    return tuple(stem(text) + suffix for suffix in PICTURE_SUFFIXES)
