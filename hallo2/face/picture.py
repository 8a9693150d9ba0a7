"""Opens a picture as a person sees it."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from hallo2.face.errors import FaceError

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that Pillow decodes by itself; EPS, for one, would start another program."""

MAX_PIXELS = 2**26
"""8192 x 8192: more than cameras give as a rule, and a small file that unpacks to more is an attack or a mistake. It is
below the number from which Pillow itself warns."""

BACKGROUND = (225, 225, 225)
"""What shows through where a picture is transparent: a plain light wall."""

_BAND_PIXELS = 2**18

_BROKEN = (OSError, EOFError, SyntaxError, ValueError, IndexError, KeyError, TypeError, RuntimeError, struct.error)
"""What Pillow's decoders raise on files that are cut off or damaged."""


def open_picture(picture: Path | Image.Image, name: str) -> Image.Image:
    """The picture upright, in RGB, on a neutral background; the first frame if it moves.

    Args:
        picture: a file, or a picture in any of Pillow's modes.
        name: what messages call it.

    Raises:
        FaceError: it is missing, no picture, damaged, or has more than `MAX_PIXELS`.
    """
    if isinstance(picture, Image.Image):
        return _upright(picture, name)
    try:
        with Image.open(picture, formats=FORMATS) as opened:
            return _upright(opened, name)
    except FileNotFoundError as error:
        raise FaceError(f"{name} is missing") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise FaceError(f"{name} has too many pixels: {MAX_PIXELS} at most are read, so make it smaller") from error
    except UnidentifiedImageError as error:
        raise FaceError(f"{name} is no picture that can be read: use PNG, JPEG or WebP") from error


def _upright(picture: Image.Image, name: str) -> Image.Image:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise FaceError(
            f"{name} has {width} x {height} pixels, and {MAX_PIXELS} in all are the most that is read: make it smaller"
        )
    try:
        picture.load()
        return _flattened(ImageOps.exif_transpose(picture))
    except _BROKEN as error:
        raise FaceError(f"{name} is damaged or cut off: {error}") from error


def _flattened(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):
        return _eight_bit(picture).convert("RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    background = Image.new("RGBA", picture.size, BACKGROUND)
    return Image.alpha_composite(background, picture.convert("RGBA")).convert("RGB")


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits or more: white is 65535; of real numbers: 1. Pillow's own conversion would cut off at 255.

    It is done band by band: as real numbers, the largest pictures would take gigabytes.
    """
    white = 1.0 if picture.mode == "F" else 65535.0
    grey = Image.new("L", picture.size)
    rows = max(1, _BAND_PIXELS // max(1, picture.width))
    for top in range(0, picture.height, rows):
        box = (0, top, picture.width, min(top + rows, picture.height))
        values = np.nan_to_num(np.asarray(picture.crop(box), np.float64)) / white
        grey.paste(Image.fromarray((values.clip(0, 1) * 255 + 0.5).astype(np.uint8)), box)
    return grey
