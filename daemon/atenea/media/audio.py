"""Reads sound: any file that libav decodes, in small pieces, resampled to an exact number of samples.

An hour of speech passes through here in constant memory. What is wrong with a file is said in one sentence that names
it, for the person who dropped it into the inbox.
"""

from __future__ import annotations

import struct
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.layout import AudioLayout
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from atenea.errors import PermanentError

SAMPLE_RATE = 16_000
"""Of the WAV file that the render stage gets."""

FORMATS = (
    "3gp,aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,flv,m4a,matroska,mov,mp3,mp4,mpeg,mpegts,ogg,tta,voc,w64,wav,"
    "webm,wv"
)
"""Containers that are opened. Playlists are not among them: they name other files and hosts to read."""

_COUNTED = frozenset({"aiff", "au", "caf", "flac", "mov,mp4,m4a,3gp,3g2,mj2", "w64"})
"""Containers whose header counts the samples, so that a file that ends early can be told."""

_RATES = range(1_000, 1_000_001)
"""Samples per second. Of fewer, a small file would become a large one; of more, nobody has a microphone."""

_MOST_CHANNELS = 32
_OPEN_SECONDS = 20.0
"""A damaged file may send libav through all of its gigabytes in search of sound."""

_UNKNOWN_SIZE = 0x7FFF_0000
"""A WAV header with at least this size comes from a program that wrote to a pipe and did not know it."""

_MISSING = Fraction(1, 4)
"""Seconds that a file may be shorter than its header says: some writers round up to whole blocks."""

Samples = NDArray[np.float32]
"""Shape (channels, samples), full scale is 1."""

ProgressCallback = Callable[[float], None]


def silent(_fraction: float) -> None:
    """Progress that nobody wants to hear of."""


def frame_count(samples: int, fps: Fraction | int) -> int:
    """How many frames show `samples` samples at 16 kHz: ceil(samples x fps / 16000)."""
    rate = Fraction(fps)
    return -(-samples * rate.numerator // (SAMPLE_RATE * rate.denominator))


def resampled_count(samples: int, rate: int, target_rate: int) -> int:
    """How many samples at `target_rate` last as long as `samples` at `rate`: ceil(samples x target_rate / rate)."""
    return -(-samples * target_rate // rate)


@contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """The file as an open container, whatever its name looks like to libav.

    Raises:
        PermanentError: it cannot be read, or it is not sound or video.
    """
    # "file:" keeps a name like "concat:a.wav" from being taken for a protocol.
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
    try:
        container = av.open(
            f"file:{path.absolute()}",
            "r",
            container_options=options,
            metadata_errors="replace",
            timeout=(_OPEN_SECONDS, None),
        )
    except OSError as error:
        raise PermanentError(f"{path.name} cannot be read: {error.strerror or error}") from error
    except av.FFmpegError as error:
        raise PermanentError(f"{path.name} is no sound or video file that can be read, or it is damaged") from error
    with container:
        yield container


def sound_of(container: InputContainer, path: Path) -> AudioStream:
    """The first audio stream.

    Raises:
        PermanentError: there is none.
    """
    if not container.streams.audio:
        raise PermanentError(f"{path.name} has no sound in it")
    sound = container.streams.audio[0]
    # PyAV leaves it out where libav has no decoder.
    if sound.codec_context is None:
        raise PermanentError(f"{path.name} has sound in a format that cannot be decoded")
    return sound


@dataclass
class _Tally:
    """What came out of a file, to be compared with what its header promised."""

    seconds: Fraction = Fraction(0)
    packets: int = 0
    broken: int = 0


@dataclass
class SoundReader:
    """Iterates over the sound of a file, as arrays of shape (channels, samples).

    Attributes:
        path: the file.
        rate: samples per second wanted; n samples at another rate give exactly ceil(n x rate / that rate).
        layout: "mono" or "stereo"; other channels are mixed down to it.
        max_seconds: refuse to read more than this.
        progress: called with the fraction read so far.
    """

    path: Path
    rate: int = SAMPLE_RATE
    layout: str = "mono"
    max_seconds: float | None = None
    progress: ProgressCallback = silent
    _tally: _Tally = field(default_factory=_Tally, init=False, repr=False)

    def __iter__(self) -> Iterator[Samples]:
        self._tally = _Tally()
        with opened(self.path) as container:
            stream = sound_of(container, self.path)
            self._check_header(container, stream)
            segment: _Segment | None = None
            for frame in self._frames(container, stream):
                # Chained Ogg files and some broadcasts change their format on the way.
                if segment is None or not segment.continues(frame):
                    if segment is not None:
                        yield from self._sound(segment.end())
                    self._check_form(frame.sample_rate, frame.layout.nb_channels)
                    segment = _Segment(frame, self.rate, self.layout)
                yield from self._sound(segment.add(frame))
            if segment is None:
                raise PermanentError(f"{self.path.name} has no sound in it: not one sample can be decoded")
            yield from self._sound(segment.end())
            self._check_complete(container, stream)
        self.progress(1.0)

    def _frames(self, container: InputContainer, stream: AudioStream) -> Iterator[AudioFrame]:
        seconds = _duration(container, stream)
        for packet in self._packets(container, stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                self._tally.broken += 1
                continue
            for frame in frames:
                if frame.samples:
                    self._count(frame)
                    yield frame
            if seconds:
                self.progress(min(1.0, float(self._tally.seconds / seconds)))

    def _check_header(self, container: InputContainer, stream: AudioStream) -> None:
        """Refuse before decoding what need not be decoded to be refused."""
        self._check_form(stream.rate, stream.channels)
        seconds = _counted_duration(self.path, container, stream)
        if self.max_seconds is not None and seconds is not None and seconds > self.max_seconds:
            raise self._too_long(self.max_seconds)

    def _check_form(self, rate: int, channels: int) -> None:
        if rate not in _RATES:
            raise PermanentError(
                f"{self.path.name} has {rate:,} samples per second, where {_RATES[0]:,} to {_RATES[-1]:,} are read: "
                "save it with 16,000 or more"
            )
        if channels > _MOST_CHANNELS:
            raise PermanentError(
                f"{self.path.name} has {channels} channels, where {_MOST_CHANNELS} are the most: save it as stereo"
            )

    def _too_long(self, most: float) -> PermanentError:
        return PermanentError(f"{self.path.name} is longer than {most:g} seconds, the most allowed")

    def _packets(self, container: InputContainer, stream: AudioStream) -> Iterator[av.Packet[AudioStream]]:
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.ExitError as error:
                raise PermanentError(f"{self.path.name} is damaged: its sound cannot be found") from error
            except av.FFmpegError as error:
                raise PermanentError(f"{self.path.name} is damaged: {error.strerror}") from error
            self._tally.packets += 1
            yield packet

    def _count(self, frame: AudioFrame) -> None:
        self._tally.seconds += Fraction(frame.samples, frame.sample_rate)
        if self.max_seconds is not None and self._tally.seconds > self.max_seconds:
            raise self._too_long(self.max_seconds)

    def _sound(self, pieces: Iterator[Samples]) -> Iterator[Samples]:
        for samples in self._converted(pieces):
            if not np.isfinite(samples).all():
                raise PermanentError(f"{self.path.name} is damaged: it holds samples that are no numbers")
            yield samples

    def _converted(self, pieces: Iterator[Samples]) -> Iterator[Samples]:
        try:
            yield from pieces
        except av.FFmpegError as error:
            raise PermanentError(
                f"{self.path.name} has sound that cannot be converted: save it as an ordinary WAV file"
            ) from error

    def _check_complete(self, container: InputContainer, stream: AudioStream) -> None:
        tally = self._tally
        if tally.broken * 50 > tally.packets:
            raise PermanentError(
                f"{self.path.name} is damaged: {tally.broken} of its {tally.packets} packets cannot be decoded"
            )
        promised = _promised_duration(self.path, container, stream)
        if promised is not None and promised - tally.seconds > _MISSING:
            raise PermanentError(
                f"{self.path.name} ends too early: it should last {float(promised):.2f} seconds, "
                f"and only {float(tally.seconds):.2f} are there"
            )


def keeps_time(speech: Path, wav_samples: int) -> bool:
    """Whether the speech lasts as long as the 16 kHz WAV that an audio stage made of it, to 1/25 s.

    If not, the stage has cut or stretched it, and only the WAV goes with the picture.

    Raises:
        PermanentError: the speech cannot be read.
    """
    with opened(speech) as container:
        duration = _duration(container, sound_of(container, speech))
    return duration is None or abs(duration - Fraction(wav_samples, SAMPLE_RATE)) <= Fraction(1, 25)


def _duration(container: InputContainer, stream: AudioStream) -> Fraction | None:
    if stream.duration and stream.time_base:
        return stream.duration * stream.time_base
    return Fraction(container.duration, av.time_base) if container.duration else None


def _promised_duration(path: Path, container: InputContainer, stream: AudioStream) -> Fraction | None:
    """How long the file's header says that it lasts, where headers count the samples."""
    if container.format.name == "wav":
        size = _wav_data_size(path)
        return Fraction(size * 8, stream.bit_rate) if size and stream.bit_rate else None
    if container.format.name not in _COUNTED or not stream.duration or not stream.time_base:
        return None
    return stream.duration * stream.time_base


def _counted_duration(path: Path, container: InputContainer, stream: AudioStream) -> Fraction | None:
    """How long it lasts, where that is known before it is decoded."""
    if container.format.name == "wav":
        # Of a WAV file whose header does not know its size, the file does.
        bits = stream.bit_rate
        promised = _promised_duration(path, container, stream)
        there = Fraction(path.stat().st_size * 8, bits) if bits else None
        return there if promised is None or there is None else min(promised, there)
    return _promised_duration(path, container, stream)


def _wav_data_size(path: Path) -> int | None:
    """Bytes of samples by the header; libav tells what is in the file."""
    with path.open("rb") as file:
        file.seek(12)
        while len(header := file.read(8)) == 8:
            name, size = struct.unpack("<4sI", header)
            if name == b"data":
                return size if size < _UNKNOWN_SIZE else None
            file.seek(size + size % 2, 1)
    return None


class _Segment:
    """Resamples frames of one format, to the exact number of samples."""

    def __init__(self, first: AudioFrame, rate: int, layout: str) -> None:
        self._kind = _kind(first)
        self._source_rate = first.sample_rate
        self._rate = rate
        # Without rematrix_maxval, sounds that are alike in both channels come out louder than full scale.
        self._resampler = AudioResampler("fltp", layout, rate, options={"rematrix_maxval": "1.0"})
        self._taken = 0
        self._given = 0
        self._channels = AudioLayout(layout).nb_channels

    def continues(self, frame: AudioFrame) -> bool:
        return _kind(frame) == self._kind

    def add(self, frame: AudioFrame) -> Iterator[Samples]:
        self._taken += frame.samples
        frame.pts = None
        yield from self._pull(frame)

    def end(self) -> Iterator[Samples]:
        """What the resampler still holds, and silence for the last samples that its filter rounded away."""
        yield from self._pull(None)
        missing = resampled_count(self._taken, self._source_rate, self._rate) - self._given
        if missing:
            yield np.zeros((self._channels, missing), np.float32)

    def _pull(self, frame: AudioFrame | None) -> Iterator[Samples]:
        limit = resampled_count(self._taken, self._source_rate, self._rate)
        for resampled in self._resampler.resample(frame):
            # A resampler with nothing to do passes the frame through, and its end too.
            if resampled is None:
                continue
            samples = np.asarray(resampled.to_ndarray(), np.float32)[:, : limit - self._given]
            self._given += samples.shape[1]
            if samples.size:
                yield samples


def _kind(frame: AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def write_wav(
    source: Path, target: Path, *, max_seconds: float | None = None, progress: ProgressCallback = silent
) -> int:
    """Decode the sound of `source` into `target`, 16 kHz, mono, 16 bit; the number of samples written.

    Samples of a source that has this format already are left as they are.

    Raises:
        PermanentError: there is no sound, it is damaged, cut off, or longer than `max_seconds`.
    """
    count = 0
    try:
        with wave.open(str(target), "wb") as wav:
            wav.setnchannels(1)
            wav.setsampwidth(2)
            wav.setframerate(SAMPLE_RATE)
            for samples in SoundReader(source, max_seconds=max_seconds, progress=progress):
                wav.writeframesraw(_int16(samples[0]).tobytes())
                count += samples.shape[1]
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return count


def _int16(samples: Samples) -> NDArray[np.int16]:
    """Rounded; samples that were 16 bit before come out as they were."""
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2")


def wav_info(path: Path) -> int:
    """The number of samples of a WAV file that must be 16 kHz, mono, 16 bit, whole and not empty.

    Raises:
        PermanentError: it is not.
    """
    try:
        with wave.open(str(path), "rb") as wav:
            form = wav.getframerate(), wav.getnchannels(), wav.getsampwidth() * 8
            samples = wav.getnframes()
            last = _last_sample(wav)
    except (OSError, EOFError, wave.Error) as error:
        reason = str(error) or "it ends too early"
        raise PermanentError(f"{path.name} is no WAV file with plain samples: {reason}") from error
    if form != (SAMPLE_RATE, 1, 16):
        rate, channels, bits = form
        raise PermanentError(
            f"{path.name} is a WAV file with {rate} Hz, {channels} channels and {bits} bits, "
            f"where {SAMPLE_RATE} Hz, mono and 16 bits are needed"
        )
    if not samples:
        raise PermanentError(f"{path.name} has no sound in it: not one sample")
    if len(last) != 2:
        raise PermanentError(f"{path.name} ends too early: its header promises {samples} samples")
    return samples


def _last_sample(wav: wave.Wave_read) -> bytes:
    wav.setpos(max(0, wav.getnframes() - 1))
    return wav.readframes(1)
