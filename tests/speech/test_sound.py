"""What can be a piece of speech."""

from __future__ import annotations

import numpy as np
import pytest

from atenea.speech.sound import Sound, from_pcm, implausible

RATE = 24_000


def loud(seconds):
    return np.full(round(RATE * seconds), 5000, "<i2")


@pytest.mark.parametrize(
    ("seconds", "text", "speed", "fault"),
    [
        (10, "a" * 150, 1, None),
        (3, "a" * 150, 1, "only 3.0 seconds of sound for 150 letters"),
        (3, "a" * 150, 4, None),
        (0, "Hello.", 1, "no sound in it"),
        (40, "Hello.", 1, "40 seconds of sound for 6 characters"),
        (40, "Hello.", 0.25, None),
        (8, "1234567890", 1, None),
        (2, "\u4f60\u597d\u4e16\u754c", 1, None),
        (1, "." * 100, 1, None),
    ],
)
def test_lengths(seconds, text, speed, fault):
    assert implausible(loud(seconds), text, speed) == fault


def test_silence_is_no_speech():
    assert implausible(loud(1) // 100, "Hello.") == "1.0 seconds of silence"
    assert implausible(np.full(RATE, -32768, "<i2"), "Hello.") is None


def test_half_a_sample_is_dropped():
    assert from_pcm(b"\x01\x00\x02\x00\x03").tolist() == [1, 2]
    assert Sound(loud(2)).seconds == 2
