"""Names that people gave, made safe to write: as the stem of a file, and in a line of a log or a terminal."""

from __future__ import annotations

import unicodedata

MAX_STEM_BYTES = 200
"""Leaves room for a number and a suffix in the 255 bytes that a file name may have."""


def safe_stem(name: str) -> str:
    """A file's stem for the outbox: printable UTF-8, no leading dot, at most `MAX_STEM_BYTES` long."""
    clean = printable(name).replace("/", "_").lstrip(". ")
    cut = clean.encode("utf-8")[:MAX_STEM_BYTES].decode("utf-8", errors="ignore").rstrip()
    return cut or "unnamed"


def shortened(text: str, most: int = 120) -> str:
    """The text, cut to `most` characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def printable(text: str) -> str:
    """The text on one line, with everything that is not a visible character or a space replaced by "_"."""
    return "".join(
        "_" if unicodedata.category(character)[0] in "CZ" and character != " " else character for character in text
    )
