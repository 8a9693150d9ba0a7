"""Draws the face that speaks when a job brings none."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

from PIL import Image, ImageDraw, ImageFilter
from PIL.Image import Resampling

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]

_SKY = (126, 166, 204), (44, 62, 104)
_SKIN, _SHADE, _BLUSH = (244, 205, 178), (222, 174, 146), (238, 160, 140)
_HAIR, _HAIR_LIGHT = (66, 46, 44), (96, 68, 60)
_SHIRT, _SHIRT_DARK = (247, 249, 252), (205, 214, 228)
_JACKET, _JACKET_DARK = (38, 84, 106), (28, 64, 84)
_EYE, _WHITE = (52, 40, 40), (255, 255, 255)
_LIPS, _MOUTH, _TEETH, _TONGUE = (196, 98, 92), (104, 36, 42), (250, 246, 242), (214, 108, 108)


MOUTH_BOX = (0.41, 0.53, 0.59, 0.68)
"""Left, top, right, bottom, as fractions of the picture: outside it, faces with open and closed mouths are alike."""


def default_avatar(size: int) -> Image.Image:
    """A friendly drawn person, RGB, `size` x `size`, who smiles."""
    return talking_avatar(size, [0.0])[0]


def talking_avatar(size: int, openings: Sequence[float]) -> list[Image.Image]:
    """The default avatar once for each opening of its mouth, from 0 (a smile) to 1."""
    canvas = _Canvas(size * _scale(size), size * _scale(size))
    canvas.picture.paste(_background(canvas.size))
    _draw_body(canvas)
    _draw_head(canvas)
    _draw_face(canvas)
    drawn = canvas.picture.resize((size, size), Resampling.LANCZOS)
    return [_with_mouth(drawn.copy(), canvas, opening) for opening in openings]


def _scale(size: int) -> int:
    """Pillow draws without smoothing, so draw larger and shrink."""
    return 3 if size <= 768 else 2


def _with_mouth(face: Image.Image, canvas: _Canvas, opening: float) -> Image.Image:
    """Draw the mouth on `face`, in no more than its box; `canvas` holds the face without one."""
    left, top, right, bottom = (round(edge * face.width) for edge in MOUTH_BOX)
    scale = canvas.size // face.width
    window = [edge * scale for edge in (left, top, right, bottom)]
    detail = _Canvas(canvas.size, window[2] - window[0], window[3] - window[1], (window[0], window[1]))
    detail.picture.paste(canvas.picture.crop((window[0], window[1], window[2], window[3])))
    _draw_mouth(detail, opening)
    face.paste(detail.picture.resize((right - left, bottom - top), Resampling.LANCZOS), (left, top))
    return face


class _Canvas:
    """Draws in coordinates from 0 to 1, which span `size` pixels; it may show but a part of them."""

    def __init__(self, size: int, width: int, height: int = 0, origin: tuple[int, int] = (0, 0)) -> None:
        self.size = size
        self.picture = Image.new("RGB", (width, height or width))
        self._origin = origin
        self._draw = ImageDraw.Draw(self.picture)

    def like(self, colour: Colour = (0, 0, 0)) -> _Canvas:
        """A canvas for the same part, filled."""
        canvas = _Canvas(self.size, self.picture.width, self.picture.height, self._origin)
        canvas.picture.paste(colour, (0, 0, *canvas.picture.size))
        return canvas

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        self._draw.ellipse(self._scaled((x - rx, y - ry, x + rx, y + ry)), colour)

    def rounded(self, box: Box, radius: float, colour: Colour) -> None:
        self._draw.rounded_rectangle(self._scaled(box), radius * self.size, colour)

    def polygon(self, points: Sequence[tuple[float, float]], colour: Colour) -> None:
        self._draw.polygon([self._placed(x, y) for x, y in points], colour)

    def curve(self, points: Sequence[tuple[float, float]], width: float, colour: Colour) -> None:
        """A thick Bezier curve with round ends."""
        for x, y in _bezier_points(points):
            self.ellipse(x, y, width / 2, width / 2, colour)

    def blurred(self, radius: float, colour: Colour, opacity: float, shape: Callable[[_Canvas], None]) -> None:
        """`shape` as a soft spot: it draws in white."""
        mask = self.like()
        shape(mask)
        # A blur needs no detail, and on fewer pixels it is quick.
        small = mask.picture.convert("L").resize((self.size // 4, self.size // 4))
        small = small.filter(ImageFilter.GaussianBlur(radius * self.size / 4)).point(lambda value: value * opacity)
        self.picture.paste(colour, mask=small.resize((self.size, self.size), Resampling.BICUBIC))

    def _scaled(self, box: Box) -> Box:
        left, top = self._placed(box[0], box[1])
        return (left, top, *self._placed(box[2], box[3]))

    def _placed(self, x: float, y: float) -> tuple[float, float]:
        return x * self.size - self._origin[0], y * self.size - self._origin[1]


def _bezier(points: Sequence[tuple[float, float]], t: float) -> tuple[float, float]:
    while len(points) > 1:
        points = [(ax + (bx - ax) * t, ay + (by - ay) * t) for (ax, ay), (bx, by) in pairwise(points)]
    return points[0]


def _bezier_points(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [_bezier(points, step / 64) for step in range(65)]


def _background(size: int) -> Image.Image:
    gradient = Image.radial_gradient("L").resize((size * 2, size * 2), Resampling.BICUBIC)
    left, top = size // 2, int(size * 0.62)
    light = gradient.crop((left, top, left + size, top + size))
    return Image.composite(Image.new("RGB", (size, size), _SKY[1]), Image.new("RGB", (size, size), _SKY[0]), light)


def _draw_body(canvas: _Canvas) -> None:
    canvas.blurred(0.03, (20, 30, 56), 0.45, lambda mask: mask.ellipse(0.5, 1.0, 0.40, 0.26, _WHITE))
    canvas.rounded((0.14, 0.745, 0.86, 1.3), 0.17, _JACKET)
    canvas.polygon([(0.395, 0.735), (0.605, 0.735), (0.5, 1.02)], _SHIRT)
    canvas.polygon([(0.405, 0.72), (0.33, 0.775), (0.415, 0.86), (0.385, 0.93), (0.5, 1.06)], _JACKET_DARK)
    canvas.polygon([(0.595, 0.72), (0.67, 0.775), (0.585, 0.86), (0.615, 0.93), (0.5, 1.06)], _JACKET_DARK)
    canvas.rounded((0.425, 0.56, 0.575, 0.775), 0.05, _SHADE)
    canvas.ellipse(0.5, 0.765, 0.075, 0.042, _SHADE)
    canvas.polygon([(0.422, 0.728), (0.385, 0.765), (0.452, 0.842), (0.5, 0.79)], _SHIRT_DARK)
    canvas.polygon([(0.578, 0.728), (0.615, 0.765), (0.548, 0.842), (0.5, 0.79)], _SHIRT_DARK)


def _draw_head(canvas: _Canvas) -> None:
    canvas.ellipse(0.5, 0.37, 0.222, 0.235, _HAIR)
    canvas.rounded((0.284, 0.36, 0.716, 0.56), 0.10, _HAIR)
    for x in (0.312, 0.688):
        canvas.ellipse(x, 0.462, 0.032, 0.046, _SKIN)
        canvas.ellipse(x, 0.465, 0.017, 0.028, _SHADE)
    canvas.ellipse(0.5, 0.405, 0.182, 0.185, _SKIN)
    canvas.ellipse(0.5, 0.485, 0.176, 0.183, _SKIN)
    fringe = _bezier_points([(0.296, 0.465), (0.335, 0.345), (0.44, 0.29), (0.53, 0.275)])
    fringe += _bezier_points([(0.53, 0.275), (0.585, 0.335), (0.655, 0.37), (0.704, 0.465)])
    crown = [(0.5 + 0.218 * math.cos(a), 0.37 - 0.231 * math.sin(a)) for a in _angles(-0.30, math.pi + 0.30)]
    canvas.polygon([*fringe, *crown], _HAIR)
    canvas.curve([(0.375, 0.262), (0.42, 0.192), (0.50, 0.172), (0.575, 0.195)], 0.012, _HAIR_LIGHT)


def _angles(start: float, end: float) -> list[float]:
    return [start + (end - start) * step / 64 for step in range(65)]


def _draw_face(canvas: _Canvas) -> None:
    for x in (0.385, 0.615):
        canvas.blurred(0.016, _BLUSH, 0.42, partial(_cheek, x))
    for side in (-1, 1):
        x = 0.5 + side * 0.078
        canvas.ellipse(x, 0.462, 0.023, 0.030, _EYE)
        canvas.ellipse(x + 0.008, 0.451, 0.0085, 0.0095, _WHITE)
        canvas.ellipse(x - 0.007, 0.472, 0.004, 0.0045, _WHITE)
        brow = [(x - 0.040, 0.409 - 0.004 * side), (x, 0.389), (x + 0.040, 0.409 + 0.004 * side)]
        canvas.curve(brow, 0.0125, _HAIR_LIGHT)
    canvas.curve([(0.489, 0.523), (0.5, 0.537), (0.513, 0.523)], 0.011, _SHADE)


def _cheek(x: float, mask: _Canvas) -> None:
    mask.ellipse(x, 0.535, 0.036, 0.026, _WHITE)


def _draw_mouth(canvas: _Canvas, opening: float) -> None:
    if opening < 0.05:
        canvas.curve([(0.448, 0.582), (0.5, 0.620), (0.552, 0.582)], 0.013, _LIPS)
        return
    rx, ry = 0.048 - 0.008 * opening, 0.008 + 0.026 * opening
    y = 0.594 + 0.008 * opening
    canvas.ellipse(0.5, y, rx + 0.008, ry + 0.008, _LIPS)
    mask = canvas.like()
    mask.ellipse(0.5, y, rx, ry, _WHITE)
    inside = canvas.like(_MOUTH)
    inside.ellipse(0.5, y + ry * 1.05, rx * 0.75, ry * 0.62, _TONGUE)
    inside.rounded((0.5 - rx, y - ry - 0.02, 0.5 + rx, y - ry * 0.52), 0.008, _TEETH)
    canvas.picture.paste(inside.picture, mask=mask.picture.convert("L"))
