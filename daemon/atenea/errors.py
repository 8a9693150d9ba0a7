"""Everything that can go wrong with a sentence for a person, and the exit codes of the commands."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every `atenea` command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    BUSY = 3
    """Another process holds the state folder and does not answer."""
    INTERRUPTED = 130


class AteneaError(Exception):
    """One sentence that names the file, key or plugin, what is wrong with it, and what to do."""

    exit_code = ExitCode.FAILED


class UsageError(AteneaError):
    """A command or a configuration that cannot be carried out as it was given."""

    exit_code = ExitCode.USAGE


class BusyError(AteneaError):
    """The state folder is in use by another process."""

    exit_code = ExitCode.BUSY


class MistakesError(AteneaError):
    """A file with mistakes: all of them, each a sentence that names its key."""

    def __init__(self, subject: str, mistakes: Iterable[str]) -> None:
        self.subject = subject
        self.mistakes = tuple(mistakes)
        super().__init__(f"{subject}: " + "; ".join(self.mistakes))


class ConfigError(MistakesError):
    """The configuration has mistakes."""

    exit_code = ExitCode.USAGE


class PermanentError(AteneaError):
    """A stage cannot do its work, and trying again would not help: raise it from a hook."""


class TransientError(AteneaError):
    """A stage could not do its work now: raise it from a hook, and the stage is tried again later.

    `retry_after` is the least number of seconds to wait before the next attempt, if the other side named one.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Cancelled(BaseException):
    """The job was cancelled; raised by `ctx.progress` inside a hook."""
