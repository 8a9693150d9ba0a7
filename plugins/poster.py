"""poster: publishes a still of the finished video beside it, as a JPEG."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from atenea import Context, PermanentError, PluginOptions, hookimpl

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

needs = {"cpu"}


class Options(PluginOptions):
    """Options of the plugin.

    Attributes:
        at: seconds into the video; without it, a moment after the speech began. Past the end, the last frame.
        quality: of the JPEG.
    """

    at: float | None = Field(None, ge=0)
    quality: int = Field(90, ge=1, le=95)


@hookimpl
def post(video: Path, ctx: Context) -> None:
    """Attach the still; the video stays as it is."""
    from PIL import Image  # noqa: PLC0415 - listing the plugins must not cost it

    from atenea.media.audio import opened  # noqa: PLC0415
    from atenea.media.mux import picture_of  # noqa: PLC0415

    assert isinstance(ctx.options, Options)  # noqa: S101 - the plugin manager validated them
    target = ctx.workdir / "poster.jpg"
    with opened(video) as container:
        stream = picture_of(container, video)
        stream.thread_type = "AUTO"
        at = ctx.options.at
        frame = _frame_at(container, stream, _a_little_in(stream) if at is None else at)
        if frame is None:
            raise PermanentError(f"{video.name} has no frame that can be decoded")
        Image.fromarray(frame.to_ndarray(format="rgb24")).save(target, quality=ctx.options.quality, optimize=True)
    ctx.attach(target, ".jpg")


def _a_little_in(stream: VideoStream) -> float:
    """A second, or a third of a video shorter than three."""
    if not stream.duration or not stream.time_base:
        return 0.0
    return min(1.0, float(stream.duration * stream.time_base) / 3)


def _frame_at(container: InputContainer, stream: VideoStream, at: float) -> VideoFrame | None:
    """The frame that is shown at this moment, or else the last one."""
    container.seek(int(Fraction(at) / (stream.time_base or 1)), stream=stream)
    shown = None
    for frame in container.decode(stream):
        if shown is not None and frame.time > at:
            break
        shown = frame
    return shown
