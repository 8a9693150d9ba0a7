"""Where an instance keeps its jobs: all of the configuration that the commands need which only ask.

They start faster without the rest of it. A mistake in the rest keeps nobody from asking a daemon that runs.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import tomli

from atenea.errors import ConfigError, UsageError
from atenea.plugin_files import distrusted, owned_by_others

SERVICE_FILE = Path("/etc/atenea/atenea.toml")
"""The configuration of the whole machine: what it leaves out of `[paths]` lies where services keep such things."""

SERVICE_FOLDER = Path("/var/lib/atenea")
"""There."""


class HasFolders(Protocol):
    """The folders; `atenea.config.Paths` has more of them."""

    @property
    def state(self) -> Path:
        """The ledger and the jobs' folders."""

    @property
    def outbox(self) -> Path:
        """The videos."""


class HasPlaces(Protocol):
    """What `Places` has, and `atenea.config.Config` too."""

    @property
    def paths(self) -> HasFolders:
        """Where everything lies, absolute."""

    @property
    def jobs(self) -> Path:
        """Where the jobs' folders lie."""


@dataclass(frozen=True)
class Folders:
    """Absolute paths."""

    state: Path
    outbox: Path


@dataclass(frozen=True)
class Places:
    """The places of an instance."""

    paths: Folders

    @property
    def jobs(self) -> Path:
        """Where the jobs' folders lie."""
        return self.paths.state / "jobs"


def find_places(file: Path | None = None) -> HasPlaces:
    """The places by the configuration `file`, or where it is found, or the defaults.

    Raises:
        ConfigError: it cannot be read, others may have written it, or its paths make no sense.
        UsageError: there is none, and no working directory either.
    """
    file = file or find_config()
    if file and (places := _read_places(file)):
        return places
    from atenea.config import load_config  # noqa: PLC0415 - it knows the rest, and what to say of a file that is wrong

    return load_config(file)


def _read_places(file: Path) -> Places | None:
    """None if there is more to say about it."""
    try:
        with file.open("rb") as opened:
            check_trust(file, opened.fileno())
            table: Any = tomli.loads(opened.read().decode("utf-8-sig")).get("paths", {})
    except (OSError, ValueError, RecursionError, ConfigError):
        return None
    given = {name: table.get(name, name) for name in ("state", "outbox")} if isinstance(table, dict) else {}
    if not given or not all(map(_is_plain, given.values())):
        return None
    base = Path(os.path.abspath(file)).parent
    is_service = base / file.name == SERVICE_FILE
    found = {name: (base if name in table or not is_service else SERVICE_FOLDER) / path for name, path in given.items()}
    return Places(Folders(**{name: Path(os.path.abspath(path)) for name, path in found.items()}))


def _is_plain(path: object) -> bool:
    return isinstance(path, str) and path != "" and not path.startswith("$") and "\0" not in path


def check_trust(file: Path, descriptor: int) -> None:
    """Check that nobody else could have written a configuration, which is open, or put another in its place.

    Raises:
        ConfigError: somebody could.
        OSError: its folder is gone.
    """
    folder = file.parent.stat()
    # Where files are their owners' alone, as in /tmp, nobody puts another in the place of one.
    in_place = owned_by_others if folder.st_mode & stat.S_ISVTX else distrusted
    for path, reason in (
        (file, distrusted(file, os.fstat(descriptor))),
        (file.parent, in_place(file.parent, folder)),
    ):
        if reason:
            raise ConfigError(str(path), [reason])


def find_config() -> Path | None:
    """The configuration file by `$ATENEA_CONFIG`, `./etc/atenea.toml` or `/etc/atenea/atenea.toml`, in this order."""
    named = os.environ.get("ATENEA_CONFIG")
    if named:
        return Path(named)
    here = Path("etc/atenea.toml")
    if os.path.isfile(here):  # which says no of a working directory that may not be entered, too
        return here
    return SERVICE_FILE if _may_be_there(SERVICE_FILE) else None


def _may_be_there(file: Path) -> bool:
    """Not only if it is: of a folder that may not be entered, reading tells, and no defaults take its place."""
    try:
        file.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def working_directory() -> Path:
    """The working directory.

    Raises:
        UsageError: it cannot be entered, or is gone.
    """
    try:
        return Path.cwd()
    except OSError as error:
        raise UsageError(f"the working directory: {error.strerror}; change to another, or name --config") from None
