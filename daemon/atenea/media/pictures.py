"""Reads the pictures that people drop into the inbox: every kind of file they have, and none that harms."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.Image import Resampling

from atenea.errors import PermanentError

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that Pillow decodes by itself; EPS, for one, would start another program."""

BACKGROUND = (226, 229, 234)
"""What shows through where a picture is transparent."""

_BROKEN = (OSError, EOFError, SyntaxError, ValueError, IndexError, KeyError, TypeError, struct.error)
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
                return _flattened(ImageOps.exif_transpose(picture))
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
    background = Image.new("RGBA", picture.size, BACKGROUND)
    return Image.alpha_composite(background, picture.convert("RGBA")).convert("RGB")


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits, or of real numbers; Pillow's own conversion would cut off at 255."""
    values = np.nan_to_num(np.asarray(picture, np.float64))
    brightest = values.max(initial=0.0)
    white = next((white for white in (1.0, 255.0, 65535.0) if brightest <= white), brightest)
    if picture.mode != "F":
        white = max(white, 65535.0)
    return Image.fromarray(np.clip(values / white * 255 + 0.5, 0, 255).astype(np.uint8))


def square(picture: Image.Image, size: int) -> Image.Image:
    """The middle of the picture, `size` x `size` pixels."""
    return ImageOps.fit(picture, (size, size), Resampling.LANCZOS)
