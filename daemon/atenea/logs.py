"""Logging with structlog: for people on a terminal, JSON lines otherwise, fields in the journal under systemd."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from atenea.credentials import redact
from atenea.job_log import keep_job_lines
from atenea.naming import printable

_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def configure_logging(secrets: Iterable[str] = (), *, level: int = logging.INFO, jobs: Path | None = None) -> None:
    """Set structlog up for this process; every value is searched for secrets before it is written.

    Args:
        jobs: the folder of the jobs' folders, each of which keeps the lines about its job too.
    """
    journal = _journal_sender()
    if journal:
        last: list[Processor] = [_to_journal(journal)]
    elif sys.stderr.isatty():
        last = [_on_one_line, structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    else:
        last = [structlog.processors.JSONRenderer(ensure_ascii=False, default=str)]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,  # before the redactor, so that it sees tracebacks
            _redactor(tuple(secrets)),
            *([keep_job_lines(jobs)] if jobs else []),
            *last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )


def _redactor(secrets: tuple[str, ...]) -> Processor:
    def clean(value: Any) -> Any:
        if isinstance(value, str):
            # Names of files may hold bytes that are no UTF-8, as surrogates, which the journal does not take.
            return redact(value, secrets).encode(errors="backslashreplace").decode()
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [clean(item) for item in value]
        return value if value is None or isinstance(value, int | float) else clean(str(value))

    def process(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        return {key: clean(item) for key, item in event.items()}

    return process


def _on_one_line(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """A file's name must not steer the terminal."""
    return {
        key: printable(value) if isinstance(value, str) and key != "exception" else value
        for key, value in event.items()
    }


def _journal_sender() -> Callable[..., None] | None:
    """systemd-python's `journal.send`, when standard error is the journal's."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return None
    if os.environ.get("JOURNAL_STREAM") != f"{status.st_dev}:{status.st_ino}":
        return None
    try:
        from systemd import journal  # noqa: PLC0415 - an extra, of use only here
    except ImportError:
        return None
    send: Callable[..., None] = journal.send
    return send


def _to_journal(send: Callable[..., None]) -> Processor:
    def process(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        event.pop("timestamp", None)
        message = str(event.pop("event", ""))
        priority = _PRIORITIES.get(str(event.pop("level", "info")), 6)
        fields = {_field(key): str(value) for key, value in event.items() if value is not None}
        shown = " ".join(f"{key}={value}" for key, value in event.items() if value is not None and key != "exception")
        send(f"{message} {shown}".strip(), PRIORITY=priority, SYSLOG_IDENTIFIER="atenea", **fields)
        raise structlog.DropEvent

    return process


def _field(key: str) -> str:
    """The journal leaves out fields whose names have other characters, or more than 64."""
    return re.sub("[^A-Z0-9_]", "_", f"ATENEA_{key.upper()}")[:64]
