"""Speech as the networks hear it: wav2vec 2.0's hidden states, one set for each video frame, and windows of them.

An hour of speech passes through in constant memory: pieces of 60 s are encoded when their frames are asked for.
"""

from __future__ import annotations

import os
import wave
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.func import functional_call

if TYPE_CHECKING:
    from transformers import Wav2Vec2Config, Wav2Vec2Model

SAMPLE_RATE = 16_000
"""Of the sound that wav2vec 2.0 was trained on."""

_PIECE_SECONDS = 60

_PIECE_SAMPLES = _PIECE_SECONDS * SAMPLE_RATE

_PIECES_KEPT = 2
"""The current piece and the one before it: a window at the border between two needs both."""

_EPSILON = 1e-7
"""Added to the variance, as wav2vec 2.0's feature extractor does."""


class Sliceable(Protocol):
    """Anything whose slices, without a step, are tensors: a tensor, or what reads or computes them when asked."""

    def __len__(self) -> int: ...

    def __getitem__(self, span: slice, /) -> Tensor: ...


def frame_count(samples: int, fps: int = 25) -> int:
    """How many video frames show `samples` samples at 16 kHz: ceil(samples x fps / 16000)."""
    return -(-samples * fps // SAMPLE_RATE)


def wav2vec_features(
    model: Wav2Vec2Model, waveform: Tensor, fps: int = 25, clip_frames: int = 16
) -> tuple[Tensor, int]:
    """The features of all frames of a waveform at once; `SpeechFeatures` gives them bit by bit.

    Args:
        model: wav2vec 2.0, on any device and in any dtype; it is put into evaluation mode.
        waveform: (samples,) at 16 kHz, at any level.
        fps: video frames per second.
        clip_frames: the frames are padded to a multiple of it.

    Returns:
        The features, (padded frames, layers, hidden), float32 on the CPU, and the number of frames before padding.

    Raises:
        ValueError: the waveform is empty or has another shape.
    """
    features = SpeechFeatures(model, waveform, fps, clip_frames)
    return features[:], features.frames


class WavSamples:
    """The samples of a WAV file, float32 in [-1, 1); a slice reads just what it covers.

    Args:
        path: a WAV file with 16 kHz, mono, 16 bit.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has another format or ends too early.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        try:
            with wave.open(self._path, "rb") as file:
                form = file.getframerate(), file.getnchannels(), 8 * file.getsampwidth()
                self._count = file.getnframes()
        except (EOFError, wave.Error) as error:
            reason = str(error) or "it ends too early"
            raise ValueError(f"{self._path} is no WAV file with plain samples: {reason}") from error
        if form != (SAMPLE_RATE, 1, 16):
            raise ValueError(
                f"{self._path} is a WAV file with {form[0]} Hz, {form[1]} channels and {form[2]} bits, "
                f"where {SAMPLE_RATE} Hz, mono and 16 bits are needed"
            )
        if self._count:
            self[self._count - 1 :]  # a file that is cut off is refused now, not after an hour's work

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, span: slice, /) -> Tensor:
        wanted = range(self._count)[span]
        with wave.open(self._path, "rb") as file:
            file.setpos(wanted.start)
            data = file.readframes(len(wanted))
        if len(data) != 2 * len(wanted):
            raise ValueError(f"{self._path} ends too early: its header promises {self._count} samples")
        return torch.from_numpy(np.frombuffer(data, "<i2").astype(np.float32) / 32768)


class SpeechFeatures:
    """The features of every video frame of a speech, computed when a slice asks for them.

    The sound is cut into pieces of 60 s. Each is normalised and encoded by itself and gives 60 x `fps` frames, a whole
    number; the last piece gives the frames that are left. Only it is padded: by the frames that the whole lacks to a
    multiple of `clip_frames`, and by as much silence. The last two pieces used are kept, so going forward encodes each
    piece once, and a render that goes on after a crash starts anywhere.

    Args:
        model: wav2vec 2.0, on any device and in any dtype; it is put into evaluation mode.
        source: the sound at 16 kHz, mono: the path of a 16-bit WAV file, a tensor (samples,), or anything else with a
            length whose slices are such tensors.
        fps: video frames per second.
        clip_frames: the frames are padded to a multiple of it.
        device: where it is encoded, if not where the model is: what a part of the model needs is there only while that
            part runs.

    Attributes:
        frames: how many frames the sound lasts; ``len()`` is the padded number.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file has another format, the tensor another shape, or there is not one sample.
    """

    def __init__(
        self,
        model: Wav2Vec2Model,
        source: Sliceable | str | os.PathLike[str],
        fps: int = 25,
        clip_frames: int = 16,
        device: torch.device | None = None,
    ) -> None:
        if isinstance(source, Tensor) and source.ndim != 1:
            raise ValueError(f"the waveform has the shape {tuple(source.shape)}, where (samples,) is needed")
        self._model = model.eval()
        self._device = device or model.device
        self._samples = WavSamples(source) if isinstance(source, str | os.PathLike) else source
        if not len(self._samples):
            raise ValueError("there is no sound to make features of: not one sample")
        self.frames = frame_count(len(self._samples), fps)
        self._fps = fps
        self._padded = -(-self.frames // clip_frames) * clip_frames
        self._piece_frames = _PIECE_SECONDS * fps
        self._last = (len(self._samples) - 1) // _PIECE_SAMPLES
        self._recent: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return self._padded

    def __getitem__(self, span: slice, /) -> Tensor:
        """The features of some frames: (n, layers, hidden), float32 on the CPU.

        Raises:
            ValueError: the slice has a step.
        """
        wanted = range(self._padded)[span]
        if wanted.step != 1:
            raise ValueError(f"features are sliced frame by frame, not with a step of {wanted.step}")
        config: Wav2Vec2Config = self._model.config
        features = torch.empty(len(wanted), config.num_hidden_layers, config.hidden_size)
        done = 0
        while done < len(wanted):
            frame = wanted[done]
            index = min(frame // self._piece_frames, self._last)
            first = frame - index * self._piece_frames
            part = self._piece(index)[first : first + len(wanted) - done]
            features[done : done + len(part)] = part
            done += len(part)
        return features

    def _piece(self, index: int) -> Tensor:
        piece = self._recent.pop(index, None)
        if piece is None:
            while len(self._recent) >= _PIECES_KEPT:
                del self._recent[next(iter(self._recent))]
            piece = self._encode(index)
        self._recent[index] = piece
        return piece

    def _encode(self, index: int) -> Tensor:
        first = index * _PIECE_SAMPLES
        samples = _normalised(self._samples[first : first + _PIECE_SAMPLES])
        frames = self._piece_frames
        if index == self._last:
            frames = self._padded - index * self._piece_frames
            silence = (self._padded - self.frames) * SAMPLE_RATE // self._fps
            samples = F.pad(samples, (0, silence))
        return _hidden_states(self._model, samples, frames, self._device)


def _normalised(samples: Tensor) -> Tensor:
    """Zero mean and unit variance, float32 on the CPU."""
    exact = samples.to("cpu", torch.float64)
    return ((exact - exact.mean()) / (exact.var(correction=0) + _EPSILON).sqrt()).float()


@torch.no_grad()
def _hidden_states(model: Wav2Vec2Model, samples: Tensor, frames: int, device: torch.device) -> Tensor:
    """What each encoder layer makes of the samples (samples,): (frames, layers, hidden), float32 on the CPU."""
    # The convolutions refuse less than they see at once.
    samples = F.pad(samples, (0, max(0, _receptive_field(model.config) - len(samples))))
    sound = _called(model.feature_extractor, samples[None].to(device, model.dtype))
    sound = F.interpolate(sound.float(), size=frames, mode="linear", align_corners=True).transpose(1, 2)
    states: list[Tensor] = []

    def keep(_layer: torch.nn.Module, _inputs: Any, output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    hooks = [layer.register_forward_hook(keep) for layer in model.encoder.layers]
    try:
        _called(model.encoder, _called(model.feature_projection, sound.to(model.dtype))[0])
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(states).transpose(0, 1).to("cpu", torch.float32)


def _called(part: torch.nn.Module, x: Tensor) -> Any:
    """What a part of a model makes of x, on x's device; the part stays where it is."""
    weights = {name: tensor.to(x.device) for name, tensor in (*part.named_parameters(), *part.named_buffers())}
    return functional_call(part, weights, (x,))


def _receptive_field(config: Wav2Vec2Config) -> int:
    """How many samples one convolutional feature sees."""
    samples = 1
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


def clip_windows(
    features: Sliceable | Iterable[Tensor], window: int = 5, clip_frames: int = 16, first_clip: int = 0
) -> Iterator[Tensor]:
    """Clip by clip, what each frame hears: the features of the frames around it too.

    A frame sees those from -(`window` // 2) to +(`window` // 2); the first and the last frame of the whole stand for
    those beyond the ends.

    Args:
        features: (frames, layers, hidden), as a tensor, as `SpeechFeatures`, or as an iterable of pieces of any number
            of frames, of which only those under one clip's windows are held.
        window: frames seen, an odd number.
        clip_frames: frames of a clip.
        first_clip: the clip to start with.

    Yields:
        (clip_frames, window, layers, hidden), where the features are.

    Raises:
        ValueError: the number of frames is no multiple of `clip_frames` (known only at the end of an iterable), or the
            window is even.
    """
    if window % 2 == 0:
        raise ValueError(f"a window of {window} frames has no middle: it must be an odd number")
    # A tensor can be iterated too, but over its frames.
    if isinstance(features, Iterable) and not isinstance(features, Tensor):
        return _windows(_Forward(features), window // 2, clip_frames, first_clip)
    if len(features) % clip_frames:
        raise _not_whole(len(features), clip_frames)
    return _windows(features, window // 2, clip_frames, first_clip)


def _windows(features: Sliceable | _Forward, reach: int, clip_frames: int, clip: int) -> Iterator[Tensor]:
    around = torch.arange(clip_frames)[:, None] + torch.arange(-reach, reach + 1)
    while True:
        first = clip * clip_frames
        start = max(0, first - reach)
        heard = features[start : first + clip_frames + reach]
        frames = start + len(heard) - first
        if frames <= 0:
            return
        if frames < clip_frames:
            raise _not_whole(first + frames, clip_frames)
        yield heard[(around + first - start).clamp(0, len(heard) - 1)]
        clip += 1


def _not_whole(frames: int, clip_frames: int) -> ValueError:
    return ValueError(
        f"{frames} frames of features are no whole number of clips: pad them to a multiple of {clip_frames}"
    )


class _Forward:
    """Slices of the pieces of an iterable, for a reader that never goes back; it holds those under the last slice."""

    def __init__(self, pieces: Iterable[Tensor]) -> None:
        self._coming = iter(pieces)
        self._held: deque[Tensor] = deque()
        self._first = 0
        self._end = 0

    def __getitem__(self, span: slice, /) -> Tensor:
        self._drop(span.start)
        while self._end < span.stop and (piece := next(self._coming, None)) is not None:
            self._held.append(piece)
            self._end += len(piece)
            self._drop(span.start)
        first, parts = self._first, []
        for piece in self._held:
            parts.append(piece[max(0, span.start - first) : max(0, span.stop - first)])
            first += len(piece)
        return torch.cat(parts) if parts else torch.empty(0)

    def _drop(self, start: int) -> None:
        while self._held and self._first + len(self._held[0]) <= start:
            self._first += len(self._held.popleft())
