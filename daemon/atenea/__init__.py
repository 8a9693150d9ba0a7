"""atenea turns text files into talking-head videos. This module holds the names that a stage plugin needs."""

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
