"""Subtitles as files: SubRip (.srt) and WebVTT (.vtt)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from atenea.subtitles.layout import Cue

_WORD_JOINER = "\u2060"
"""Is not seen, and keeps what stands around it from being one sign for a program."""

_SUBRIP_MARKUP = re.compile(r"<(?=\S)|--(?=>)|\{(?=\S)|\\(?=[Nnh])")


def subrip(cues: Sequence[Cue]) -> str:
    """The cues as SubRip.

    It has no way to write "<i>" or "-->" as text: players take them for what they look like, so that a word joiner,
    which is not seen, is put into them.
    """
    blocks = (
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{_SUBRIP_MARKUP.sub(_apart, cue.text)}\n"
        for number, cue in enumerate(cues, 1)
    )
    return "\n".join(blocks)


def webvtt(cues: Sequence[Cue]) -> str:
    """The cues as WebVTT, https://www.w3.org/TR/webvtt1/."""
    blocks = (
        f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{_character_references(cue.text)}\n" for cue in cues
    )
    return "\n".join(["WEBVTT\n", *blocks])


def _apart(match: re.Match[str]) -> str:
    return match[0] + _WORD_JOINER


def _character_references(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float, point: str) -> str:
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"
