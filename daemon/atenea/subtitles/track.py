"""Subtitles as a text track of an MP4 video: 3GPP Timed Text, which FFmpeg calls mov_text."""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.subtitles.stream import SubtitleStream

from atenea.media.audio import ProgressCallback, opened, silent
from atenea.media.mux import FASTSTART, copied_streams, created
from atenea.subtitles.layout import Cue

TICKS = 90_000
"""Per second. More than those of picture and sound: FFmpeg's muxer ends a cue with an empty sample when another
stream's ticks have passed its end, and would otherwise do so between cues that follow each other at once."""

_HEADER = b"""[Script Info]
ScriptType: v4.00+
PlayResX: 384
PlayResY: 288

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, \
StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding
Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""
"""What FFmpeg makes the track's style of: white, at the bottom, in the middle. Its own default."""


def add_text_track(
    video: Path, cues: Sequence[Cue], target: Path, *, language: str | None = None, progress: ProgressCallback = silent
) -> None:
    """Write `target`: tracks and metadata of `video` as they are, and the cues as one more track; the index first.

    The track is switched on if it is the only one of its kind; players let their users switch it off.

    Args:
        video: an MP4 file.
        cues: in order, none empty.
        target: the MP4 to write; removed when something fails.
        language: of the cues, three letters of ISO 639-2; None if it is not known.
        progress: called with the fraction done.

    Raises:
        PermanentError: the video cannot be read.
    """
    try:
        with opened(video) as source, created(target, FASTSTART) as output:
            output.metadata.update(source.metadata)
            output.set_chapters(source.chapters())
            copies = copied_streams(source, output)
            track = _text_track(output.add_stream("mov_text"), language)
            seconds = Fraction(source.duration or 0, av.time_base) or Fraction(1)
            originals = source.demux([source.streams[index] for index in copies])
            packets = (packet for packet in originals if packet.dts is not None)
            for packet in heapq.merge(_samples(cues, track), packets, key=_when):
                if packet.stream is not track:
                    packet.stream = copies[packet.stream.index]
                output.mux(packet)
                progress(min(1.0, max(0.0, float(_when(packet) / seconds))))
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _text_track(track: SubtitleStream, language: str | None) -> SubtitleStream:
    track.time_base = Fraction(1, TICKS)
    track.codec_context.subtitle_header = _HEADER
    if language:
        track.metadata["language"] = language
    return track


def _samples(cues: Sequence[Cue], track: SubtitleStream) -> Iterator[av.Packet[Any]]:
    """The cues as samples of 3GPP TS 26.245: the length of the text in two bytes, and the text.

    Made by hand, because FFmpeg's encoder reads the text as that of ASS, with its markup. The muxer itself fills the
    gaps between them.
    """
    for cue in cues:
        text = cue.text.encode()
        packet = av.Packet(struct.pack(">H", len(text)) + text)
        packet.stream = track
        packet.time_base = Fraction(1, TICKS)
        packet.pts = packet.dts = round(cue.start * TICKS)
        packet.duration = round(cue.end * TICKS) - packet.pts
        yield packet


def _when(packet: av.Packet[Any]) -> Fraction:
    return (packet.dts or 0) * packet.time_base
