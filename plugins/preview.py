"""preview: shows the avatar, the level of the voice and the words as they are spoken. Any CPU renders it in seconds.

Only what changes is drawn: the picture stands in memory once, as the planes that the encoder reads, and each frame
changes the sound bars, the mouth of the default avatar, and the caption when a word begins.
"""

from __future__ import annotations

import re
import unicodedata
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.Image import Resampling
from pydantic import Field

from atenea import Context, Job, PermanentError, TimedText, hookimpl
from atenea.media.audio import SAMPLE_RATE, frame_count, wav_info
from atenea.media.avatar import MOUTH_BOX, talking_avatar
from atenea.media.mux import VideoWriter, yuv420p
from atenea.media.pictures import load_avatar, square
from atenea.options import SquareVideoOptions
from atenea.speech_clock import in_wav
from atenea.speech_timing import spread_words, unspaced

needs = {"cpu"}

MAX_AVATAR_PIXELS = 100_000_000
FONT_FOLDERS = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"))

_INK, _DIM, _ACCENT = (255, 255, 255), (176, 186, 204), (255, 214, 92)
_NIGHT = (12, 18, 34)
_BARS_INNER, _BARS_OUTER = (126, 226, 255), (148, 130, 255)
_MOUTHS = 7

Planes = NDArray[np.uint8]
Font = ImageFont.FreeTypeFont


class Options(SquareVideoOptions):
    """Options of the plugin.

    Attributes:
        fps: frames per second.
        font: a font file for the words, for scripts that the fonts of this machine lack.
    """

    fps: int = Field(25, ge=1, le=60)
    font: Path | None = None


@hookimpl
def check(job: Job, ctx: Context) -> str | None:
    """Refuse a font that is none."""
    try:
        _open_font(_options(ctx).font, 16)
    except PermanentError as error:
        return str(error)
    return None


@hookimpl
def render(job: Job, wav: Path, ctx: Context) -> Path:
    """Draw one frame after another, in constant memory."""
    options = _options(ctx)
    samples = wav_info(wav)
    frames = frame_count(samples, options.fps)
    words = _words(job, ctx, wav, samples / SAMPLE_RATE)
    font = _choose_font(options, "".join(word.text for word in words))
    scene = _Scene(_faces(job, options.width), Captions(words, font, options.width))
    target = ctx.workdir / "preview.mp4"
    with VideoWriter(target, options.width, options.height, options.fps, crf=20, preset="superfast") as writer:
        for index, level in enumerate(sound_levels(wav, frames, options.fps)):
            if index % 10 == 0:
                ctx.progress(index / frames, f"frame {index} of {frames}")
            writer.write_yuv(scene.draw(index / options.fps, level, (index + 1) / frames))
    return target


def _options(ctx: Context) -> Options:
    assert isinstance(ctx.options, Options)  # noqa: S101 - the plugin manager validated them
    return ctx.options


def _words(job: Job, ctx: Context, wav: Path, seconds: float) -> list[TimedText]:
    if ctx.timing:
        pieces = in_wav(ctx.timing, ctx.speech or wav, wav)
    else:
        pieces = [TimedText(job.text, 0.0, seconds)] if job.text else []
    return spread_words(pieces, wav)


def _faces(job: Job, size: int) -> list[Image.Image]:
    """The avatar; the default one with its mouth more and more open."""
    if job.avatar is None:
        return talking_avatar(size, [step / (_MOUTHS - 1) for step in range(_MOUTHS)])
    return [square(load_avatar(job.avatar, max_pixels=MAX_AVATAR_PIXELS), size)]


def sound_levels(wav: Path, frames: int, fps: int) -> Iterator[float]:
    """How loud each frame is, from 0 to 1, relative to what was loudest lately."""
    reference, shown = 600.0, 0.0
    with wave.open(str(wav), "rb") as sound:
        for index in range(frames):
            count = (index + 1) * SAMPLE_RATE // fps - index * SAMPLE_RATE // fps
            samples = np.frombuffer(sound.readframes(count), "<i2").astype(np.float32)
            level = float(np.sqrt(np.square(samples).mean())) if samples.size else 0.0
            reference = max(reference * 0.999, level)
            decibels = 20 * np.log10(max(level, 1.0) / reference)
            shown = max(shown * 0.7, min(1.0, max(0.0, float(decibels) / 30 + 1)) ** 1.7)
            yield shown


class _Picture:
    """The planes of the frame, with patches put in place."""

    def __init__(self, picture: Image.Image) -> None:
        self.planes = np.ascontiguousarray(yuv420p(np.asarray(picture)))
        self._parts = _split(self.planes)

    def put(self, left: int, top: int, patch: Sequence[Planes]) -> None:
        """Place Y, U and V at an even position."""
        for part, values in zip(self._parts, patch, strict=True):
            scale = 1 if part is self._parts[0] else 2
            y, x = top // scale, left // scale
            part[y : y + values.shape[0], x : x + values.shape[1]] = values


def _split(planes: Planes) -> list[Planes]:
    """Views of Y, U and V."""
    height, width = planes.shape[0] * 2 // 3, planes.shape[1]
    colours = planes[height:].reshape(2, height // 2, width // 2)
    return [planes[:height], colours[0], colours[1]]


def _patch(picture: Image.Image) -> list[Planes]:
    return _split(yuv420p(np.asarray(picture)))


class _Scene:
    """Everything in the picture, and what of it changes."""

    def __init__(self, faces: Sequence[Image.Image], captions: Captions) -> None:
        size = faces[0].width
        dressed = [_dressed(face) for face in faces]
        self._picture = _Picture(dressed[0])
        self._bars = _Bars(dressed[0])
        self._captions = captions
        self._backdrop = dressed[0].crop(captions.box)
        self._drawn: object = None
        left, top, right, bottom = (_even(edge * size) for edge in MOUTH_BOX)
        self._mouth_corner = left, top
        self._mouths = [_patch(face.crop((left, top, right, bottom))) for face in dressed]
        self._line = _Line(dressed[0])

    def draw(self, time: float, level: float, fraction: float) -> Planes:
        """The frame at `time` seconds; the array is the same each time."""
        self._picture.put(*self._bars.corner, self._bars.draw(level))
        self._picture.put(*self._line.corner, self._line.draw(fraction))
        if len(self._mouths) > 1:
            self._picture.put(*self._mouth_corner, self._mouths[round(level * (len(self._mouths) - 1))])
        state = self._captions.at(time)
        if state != self._drawn:
            self._drawn = state
            left, top, _, _ = self._captions.box
            self._picture.put(left, top, _patch(self._captions.draw(self._backdrop, state)))
        return self._picture.planes


def _even(value: float) -> int:
    return round(value / 2) * 2


def _dressed(face: Image.Image) -> Image.Image:
    """The face with a dark veil for the words, and the mark that this is a preview."""
    size = face.width
    veil = np.clip((np.arange(size) / size - 0.58) / 0.24, 0, 1)
    alpha = np.repeat((veil * veil * (3 - 2 * veil) * 215).astype(np.uint8)[:, None], size, axis=1)
    dressed = face.copy()
    dressed.paste(_NIGHT, mask=Image.fromarray(alpha))
    _draw_badge(dressed)
    return dressed


def _draw_badge(picture: Image.Image) -> None:
    size, scale = picture.width, 3
    font = _open_font(None, max(8, size * 0.03) * scale)
    text = "P R E V I E W"
    left, top, right, bottom = font.getbbox(text)
    pad = size * 0.022 * scale
    badge = Image.new("L", (round(right - left + 2 * pad), round(bottom - top + 1.3 * pad)))
    ImageDraw.Draw(badge).rounded_rectangle((0, 0, badge.width - 1, badge.height - 1), badge.height / 2, 150)
    place = round(size * 0.035), round(size * 0.035)
    small = badge.resize((badge.width // scale, badge.height // scale), Resampling.LANCZOS)
    picture.paste(_NIGHT, place, small)
    letters = Image.new("L", badge.size)
    ImageDraw.Draw(letters).text((pad - left, pad * 0.65 - top), text, 245, font)
    picture.paste(_INK, place, letters.resize(small.size, Resampling.LANCZOS))


class _Bars:
    """Rounded bars whose heights run outwards from the middle, as the voice grows and fades."""

    _SHADES = 48

    def __init__(self, picture: Image.Image) -> None:
        size = picture.width
        self._pitch = max(2, _even(size / 60))
        self._reach = size * 31 // 100 // self._pitch
        self._height = max(8, _even(size * 0.095))
        width = self._pitch * (2 * self._reach + 1)
        self.corner = _even((size - width) / 2), _even(size * 0.722 - self._height / 2)
        left, top = self.corner
        self._base = _patch(picture.crop((left, top, left + width, top + self._height)))
        self._colours = [part.astype(np.float32) - base for part, base in zip(self._tint(), self._base, strict=True)]
        self._shapes = self._drawn_shapes()
        self._history = np.zeros(self._reach + 1)
        fade = np.cos(np.linspace(0, np.pi / 2, self._reach + 2)[:-1]) ** 0.8
        self._fade = np.concatenate([fade[:0:-1], fade])

    def draw(self, level: float) -> list[Planes]:
        """The bars after one more frame."""
        self._history[1:] = self._history[:-1]
        self._history[0] = level
        heights = np.concatenate([self._history[:0:-1], self._history]) * self._fade
        chosen = np.rint(heights * (self._SHADES - 1)).astype(int)
        masks = [_side_by_side(shapes[chosen]) for shapes in self._shapes]
        blended = []
        for index, (base, colour) in enumerate(zip(self._base, self._colours, strict=True)):
            blended.append((base + colour * masks[min(index, 1)]).astype(np.uint8))
        return blended

    def _tint(self) -> list[Planes]:
        width = self._pitch * (2 * self._reach + 1)
        outward = np.abs(np.linspace(-1, 1, width))[None, :, None]
        row = np.array(_BARS_INNER) * (1 - outward) + np.array(_BARS_OUTER) * outward
        return _split(yuv420p(np.repeat(row.astype(np.uint8), self._height, axis=0)))

    def _drawn_shapes(self) -> list[NDArray[np.float32]]:
        """Coverage of a bar of each height, for Y and for U and V."""
        scale, width = 4, self._pitch * 0.56
        shapes = []
        for shade in range(self._SHADES):
            tall = width + (self._height - width) * shade / (self._SHADES - 1)
            shape = Image.new("L", (self._pitch * scale, self._height * scale))
            x, y = (self._pitch - width) / 2, (self._height - tall) / 2
            box = [value * scale for value in (x, y, x + width, y + tall)]
            ImageDraw.Draw(shape).rounded_rectangle(box, width * scale / 2, 230)
            shapes.append(np.asarray(shape.resize((self._pitch, self._height), Resampling.BOX), np.float32) / 255)
        fine = np.stack(shapes)
        coarse = fine.reshape(self._SHADES, self._height // 2, 2, self._pitch // 2, 2).mean(axis=(2, 4))
        return [fine, coarse]


def _side_by_side(shapes: NDArray[np.float32]) -> NDArray[np.float32]:
    bars, height, width = shapes.shape
    return shapes.transpose(1, 0, 2).reshape(height, bars * width)


class _Line:
    """The line along the bottom that grows with time."""

    def __init__(self, picture: Image.Image) -> None:
        size = picture.width
        self._height = max(2, _even(size * 0.008))
        self.corner = 0, size - self._height
        self._full = _patch(Image.new("RGB", (size, self._height), _BARS_INNER))
        self._size = size

    def draw(self, fraction: float) -> list[Planes]:
        """The part of the line that is reached."""
        reached = min(self._size, _even(self._size * fraction))
        return [part[:, : reached // (1 if index == 0 else 2)] for index, part in enumerate(self._full)]


@dataclass(frozen=True)
class _Placed:
    """A word of a page, and where it stands."""

    word: TimedText
    text: str
    x: float
    line: int


@dataclass(frozen=True)
class _Page:
    """The words that are shown together."""

    words: tuple[_Placed, ...]
    lines: int

    @property
    def start(self) -> float:
        return self.words[0].word.start

    @property
    def end(self) -> float:
        return self.words[-1].word.end


State = tuple[float, int] | None
"""A page, by its start, and the index of its word that is spoken; -1 before the first."""


class Captions:
    """The words, a page of two lines at a time, the one that is spoken in colour."""

    _LINES = 2
    _LEAD, _LINGER = 0.4, 1.5
    _SENTENCE_END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f][\"')\]\u201d\u2019\u00bb]*$")

    def __init__(self, words: Sequence[TimedText], font: Font, size: int) -> None:
        self._font = font
        self._width = _even(size * 0.90)
        self._line_height = font.size * 1.32
        height = _even(self._line_height * self._LINES + font.size * 0.3)
        left, top = _even((size - self._width) / 2), min(_even(size * 0.785), size - height)
        self.box = left, top, left + self._width, top + height
        self._space = font.getlength(" ")
        self._pages = self._paginated(words)
        self._page: _Page | None = None
        self._next = next(self._pages, None)

    def at(self, time: float) -> State:
        """What is to be seen at this time; times only grow."""
        while self._next is not None and time >= self._next.start - self._LEAD:
            if self._page is not None and time < min(self._page.end, self._next.start):
                break
            self._page, self._next = self._next, next(self._pages, None)
        page = self._page
        if page is None or time > page.end + self._LINGER:
            return None
        spoken = sum(placed.word.start <= time for placed in page.words) - 1
        return page.start, spoken

    def draw(self, backdrop: Image.Image, state: State) -> Image.Image:
        """The strip of the picture with the words in it."""
        strip = backdrop.copy()
        if state is None or self._page is None:
            return strip
        draw = ImageDraw.Draw(strip)
        top = (strip.height - self._line_height * self._page.lines) / 2
        for index, placed in enumerate(self._page.words):
            colour = _ACCENT if index == state[1] else _INK if index < state[1] else _DIM
            middle = top + self._line_height * (placed.line + 0.5)
            draw.text((placed.x, middle), placed.text, colour, self._font, anchor="lm")
        return strip

    def _paginated(self, words: Sequence[TimedText]) -> Iterator[_Page]:
        lines: list[list[tuple[TimedText, str]]] = [[]]
        before: TimedText | None = None
        for word in words:
            text = self._fitted(word.text)
            if before is not None and self._ends_page(before, word, lines):
                yield self._page_of(lines)
                lines = [[]]
            elif lines[-1] and self._length([*lines[-1], (word, text)]) > self._width:
                if len(lines) == self._LINES:
                    yield self._page_of(lines)
                    lines = []
                lines.append([])
            lines[-1].append((word, text))
            before = word
        if before is not None:
            yield self._page_of(lines)

    def _ends_page(self, before: TimedText, word: TimedText, lines: list[list[tuple[TimedText, str]]]) -> bool:
        if word.start - before.end > self._LINGER:
            return True
        return sum(map(len, lines)) > 3 and self._SENTENCE_END.search(before.text) is not None

    def _fitted(self, text: str) -> str:
        """A word longer than the line is cut short."""
        if len(text) > 200:
            text = text[:200] + "\u2026"
        while len(text) > 2 and self._font.getlength(text) > self._width:
            text = text[: len(text) * 9 // 10 - 1] + "\u2026"
        return text

    def _length(self, line: Sequence[tuple[TimedText, str]]) -> float:
        words = sum(self._font.getlength(text) for _, text in line)
        return words + self._space * sum(not unspaced(text) for _, text in line[1:])

    def _page_of(self, lines: Sequence[Sequence[tuple[TimedText, str]]]) -> _Page:
        placed = []
        for number, line in enumerate(lines):
            x = (self._width - self._length(line)) / 2
            mirrored = _right_to_left(line)
            for index, (word, text) in enumerate(line):
                length = self._font.getlength(text)
                if index and not unspaced(text):
                    x += self._space
                placed.append(_Placed(word, text, self._width - x - length if mirrored else x, number))
                x += length
        return _Page(tuple(placed), len(lines))


def _right_to_left(line: Sequence[tuple[TimedText, str]]) -> bool:
    strong = (unicodedata.bidirectional(character) for _, text in line for character in text)
    return next((kind in {"R", "AL"} for kind in strong if kind in {"L", "R", "AL"}), False)


def _open_font(path: Path | None, size: float) -> Font:
    """The font in the file, or the one that comes with Pillow."""
    if path is None:
        font = ImageFont.load_default(size)
        assert isinstance(font, ImageFont.FreeTypeFont)  # noqa: S101 - Pillow's wheels have FreeType
        return font
    try:
        return ImageFont.truetype(path, size)
    except OSError as error:
        raise PermanentError(f"font: {path} is no font file that can be read") from error


def _choose_font(options: Options, text: str) -> Font:
    """The font with the most of the text's characters: the option's, Pillow's, or one of this machine's."""
    size = max(8.0, options.width * 0.052)
    font = _open_font(options.font, size)
    letters = sorted({character for character in text if not character.isspace()})[:400]
    missing = _missing(font, letters)
    if options.font is not None or not missing:
        return font
    for path in _machine_fonts():
        try:
            other = ImageFont.truetype(path, size)
        except OSError:
            continue
        lacking = _missing(other, letters)
        if lacking < missing:
            font, missing = other, lacking
        if not missing:
            break
    return font


def _machine_fonts() -> list[Path]:
    """Plain sans-serif fonts, DejaVu first, which has the most scripts in one file."""
    files = [path for folder in FONT_FOLDERS for path in sorted(folder.rglob("*.[to]t[fc]"))]
    dejavu = [path for path in files if path.name == "DejaVuSans.ttf"]
    noto = [path for path in files if re.fullmatch(r"Noto(Sans|Emoji|Color).*-Regular\..*", path.name)]
    return dejavu + noto


def _missing(font: Font, letters: Sequence[str]) -> int:
    """How many of the letters the font draws as the box that stands for what it lacks."""
    box = bytes(font.getmask("\U0010ffff"))
    return sum(bytes(font.getmask(letter)) == box for letter in letters)
