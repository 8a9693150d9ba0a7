"""Reads the pictures that people drop into the inbox: every kind of file they have, and none that harms."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.Image import Resampling

from atenea.errors import PermanentError

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that Pillow decodes by itself; EPS, for one, would start another program."""

BACKGROUND = (226, 229, 234)
"""What shows through where a picture is transparent."""

_BAND_PIXELS = 1 << 20

_Box = tuple[int, int, int, int]

_BROKEN = (OSError, EOFError, SyntaxError, ValueError, IndexError, KeyError, TypeError, RuntimeError, struct.error)
"""What Pillow's decoders raise on files that are cut off or damaged."""


def load_avatar(path: Path, *, max_pixels: int) -> Image.Image:
    """The picture upright, in RGB, on a neutral background; the first frame if it moves.

    Raises:
        PermanentError: it is no picture, is damaged or cut off, or has more than `max_pixels`; that is known before
            it is decoded.
    """
    with warnings.catch_warnings():
        # Pillow warns of pictures that are large; `max_pixels` is the limit here.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(path, formats=FORMATS) as picture:
                _check_size(path, picture, max_pixels)
                picture.load()
                ImageOps.exif_transpose(picture, in_place=True)
                return _flattened(picture)
        except Image.DecompressionBombError as error:
            raise PermanentError(f"{path.name} has too many pixels: {max_pixels} at most are read") from error
        except UnidentifiedImageError as error:
            raise PermanentError(f"{path.name} is no picture that can be read: use PNG, JPEG or WebP") from error
        except FileNotFoundError as error:
            raise PermanentError(f"{path.name} is missing") from error
        except _BROKEN as error:
            raise PermanentError(f"{path.name} is damaged or cut off: {error}") from error


def _check_size(path: Path, picture: Image.Image, max_pixels: int) -> None:
    width, height = picture.size
    if width * height > max_pixels:
        raise PermanentError(
            f"{path.name} has {width} x {height} pixels, and {max_pixels} in all are the most that is read: "
            "make it smaller"
        )


def _flattened(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):
        return _eight_bit(picture).convert("RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    background = Image.new("RGB", picture.size, BACKGROUND)
    for box in _bands(picture):
        band = picture.crop(box).convert("RGBA")
        background.paste(band, box, band)
    return background


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits, or of real numbers; Pillow's own conversion would cut off at 255."""
    brightest = max(float(_values(picture, box).max()) for box in _bands(picture))
    white = next((white for white in (1.0, 255.0, 65535.0) if brightest <= white), brightest)
    if picture.mode != "F":
        white = max(white, 65535.0)
    grey = Image.new("L", picture.size)
    for box in _bands(picture):
        values = np.clip(_values(picture, box) / white * 255 + 0.5, 0, 255)
        grey.paste(Image.fromarray(values.astype(np.uint8)), box)
    return grey


def _values(picture: Image.Image, box: _Box) -> NDArray[np.float64]:
    return np.nan_to_num(np.asarray(picture.crop(box), np.float64))


def _bands(picture: Image.Image) -> Iterator[_Box]:
    """The picture from top to bottom, in pieces that take little memory, whatever is made of them."""
    rows = max(1, _BAND_PIXELS // max(1, picture.width))
    for top in range(0, picture.height, rows):
        yield 0, top, picture.width, min(top + rows, picture.height)


def square(picture: Image.Image, size: int) -> Image.Image:
    """The middle of the picture, `size` x `size` pixels."""
    return ImageOps.fit(picture, (size, size), Resampling.LANCZOS)
