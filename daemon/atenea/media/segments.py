"""A long video made piece by piece: finished pieces survive a crash, and are joined without encoding them again.

A segment is an MP4 file that begins with a keyframe and refers to no other. All of a video's are written with the same
settings by an encoder that starts anew, so they have the same parameter sets, and one after the other they are one
stream.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from av.container import OutputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from atenea import durable
from atenea.errors import PermanentError
from atenea.media.audio import ProgressCallback, opened, silent
from atenea.media.mux import Encoder, VideoWriter, created, picture_of

Pictures = NDArray[np.uint8]
"""Frames of one segment: RGB, (frames, height, width, 3)."""

_STATE = "state"


class SegmentStore:
    """The finished segments of a video, and the state to go on from, in a folder that outlives the process.

    A segment counts as finished when the state after it is on the disk, and that is written after the segment. What
    else is found in the folder is removed: a segment that a crash cut off, or all of them if the facts were others.

    Args:
        folder: made if it is missing; nothing else may be in it.
        facts: all that shapes the video, as JSON values.
        fps: frames per second, a whole number.
        encoder: see `VideoWriter`.

    Attributes:
        count: how many segments are finished.
        state: what `add` was given with the last of them; None if there is none.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], fps: int, encoder: Encoder = "libx264") -> None:
        self._folder = folder
        self._facts = json.loads(json.dumps({**facts, "encoder": encoder}))
        self._fps = fps
        self._encoder = encoder
        durable.make_folder(folder)
        for made in (folder, *list(folder.parents)[:3]):  # the worker made the folders of job and stage
            durable.fsync_folder(made)
        self.count, self.state = self._found()
        finished = {path.name for path in self.paths}
        for path in folder.iterdir():
            if path.name not in finished and (path.name != _STATE or self.state is None):
                durable.remove_file(path)

    @property
    def paths(self) -> list[Path]:
        """The finished segments, in their order."""
        return [self._path(number) for number in range(self.count)]

    def add(self, pictures: Pictures, state: bytes) -> None:
        """Encode a segment; when this returns it is on the disk, and the state after it too.

        Raises:
            OSError: the disk is full, or the like.
        """
        path = self._path(self.count)
        _, height, width, _ = pictures.shape
        with VideoWriter(path, width, height, self._fps, preset="medium", encoder=self._encoder) as writer:
            for picture in pictures:
                writer.write(picture)
        durable.sync_all([path, self._folder])
        header = {"segments": self.count + 1, "sha256": hashlib.sha256(state).hexdigest(), "facts": self._facts}
        durable.write_atomic(self._folder / _STATE, json.dumps(header).encode() + b"\n" + state)
        self.count, self.state = self.count + 1, state

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06}.mp4"

    def _found(self) -> tuple[int, bytes | None]:
        nothing = 0, None
        try:
            line, _, state = (self._folder / _STATE).read_bytes().partition(b"\n")
            header = json.loads(line)
        except (FileNotFoundError, ValueError):
            return nothing
        if header["facts"] != self._facts or header["sha256"] != hashlib.sha256(state).hexdigest():
            return nothing
        count: int = header["segments"]
        return (count, state) if all(self._path(number).is_file() for number in range(count)) else nothing


class SegmentEncoder:
    """Adds segments to a store in a thread of its own, while the next ones are computed; a context manager.

    What waits is added before it ends, also when it ends by an exception: an attempt that failed is gone on with.
    """

    def __init__(self, store: SegmentStore) -> None:
        self._store = store
        self._waiting: queue.Queue[Callable[[], tuple[Pictures, bytes]] | None] = queue.Queue(maxsize=1)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="segment encoder", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.put(None)
        self._thread.join()
        if kind is None:
            self._raise()

    def put(self, segment: Callable[[], tuple[Pictures, bytes]]) -> None:
        """Hand a segment over; waits while two of them are not yet encoded.

        Args:
            segment: called in the encoder's thread, which may wait there until the pictures are computed; returns them
                and the state after them.

        Raises:
            BaseException: what went wrong with an earlier segment.
        """
        self._waiting.put(segment)
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (segment := self._waiting.get()) is not None:
            if self._error is None:
                try:
                    self._store.add(*segment())
                except BaseException as error:  # noqa: BLE001 - it is raised in the other thread
                    self._error = error


def join_segments(paths: Sequence[Path], target: Path, *, progress: ProgressCallback = silent) -> None:
    """Write `target`: the frames of all segments one after the other, as they are, without sound; synced to the disk.

    The time of every frame is computed from its number, so nothing drifts. Memory does not grow with the number of
    segments, but for the index of the file.

    Args:
        paths: segments of one video; at least one.
        target: the MP4 to write; removed when something fails.
        progress: called with the fraction done.

    Raises:
        PermanentError: a segment cannot be read, or was encoded with other settings than the first.
    """
    try:
        with opened(paths[0]) as first, created(target) as output:
            _join(paths, picture_of(first, paths[0]), output, progress)
    except BaseException:
        durable.remove_file(target)
        raise
    durable.sync_all([target, target.parent])
    progress(1.0)


def _join(paths: Sequence[Path], first: VideoStream, output: OutputContainer, progress: ProgressCallback) -> None:
    stream = output.add_stream_from_template(first)
    rate = Fraction(first.average_rate or 0)
    frames = delay = 0
    for number, path in enumerate(paths):
        progress(number / len(paths))
        packets = _packets(path, first)
        step = packets[0].duration or 1
        if not frames:
            # Frames come in the order of decoding, which begins so much earlier than showing.
            delay = ((packets[0].pts or 0) - (packets[0].dts or 0)) // step
        for index, packet in enumerate(packets):
            packet.pts = frames + (packet.pts or 0) // step
            packet.dts = frames + index - delay
            packet.duration = 1
            packet.time_base = 1 / rate
            packet.stream = stream
            output.mux(packet)
        frames += len(packets)


def _packets(path: Path, first: VideoStream) -> list[av.Packet[VideoStream]]:
    with opened(path) as container:
        stream = picture_of(container, path)
        here, there = stream.codec_context, first.codec_context
        if (here.name, here.extradata, stream.time_base) != (there.name, there.extradata, first.time_base):
            raise PermanentError(f"{path.name} was encoded with other settings than the segments before it")
        packets = [packet for packet in container.demux(stream) if packet.size]
        if not packets:
            raise PermanentError(f"{path.name} has no frame in it")
        return packets
