"""Where plugins come from: files in the plugins folder, entry points of distributions, files shipped with atenea.

Finding one imports nothing. A file is imported under a private module name, so that a plugin called openai.py does not
hide the package openai from itself and from others.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Protocol

import structlog

import atenea
from atenea.plugin_files import read_plugin

GROUP = "atenea"
"""The entry point group."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class PluginSource(Protocol):
    """A plugin that can be imported; as a string, what a person knows it by."""

    @property
    def name(self) -> str:
        """The plugin's name."""

    def load(self) -> Any:
        """Import it: the module, or whatever else its entry point names."""

    def version(self, module: Any) -> str | None:
        """Its version, once imported, if it has one."""


@dataclass(frozen=True)
class PluginFile:
    """One Python file."""

    path: Path
    shipped: bool = False

    @property
    def name(self) -> str:
        """The file's stem."""
        return self.path.stem

    def load(self) -> ModuleType:
        """Read the file once, check it, and run it as a module."""
        return import_file(self.path)

    def version(self, module: Any) -> str | None:
        """A shipped file has atenea's version, another what it says itself."""
        version = atenea.__version__ if self.shipped else getattr(module, "__version__", None)
        return version if isinstance(version, str) else None

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class PluginEntryPoint:
    """An entry point of an installed distribution."""

    point: metadata.EntryPoint
    distribution: str
    distribution_version: str

    @property
    def name(self) -> str:
        """The entry point's name."""
        return self.point.name

    def load(self) -> Any:
        """Import what the entry point names."""
        return self.point.load()

    def version(self, _module: Any) -> str | None:
        """The distribution's version."""
        return self.distribution_version

    def __str__(self) -> str:
        return f"{self.distribution} {self.distribution_version}"


def find_plugins(folder: Path) -> dict[str, list[PluginSource]]:
    """All plugins by name; of several with one name, the one that counts stands first."""
    shipped = shipped_folder()
    found: dict[str, list[PluginSource]] = {}
    own = [] if _same_folder(folder, shipped) else [PluginFile(path) for path in _plugin_paths(folder)]
    sources: Iterable[PluginSource] = (
        *own,
        *_entry_points(),
        *(PluginFile(path, shipped=True) for path in _plugin_paths(shipped)),
    )
    for source in sources:
        found.setdefault(source.name, []).append(source)
    return dict(sorted(found.items()))


def shipped_folder() -> Path:
    """The folder of the plugins that come with atenea: inside it when installed, in the root of a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "plugins"
    return installed if installed.is_dir() else package.parent.parent / "plugins"


def is_plugin_name(name: str) -> bool:
    """Whether a plugin may have this name; folders and tables of the configuration are called by it."""
    return _NAME.fullmatch(name) is not None


def import_file(path: Path) -> ModuleType:
    """Import the checked content of a plugin file as the module `_atenea_plugin_STEM`.

    Raises:
        UnsafePluginError: somebody else could have written it.
        BaseException: whatever its code raises.
    """
    name = f"_atenea_plugin_{path.stem}"
    loader = _CheckedLoader(path)
    module = module_from_spec(ModuleSpec(name, loader, origin=str(path)))
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


class _CheckedLoader(InspectLoader):
    """Compiles the bytes that were checked: no cached bytecode, no second look at the path."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content = read_plugin(path)

    def get_source(self, fullname: str) -> str:  # noqa: ARG002 - as the base class has it
        """For tracebacks too."""
        return self._content.decode()

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002 - as the base class has it
        """From the bytes, so that a coding line counts."""
        return self.source_to_code(self._content, str(self._path))


def _plugin_paths(folder: Path) -> Iterator[Path]:
    try:
        paths = sorted(folder.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        structlog.get_logger().warning("the plugins folder cannot be read", folder=str(folder), error=error.strerror)
        return
    for path in paths:
        if path.suffix == ".py" and not path.name.startswith(("_", ".")):
            yield path


def _same_folder(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:
        return False


def _entry_points() -> Iterator[PluginEntryPoint]:
    """One distribution with broken metadata must not hide the plugins of the others."""
    seen = set()
    for distribution in metadata.distributions():
        try:
            name = distribution.metadata["Name"]
            if name in seen:
                continue
            seen.add(name)
            for point in distribution.entry_points.select(group=GROUP):
                yield PluginEntryPoint(point, name, distribution.version)
        except Exception as error:  # noqa: BLE001 - metadata raises anything
            structlog.get_logger().warning("a distribution has broken metadata", error=str(error))
