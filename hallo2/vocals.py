"""Takes the music out of a recording, with Kim_Vocal_2, an MDX-Net run by onnxruntime.

The network filters spectrograms of 5.9 s. These overlap by a quarter and are blended, so a recording of any length is
separated in constant memory. Transform, constants and blending are those of the package audio-separator 0.17.2, but
for one thing: that package first lowers a recording whose peak is above 0.9 to that peak, which needs all of it at
once; here the level is left alone.

Source: Kim et al., "KUIELab-MDX-Net: A Two-Stream Neural Network for Music Demixing", 2021, arXiv 2111.12203.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from hallo2.onnx_model import CPU, open_model

if TYPE_CHECKING:
    import onnxruntime

SAMPLE_RATE = 44_100
"""Of the sound that the network was trained on."""

_N_FFT = 7680

_HOP = 1024

_BINS = 3072
"""The lowest bins of the spectrum, up to 17.6 kHz; the network does not see the others, and they come out as zeros."""

_FRAMES = 256

_LOW_BINS = 3
"""Below 20 Hz; zeroed before the network."""

_COMPENSATION = 1.009
"""The network's vocals are this much too quiet."""

_CHUNK = _HOP * (_FRAMES - 1)

_STEP = _CHUNK * 3 // 4
"""From one chunk to the next, in samples."""

_TRIM = _N_FFT // 2
"""Silence in front of the sound, and at least as much after it."""


class VocalSeparator:
    """Separates the vocals of stereo sound at 44.1 kHz.

    Args:
        model_path: the file Kim_Vocal_2.onnx.
        providers: onnxruntime's execution providers, the preferred one first.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no ONNX model, or not this one; or onnxruntime lacks a provider, or cannot load the first.
    """

    def __init__(self, model_path: str | os.PathLike[str], providers: Sequence[str] = CPU) -> None:
        self._session = _opened(Path(model_path), providers)
        self._input = self._session.get_inputs()[0].name
        self._stft_window = torch.hann_window(_N_FFT)

    def __call__(self, mix: Tensor) -> Tensor:
        """The vocals of a whole recording.

        Args:
            mix: (2, samples), float32 on the CPU.

        Returns:
            (2, samples), float32.

        Raises:
            ValueError: the mix has another shape.
        """
        return torch.cat([torch.empty(2, 0), *self.stream([mix])], dim=1)

    def stream(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """The vocals of a recording that comes in pieces, to the very samples of what the whole would give.

        Args:
            pieces: (2, samples) each, float32 on the CPU, of any lengths, one after the other.

        Yields:
            (2, samples), float32, of other lengths than the pieces, together as many samples.

        Raises:
            ValueError: a piece has another shape.
        """
        total = torch.zeros(2, _CHUNK)
        weights = torch.zeros(_CHUNK)
        trim = _TRIM
        for chunk, length in _chunks(pieces):
            blend = torch.hann_window(length, periodic=False)
            total[:, :length] += self._vocals(F.pad(chunk, (0, _CHUNK - chunk.shape[1])))[:, :length] * blend
            weights[:length] += blend
            done = min(_STEP, chunk.shape[1])
            yield _COMPENSATION * total[:, trim:done] / weights[trim:done]
            total = F.pad(total[:, _STEP:], (0, _STEP))
            weights = F.pad(weights[_STEP:], (0, _STEP))
            trim = 0

    def _vocals(self, chunk: Tensor) -> Tensor:
        """What the network makes of (2, chunk)."""
        spectrum = torch.stft(chunk, _N_FFT, _HOP, window=self._stft_window, return_complex=True)[:, :_BINS]
        spectrum[:, :_LOW_BINS] = 0
        # Channels of the network: left real, left imaginary, right real, right imaginary.
        parts = torch.view_as_real(spectrum).permute(0, 3, 1, 2).reshape(1, 4, _BINS, _FRAMES)
        (output,) = self._session.run(None, {self._input: parts.contiguous().numpy()})
        parts = torch.from_numpy(output).reshape(2, 2, _BINS, _FRAMES)
        spectrum = F.pad(torch.complex(parts[:, 0], parts[:, 1]), (0, 0, 0, _N_FFT // 2 + 1 - _BINS))
        return torch.istft(spectrum, _N_FFT, _HOP, window=self._stft_window)


def _opened(path: Path, providers: Sequence[str]) -> onnxruntime.InferenceSession:
    session = open_model(path, providers)
    shapes = [tensor.shape[1:] for tensor in session.get_inputs()]
    if shapes != [[4, _BINS, _FRAMES]] or len(session.get_outputs()) != 1:
        raise ValueError(
            f"{path} is not Kim_Vocal_2.onnx: it takes tensors of {shapes}, not one of {[4, _BINS, _FRAMES]}"
        )
    return session


def _chunks(pieces: Iterable[Tensor]) -> Iterator[tuple[Tensor, int]]:
    """Chunks (2, up to _CHUNK) of the sound with silence in front, and over how many samples each is blended.

    The last ones are shorter. Their blending goes on into the silence after the sound, which makes the whole a
    multiple of what a chunk holds between two trims.
    """
    held = torch.zeros(2, _TRIM)
    samples = 0
    for piece in pieces:
        if piece.ndim != 2 or piece.shape[0] != 2:
            raise ValueError(f"the sound has the shape {tuple(piece.shape)}, where (2, samples) is needed")
        samples += piece.shape[1]
        for first in range(0, piece.shape[1], _STEP):
            part = piece[:, first : first + _STEP]
            held = torch.cat([held, part], dim=1)
            if held.shape[1] >= _CHUNK:
                yield held[:, :_CHUNK], _CHUNK
                held = held[:, _STEP:]
    usable = _CHUNK - 2 * _TRIM
    silence = usable + _TRIM - samples % usable
    while samples and held.shape[1]:
        yield held, min(_CHUNK, held.shape[1] + silence)
        held = held[:, _STEP:]
