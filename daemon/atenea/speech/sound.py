"""The sound of one piece of speech: decodes what a server sent, and says whether it can be speech at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atenea.media.audio import SoundReader

RATE = 24_000
"""Samples per second of every piece; what OpenAI's models and most others speak with."""

Samples = NDArray[np.int16]
"""Shape (samples,), mono."""

SILENT = 100
"""Samples up to this level, -50 dB, are silence."""

_FASTEST = 40.0
"""Letters per second at normal speed that nobody speaks; half a sound that was cut off has as many."""

_SLOWEST = 1.5
"""Seconds per character at normal speed that nothing takes, digits and emoji spoken out included."""

_SOME_SECONDS = 15.0


@dataclass(frozen=True)
class Sound:
    """A piece's sound, and what is worth knowing about it as JSON values."""

    samples: Samples
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.samples) / RATE


def decode(path: Path) -> Samples:
    """The sound of a file in any format that libav knows.

    Raises:
        PermanentError: there is none in it, or it is damaged or ends too early.
    """
    parts = [samples[0] for samples in SoundReader(path, rate=RATE)]
    samples: Samples = np.clip(np.rint(np.concatenate(parts) * 32768), -32768, 32767).astype("<i2")
    return samples


def from_pcm(data: bytes) -> Samples:
    """Samples from bytes, 16 bit, little-endian; half a sample at the end is dropped."""
    return np.frombuffer(data[: len(data) // 2 * 2], "<i2")


def implausible(samples: Samples, text: str, speed: float = 1.0) -> str | None:
    """Why this cannot be the text spoken at `speed`, for the end of a sentence; None if it can."""
    seconds = len(samples) / RATE
    if not seconds or int(np.abs(samples.astype(np.int32)).max()) <= SILENT:
        return "no sound in it" if not seconds else f"{seconds:.1f} seconds of silence"
    letters = sum(character.isalnum() for character in text)
    if seconds < letters / (_FASTEST * speed):
        return f"only {seconds:.1f} seconds of sound for {letters} letters"
    if seconds > _SOME_SECONDS + _SLOWEST * len(text) / speed:
        return f"{seconds:.0f} seconds of sound for {len(text)} characters"
    return None
