"""Makes small files for stages to work on: speech, videos, a portrait."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

from atenea.media.audio import SAMPLE_RATE
from atenea.media.avatar import default_avatar
from atenea.media.mux import VideoWriter, add_speech


def write_speech(path: Path, seconds: float = 1.0) -> Path:
    """Write a WAV, 16 kHz, mono, 16 bit: a tone of 180 Hz whose level comes and goes like speech. The path."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    sound = 9000 * np.sin(2 * np.pi * 180 * time) * np.abs(np.sin(2 * np.pi * 1.3 * time))
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes(sound.astype("<i2").tobytes())
    return path


def write_video(path: Path, seconds: float = 1.0, *, fps: int = 25, size: int = 64) -> Path:
    """Write an MP4 as post plugins get it, `size` x `size`, with `write_speech` as its sound. The path.

    Each frame is of one grey; from the first to the last they go from dark to bright.
    """
    speech = write_speech(path.with_name(f".{path.name}.wav"), seconds)
    picture = path.with_name(f".{path.name}.picture.mp4")
    samples = round(seconds * SAMPLE_RATE)
    frames = -(-samples * fps // SAMPLE_RATE)
    try:
        with VideoWriter(picture, size, size, fps) as writer:
            for grey in np.linspace(20, 235, frames):
                writer.write(np.full((size, size, 3), round(grey), np.uint8))
        add_speech(picture, speech, samples, path)
    finally:
        for file in (speech, picture):
            file.unlink(missing_ok=True)
    return path


def write_portrait(path: Path, size: int = 512) -> Path:
    """Write a picture of a drawn face, `size` x `size`, in the format that the path's suffix names. The path.

    A face detector that was trained with photographs may not find it.
    """
    default_avatar(size).save(path)
    return path
