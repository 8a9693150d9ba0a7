"""Writes MP4 files: frames into H.264 for render plugins, and the speech beside a finished picture.

The picture is encoded once, by the render plugin, and copied from then on; the speech is encoded once, whole, because
pieces of AAC that are joined drift and click.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType, TracebackType
from typing import Literal, Self

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream
from numpy.typing import NDArray

from atenea.errors import PermanentError
from atenea.media.audio import (
    ProgressCallback,
    Samples,
    SoundReader,
    frame_count,
    opened,
    silent,
    sound_of,
)

AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
AAC_BITS_PER_CHANNEL = 96_000
AAC_FRAME = 1024

FASTSTART = {"movflags": "+faststart"}

ARTIFICIAL = "Made with atenea: the voice and the picture are artificial."
"""The comment that every video has among its tags."""

ENCODER_THREADS = 4
"""Fixed, because x264 writes other bytes with another number of threads."""

Encoder = Literal["libx264", "h264_nvenc"]
"""By FFmpeg's names: on the CPU, or by the encoder that some NVIDIA GPUs have."""

Picture = NDArray[np.uint8]


def yuv420p(picture: Picture) -> Picture:
    """An RGB picture (height, width, 3) as the planes of BT.709 video: (height x 3 / 2, width), Y above U above V."""
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
    return np.asarray(_to_yuv(frame).to_ndarray(), np.uint8)


def _to_yuv(frame: VideoFrame) -> VideoFrame:
    return frame.reformat(
        format="yuv420p",
        src_color_range=ColorRange.JPEG,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        threads=1,
    )


class VideoWriter:
    """Writes frames into an H.264 MP4 without sound; a context manager that removes the file if something fails.

    The same frames give the same bytes. There is a keyframe every two seconds that nothing refers across.

    Args:
        path: of the file.
        width: of the frames, even.
        height: likewise.
        fps: frames per second.
        crf: of x264, or what NVENC has for it: 18 can hardly be told from the frames.
        preset: of x264, from "ultrafast" to "veryslow"; NVENC's is fixed.
        encoder: "h264_nvenc" is on some NVIDIA GPUs, see `can_encode`.
    """

    def __init__(
        self,
        path: Path,
        width: int,
        height: int,
        fps: Fraction | int,
        *,
        crf: int = 18,
        preset: str = "veryfast",
        encoder: Encoder = "libx264",
    ) -> None:
        if width % 2 or height % 2:
            raise ValueError(f"H.264 video has an even width and height, not {width} x {height}")
        self.frames = 0
        self._path = path
        self._shape = height, width
        rate = Fraction(fps)
        self._time_base = 1 / rate
        self._container = created(path)
        keyframes = max(1, round(2 * rate))
        options = {"libx264": _x264, "h264_nvenc": _nvenc}[encoder](crf, preset, keyframes, width)
        self._stream = _h264_stream(self._container, encoder, rate, width, options)
        self._stream.height = height

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()
            if kind is not None:
                self._path.unlink(missing_ok=True)

    def write(self, picture: Picture) -> None:
        """Append a frame: RGB, (height, width, 3), uint8."""
        if picture.shape != (*self._shape, 3):
            raise ValueError(f"a frame has the shape {(*self._shape, 3)}, not {picture.shape}")
        self._encode(_to_yuv(VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")))

    def write_yuv(self, planes: Picture) -> None:
        """Append a frame as `yuv420p` gives it; the array may be changed and passed again afterwards."""
        height, width = self._shape
        if planes.shape != (height * 3 // 2, width):
            raise ValueError(f"a frame has the shape {(height * 3 // 2, width)}, not {planes.shape}")
        self._encode(VideoFrame.from_ndarray(planes, "yuv420p"))

    def _encode(self, frame: VideoFrame) -> None:
        frame.pts = self.frames
        frame.time_base = self._time_base
        self.frames += 1
        self._container.mux(self._stream.encode(frame))


def created(path: Path, options: Mapping[str, str] = MappingProxyType({})) -> OutputContainer:
    """A new MP4 file as an open container."""
    # "file:" keeps a name with a colon from being taken for a protocol.
    return av.open(f"file:{path.absolute()}", "w", format="mp4", container_options=dict(options))


def copied_streams(source: InputContainer, output: OutputContainer) -> dict[int, Stream]:
    """Streams of `output` for pictures, sounds and subtitles of `source`, by their index there, to copy packets into.

    Each keeps its language, and whether it is switched on.
    """
    copies: dict[int, Stream] = {}
    for stream in (*source.streams.video, *source.streams.audio, *source.streams.subtitles):
        copy = copies[stream.index] = output.add_stream_from_template(stream)
        copy.metadata.update(stream.metadata)
        copy.disposition = stream.disposition
    return copies


def can_encode(encoder: Encoder, width: int, height: int) -> bool:
    """Whether this machine has the encoder, for frames of that size."""
    with TemporaryDirectory(prefix="atenea-encoder-") as folder:
        try:
            with VideoWriter(Path(folder) / "try.mp4", width, height, 25, encoder=encoder) as writer:
                writer.write(np.zeros((height, width, 3), np.uint8))
        except FFmpegError:
            return False
    return True


def _h264_stream(
    container: OutputContainer, encoder: Encoder, rate: Fraction, width: int, options: Mapping[str, str]
) -> VideoStream:
    stream = container.add_stream(encoder, rate=rate)
    stream.width = width
    stream.pix_fmt = "yuv420p"
    stream.time_base = 1 / rate
    stream.codec_context.time_base = 1 / rate
    stream.codec_context.thread_count = ENCODER_THREADS
    stream.color_range = ColorRange.MPEG
    stream.colorspace = Colorspace.ITU709
    stream.color_primaries = ColorPrimaries.BT709
    stream.color_trc = ColorTrc.BT709
    stream.options = dict(options)
    return stream


def _x264(crf: int, preset: str, keyframes: int, width: int) -> dict[str, str]:
    return {
        "crf": str(crf),
        "preset": preset,
        "x264-params": f"keyint={keyframes}:min-keyint={keyframes}:scenecut=0:open-gop=0:mbtree={_mbtree(width)}",
    }


def _nvenc(crf: int, _preset: str, keyframes: int, _width: int) -> dict[str, str]:
    """A constant quality, as x264's `crf` asks for; "p6" is the slowest of NVIDIA's presets but one."""
    quality = {"rc": "vbr", "cq": str(crf), "b": "0", "preset": "p6", "tune": "hq"}
    return quality | {"g": str(keyframes), "no-scenecut": "1", "forced-idr": "1", "strict_gop": "1"}


def _mbtree(width: int) -> int:
    """Whether x264 may weigh blocks by how long they stay: 1 where the same frames still give the same bytes.

    Its fast code takes up to 16 blocks of 16 pixels at once, and beyond the end of a row it reads memory that was never
    written.
    """
    return int(width % 256 == 0)


def add_speech(
    video: Path,
    speech: Path,
    wav_samples: int,
    target: Path,
    *,
    metadata: Mapping[str, str] | None = None,
    progress: ProgressCallback = silent,
) -> None:
    """Write `target`: the picture of `video` as it is, the speech as AAC beside it, the index first.

    Sound that the video has already stays: copied if it is AAC. Otherwise the speech is cut, or silence added, so that
    it ends with the picture.

    Args:
        video: what the render stage made.
        speech: what was spoken, in its best quality.
        wav_samples: of the 16 kHz WAV that the video was made from.
        target: the MP4 to write; removed when something fails.
        metadata: what MP4 has names for, such as title, artist, comment, description, date.
        progress: called with the fraction done.

    Raises:
        PermanentError: the video is not H.264 in yuv420p, or has not the frames that it must have.
    """
    seconds = check_video(video, wav_samples)
    try:
        with opened(video) as source, created(target, FASTSTART) as output:
            output.metadata.update(metadata or {})
            _mux(source, _Sources(video, speech, seconds), output, progress)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class _Counted:
    """What the packets of a video say about it."""

    frames: int
    start: Fraction
    end: Fraction


def check_video(video: Path, wav_samples: int) -> Fraction:
    """The seconds that a rendered video lasts, if it is H.264 in yuv420p and has the frames that the speech needs.

    Raises:
        PermanentError: it says what the video is, and what it should be.
    """
    with opened(video) as container:
        stream = picture_of(container, video)
        codec, pixels = stream.codec_context.name, stream.codec_context.pix_fmt
        if codec != "h264" or pixels != "yuv420p":
            raise PermanentError(f"{video.name} is {codec} video in {pixels}, and must be h264 in yuv420p")
        fps = stream.average_rate
        if not fps:
            raise PermanentError(f"{video.name} does not say how many frames it has per second")
        counted = _count(container, stream)
    expected = frame_count(wav_samples, fps)
    if counted.frames != expected:
        raise PermanentError(
            f"{video.name} has {counted.frames} frames, and must have {expected} "
            f"for {wav_samples} samples of speech at {float(fps):g} frames per second"
        )
    if abs(counted.end - counted.start - expected / fps) > 1 / fps:
        raise PermanentError(f"{video.name} does not show each of its frames for the same time")
    return expected / fps


def picture_of(container: InputContainer, path: Path) -> VideoStream:
    """The first video stream.

    Raises:
        PermanentError: there is none.
    """
    if not container.streams.video:
        raise PermanentError(f"{path.name} has no picture in it")
    return container.streams.video[0]


def _count(container: InputContainer, stream: VideoStream) -> _Counted:
    frames, first, last, duration = 0, None, 0, 0
    for packet in container.demux(stream):
        if packet.size and packet.pts is not None:
            frames += 1
            first = packet.pts if first is None else min(first, packet.pts)
            if packet.pts >= last:
                last, duration = packet.pts, packet.duration or 0
    unit = stream.time_base or Fraction(1)
    return _Counted(frames, (first or 0) * unit, (last + duration) * unit)


@dataclass(frozen=True)
class _Sources:
    """Where picture and sound come from, and how long both last."""

    video: Path
    speech: Path
    seconds: Fraction


def _mux(source: InputContainer, sources: _Sources, output: OutputContainer, progress: ProgressCallback) -> None:
    """Interleave packets by time, so that neither stream piles up in memory."""
    picture = picture_of(source, sources.video)
    picture_out = output.add_stream_from_template(picture)
    with opened(sources.video) as again:
        sound = _sound_packets(again, sources, output)
        ahead = next(sound, None)
        for packet in _timed(source.demux(picture), 1 / (picture.average_rate or Fraction(25))):
            now = (packet.dts or 0) * packet.time_base
            while ahead is not None and ahead.dts is not None and ahead.dts * ahead.time_base <= now:
                output.mux(ahead)
                ahead = next(sound, None)
            packet.stream = picture_out
            output.mux(packet)
            progress(min(1.0, max(0.0, float(now / sources.seconds))))
        if ahead is not None:
            output.mux(ahead)
        for packet_of_sound in sound:
            output.mux(packet_of_sound)
    progress(1.0)


def _timed(packets: Iterator[av.Packet[VideoStream]], frame_seconds: Fraction) -> Iterator[av.Packet[VideoStream]]:
    """Fill in what MP4 needs and Matroska leaves out: durations, and when the first packets are decoded."""
    held: list[av.Packet[VideoStream]] = []
    for packet in packets:
        if not packet.size:
            continue
        step = round(frame_seconds / packet.time_base)
        packet.duration = packet.duration or step
        held.append(packet)
        if packet.dts is not None:
            for back, earlier in enumerate(reversed(held)):
                earlier.dts = packet.dts - back * step
            yield from held
            held.clear()
    for packet in held:
        packet.dts = packet.pts
        yield packet


def _sound_packets(
    again: InputContainer, sources: _Sources, output: OutputContainer
) -> Iterator[av.Packet[AudioStream]]:
    """Packets for the sound of `output`: the video's own if it has any, else the speech's."""
    if not again.streams.audio:
        return _encoded(sources.speech, output, sources.seconds)
    if again.streams.audio[0].codec_context.name == "aac":
        return _copied(again.streams.audio[0], output)
    return _encoded(sources.video, output, sources.seconds)


def _copied(sound: AudioStream, output: OutputContainer) -> Iterator[av.Packet[AudioStream]]:
    sound_out = output.add_stream_from_template(sound)

    def packets() -> Iterator[av.Packet[AudioStream]]:
        container = sound.container
        assert isinstance(container, InputContainer)  # noqa: S101 - for the type checker
        for packet in container.demux(sound):
            if packet.size:
                packet.dts = packet.pts if packet.dts is None else packet.dts
                packet.stream = sound_out
                yield packet

    return packets()


def _encoded(speech: Path, output: OutputContainer, seconds: Fraction) -> Iterator[av.Packet[AudioStream]]:
    rate, layout = _aac_form(speech)
    channels = 1 if layout == "mono" else 2
    stream = output.add_stream("aac", rate=rate, layout=layout, bit_rate=AAC_BITS_PER_CHANNEL * channels)
    wanted = int(seconds * rate)

    def packets() -> Iterator[av.Packet[AudioStream]]:
        position = 0
        for samples in _blocks(SoundReader(speech, rate, layout), channels, wanted):
            frame = AudioFrame.from_ndarray(samples, "fltp", layout)
            frame.sample_rate = rate
            frame.time_base = Fraction(1, rate)
            frame.pts = position
            position += frame.samples
            yield from stream.encode(frame)
        yield from stream.encode(None)

    return packets()


def _aac_form(speech: Path) -> tuple[int, str]:
    """The sample rate and the layout that keep most of the speech."""
    with opened(speech) as container:
        sound = sound_of(container, speech)
        rate = next((rate for rate in AAC_RATES if rate >= sound.rate), AAC_RATES[-1])
        return rate, "mono" if sound.channels == 1 else "stereo"


def _blocks(pieces: SoundReader, channels: int, wanted: int) -> Iterator[Samples]:
    """Exactly `wanted` samples in blocks of one AAC frame: cut, or filled up with silence."""
    held = np.zeros((channels, 0), np.float32)
    given = 0
    for piece in pieces:
        held = np.concatenate([held, piece], axis=1)
        while held.shape[1] >= AAC_FRAME and given + AAC_FRAME <= wanted:
            yield np.ascontiguousarray(held[:, :AAC_FRAME])
            held = held[:, AAC_FRAME:]
            given += AAC_FRAME
        if given + AAC_FRAME > wanted and held.shape[1] >= wanted - given:
            break
    while given < wanted:
        size = min(AAC_FRAME, wanted - given)
        block = held[:, :size]
        held = held[:, size:]
        yield np.pad(block, ((0, 0), (0, size - block.shape[1])))
        given += size
