"""When each piece of a job's text is spoken: what a tts plugin knows and later stages show."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class TimedText(NamedTuple):
    """A word, a sentence or a paragraph, spoken from `start` to `end` seconds of the speech."""

    text: str
    start: float
    end: float


def write_timing(path: Path, pieces: Iterable[TimedText]) -> None:
    """Write the pieces, in the order they are spoken, as JSON."""
    path.write_text(json.dumps([list(piece) for piece in pieces], ensure_ascii=False), encoding="utf-8")


def read_timing(path: Path) -> tuple[TimedText, ...]:
    """The pieces that `write_timing` wrote; none where there is no such file."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ()
    return tuple(TimedText(*row) for row in rows)
