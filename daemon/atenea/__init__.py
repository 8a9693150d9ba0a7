"""atenea turns text files into talking-head videos. This module holds the names that a stage plugin needs.

Each is imported when it is first wanted: the commands, which need none of them, start faster.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atenea.context import Context
    from atenea.errors import PermanentError, TransientError
    from atenea.finding import Finding
    from atenea.hookspecs import hookimpl
    from atenea.job import Job, StageSettings
    from atenea.options import PluginOptions
    from atenea.timing import TimedText

__version__ = "0.1.0"

__all__ = [
    "Context",
    "Finding",
    "Job",
    "PermanentError",
    "PluginOptions",
    "StageSettings",
    "TimedText",
    "TransientError",
    "hookimpl",
]

_HOMES = {
    "Context": "context",
    "Finding": "finding",
    "Job": "job",
    "PermanentError": "errors",
    "PluginOptions": "options",
    "StageSettings": "job",
    "TimedText": "timing",
    "TransientError": "errors",
    "hookimpl": "hookspecs",
}
"""The module that each name is from."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
