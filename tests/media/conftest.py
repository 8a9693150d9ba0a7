"""Real files in many formats, made with PyAV."""

from __future__ import annotations

import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest


def tone(samples, rate, channels=1, amplitude=0.5):
    """Shape (samples, channels), float32."""
    sine = amplitude * np.sin(2 * np.pi * 440 * np.arange(samples) / rate)
    return np.repeat(sine[:, None], channels, axis=1).astype(np.float32)


class Maker:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def wav(self, name, samples, rate=16000):
        """`samples`: int16, shape (samples,) or (samples, channels)."""
        path = self.folder / name
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(samples.astype("<i2").tobytes())
        return path

    def tone(self, name, seconds, rate=16000, channels=1):
        samples = tone(round(seconds * rate), rate, channels) * 32767
        return self.wav(name, samples if channels > 1 else samples[:, 0], rate)

    def sound(self, name, form, samples):
        """`form`: codec, rate, layout, sample format; `samples`: float32, shape (samples, channels)."""
        codec, rate, layout, sample_format = form
        path = self.folder / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=rate, layout=layout)
            stream.codec_context.format = sample_format
            for start in range(0, len(samples), 4096):
                block = np.ascontiguousarray(samples[start : start + 4096].reshape(1, -1))
                frame = av.AudioFrame.from_ndarray(block, "flt", layout)
                frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    def video(self, name, frames, fps=25, size=64, *, codec="libx264", pix_fmt="yuv420p"):
        path = self.folder / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=fps, width=size, height=size)
            stream.pix_fmt = pix_fmt
            for index in range(frames):
                picture = np.full((size, size, 3), index % 250, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            container.mux(stream.encode(None))
        return path


@pytest.fixture
def make(tmp_path):
    folder = tmp_path / "made"
    folder.mkdir()
    return Maker(folder)


@pytest.fixture
def samples_of():
    def read(path):
        with wave.open(str(path)) as file:
            return np.frombuffer(file.readframes(-1), "<i2")

    return read
