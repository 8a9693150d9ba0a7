"""From a picture of a person to the portrait that the engine animates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from hallo2.face.analysis import FaceAnalysis
from hallo2.face.errors import FaceError
from hallo2.face.framing import Square, largest_square, square_around
from hallo2.face.landmarks import Landmarks, Picture
from hallo2.face.masks import region_masks
from hallo2.face.mesh import FIVE_POINTS, Box, Points
from hallo2.face.picture import open_picture
from hallo2.face.suitability import check_size, edge_warnings, only_face, pose_warnings, square_warnings
from hallo2.portrait import Portrait

Crop = Literal["face", "none"] | Sequence[int]


@dataclass(frozen=True, eq=False)
class PreparedPortrait:
    """A portrait and how it came about.

    Attributes:
        portrait: what the engine takes.
        picture: (size, size), RGB; what is animated.
        square: which part of the upright picture that is.
        warnings: sentences on what could be better.
    """

    portrait: Portrait
    picture: Image.Image
    square: Square
    warnings: tuple[str, ...]


def prepare_portrait(
    picture: Path | Image.Image,
    analysis: FaceAnalysis,
    *,
    size: int = 512,
    face_expand_ratio: float = 1.2,
    crop: Crop = "face",
    face_box: Sequence[float] | None = None,
    name: str | None = None,
) -> PreparedPortrait:
    """Find the face that speaks, cut a square around it and compute what the engine needs to know of it.

    The face is found, and its embedding computed, in the whole picture; the masks are those of the square. All places
    are in pixels of the picture as a person sees it, after its EXIF orientation.

    Args:
        picture: a file, or a picture in any of Pillow's modes.
        analysis: the networks.
        size: of the square that is animated, in pixels; a multiple of 64.
        face_expand_ratio: how much the box of the face's silhouette grows to the region that moves.
        crop: "face", the square around the face in which it takes 60 % of the side, as far as the picture has it;
            "none", the whole picture, or the largest square about the face if it is no square; or left, top and side
            of the square, and then only faces in it count.
        face_box: left, top, right and bottom of the face that speaks, instead of looking for one.
        name: what messages call the picture; the name of the file by default.

    Raises:
        FaceError: the picture cannot be read, or no single face in it can be animated.
        ValueError: `size` is no multiple of 64.
    """
    if size <= 0 or size % 64:
        raise ValueError(f"size is {size}, and it must be a multiple of 64")
    name = name or (picture.name if isinstance(picture, Path) else "the picture")
    upright = open_picture(picture, name)
    given = _given_square(crop, upright, name)
    pixels = np.asarray(upright)
    box, points = _speaker(pixels, analysis, given, face_box, name)
    check_size(box, name)
    face = analysis.landmarker(pixels, box)
    if face is None:
        raise FaceError(
            f"the face at {box} in {name} is not clear enough to place its eyes and mouth: use a picture that "
            "looks at the camera, with nothing before the face"
        )
    square, warnings = _framed(face, given, crop, upright, name)
    warnings += square_warnings(face.silhouette, square, size, name)
    embedding = analysis.recogniser(pixels, face.points[list(FIVE_POINTS)] if points is None else points)
    animated = upright.crop((square.left, square.top, square.left + square.side, square.top + square.side))
    animated = animated.resize((size, size), Image.Resampling.BILINEAR)
    masks = region_masks(face.points - (square.left, square.top), square.side, square.side, size, face_expand_ratio)
    portrait = Portrait(
        pixels=torch.from_numpy(np.array(animated)).permute(2, 0, 1).float() / 255 * 2 - 1,
        face_region=masks.face_region,
        face_embedding=torch.from_numpy(embedding),
        full_masks=masks.full,
        face_masks=masks.face,
        lip_masks=masks.lip,
    )
    return PreparedPortrait(portrait, animated, square, tuple(warnings))


def _given_square(crop: Crop, picture: Image.Image, name: str) -> Square | None:
    """The square that `crop` names, or None if it is to be found."""
    if isinstance(crop, str):
        if crop not in {"face", "none"}:
            raise FaceError(f'crop is "{crop}": use "face", "none", or left, top and side of a square in whole pixels')
        return None
    if len(crop) != 3 or not all(isinstance(edge, int) for edge in crop):
        raise FaceError(f"crop is {list(crop)}: use left, top and side of a square in whole pixels")
    square = Square(*crop)
    if not square.lies_in(*picture.size):
        raise FaceError(
            f"crop is {square}, left, top and side, and {name} has but {picture.width} x {picture.height} pixels: "
            "choose a square in it"
        )
    return square


def _speaker(
    pixels: Picture, analysis: FaceAnalysis, given: Square | None, face_box: Sequence[float] | None, name: str
) -> tuple[Box, Points | None]:
    """The box of the face that speaks and its five points; they are None where the box was given."""
    if face_box is not None:
        return _given_box(face_box, Box(0, 0, pixels.shape[1], pixels.shape[0]), name), None
    faces = analysis.detector(pixels)
    if given:
        faces = [face for face in faces if given.box.holds(*face.box.centre)]
    face = only_face(faces, f"the crop {given} of {name}" if given else name)
    return face.box, face.points


def _given_box(edges: Sequence[float], picture: Box, name: str) -> Box:
    if len(edges) != 4:
        raise FaceError(f"face_box is {list(edges)}: use left, top, right and bottom in pixels")
    box = Box(*edges)
    if not (box.area and picture.holds(box.left, box.top) and picture.holds(box.right, box.bottom)):
        raise FaceError(
            f"face_box is {box}, left, top, right and bottom, and {name} has but {picture.width:.0f} x "
            f"{picture.height:.0f} pixels: choose a box in it"
        )
    return box


def _framed(
    face: Landmarks, given: Square | None, crop: Crop, picture: Image.Image, name: str
) -> tuple[Square, list[str]]:
    """The square that is animated, and what to say of how the face looks and lies in it."""
    box, (width, height) = face.silhouette, picture.size
    warnings = pose_warnings(face.pose, name)
    square = given or (largest_square if crop == "none" else square_around)(box, width, height)
    whole = Box(0, 0, width, height)
    warnings += edge_warnings(box, whole, name, cropped=False) or edge_warnings(box, square.box, name, cropped=True)
    return square, warnings
