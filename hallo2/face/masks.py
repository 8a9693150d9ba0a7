"""The masks that tell the denoiser where the face and the lips are.

The method is that of Hallo (Xu et al., "Hallo: Hierarchical Audio-Driven Visual Synthesis for Portrait Image
Animation", arXiv 2406.08801): boxes around landmarks, blurred. OpenCV's arithmetic on 8 bits is part of it, because the
published weights were trained on masks made so.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from hallo2.face.mesh import LANDMARKS, LIPS, SILHOUETTE

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.uint8]

LIP_EXPAND_RATIO = 2.0
"""How much the box of the lips grows."""

_BLURRED_SIZE = 64
_FACE_KERNEL, _LIP_KERNEL = 51, 31


@dataclass(frozen=True, eq=False)
class RegionMasks:
    """Where the face and the lips are, in the forms that the networks take.

    Attributes:
        face_region: (1, R, R) in [0, 1]; 1 where the face may move.
        full: everything but the face: four tensors (1, (R / 8 / 2**k)**2) in [0, 1], k = 0..3, rows first.
        face: the face without the lips, likewise.
        lip: the lips, likewise.
    """

    face_region: torch.Tensor
    full: tuple[torch.Tensor, ...]
    face: tuple[torch.Tensor, ...]
    lip: tuple[torch.Tensor, ...]


def region_masks(
    landmarks: npt.NDArray[np.floating],
    height: int,
    width: int,
    resolution: int = 512,
    face_expand_ratio: float = 1.2,
) -> RegionMasks:
    """The masks of a picture that is shown at `resolution` x `resolution`.

    Args:
        landmarks: (478, 2), MediaPipe's face landmarks, x and y in pixels of the picture; they may lie outside it.
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        resolution: R, a multiple of 64.
        face_expand_ratio: how much the box of the face's silhouette grows.

    Raises:
        ValueError: `resolution` is no multiple of 64, or `landmarks` has another shape.
    """
    if resolution <= 0 or resolution % 64:
        raise ValueError(f"resolution is {resolution}, and it must be a multiple of 64")
    if landmarks.shape != (LANDMARKS, 2):
        raise ValueError(f"landmarks has shape {landmarks.shape}, and it must be (478, 2)")
    points = landmarks.astype(np.float64)
    face_box = _box_mask(points[list(SILHOUETTE)], height, width, face_expand_ratio)
    face = _blurred(face_box, _FACE_KERNEL)
    lip = _blurred(_box_mask(points[list(LIPS)], height, width, LIP_EXPAND_RATIO), _LIP_KERNEL)
    return RegionMasks(
        face_region=_resized(face_box, resolution)[None],
        full=_pyramid(_inverted(face), resolution),
        face=_pyramid(np.asarray(cv2.subtract(face, lip), np.uint8), resolution),
        lip=_pyramid(lip, resolution),
    )


def _box_mask(points: Array, height: int, width: int, ratio: float) -> Mask:
    """(height, width), 255 inside the box around `points` after it has grown."""
    (left, top), (right, bottom) = np.round(points.min(0)), np.round(points.max(0))
    left, right = _expanded(left, right, ratio, width)
    top, bottom = _expanded(top, bottom, ratio, height)
    mask = np.zeros((height, width), np.uint8)
    mask[top:bottom, left:right] = 255
    return mask


def _expanded(low: float, high: float, ratio: float, limit: int) -> tuple[int, int]:
    """The interval grown about its middle, then moved into [0, limit]; cut where it is longer than that."""
    middle, half = (high + low) // 2, (high - low) * ratio // 2
    low, high = middle - half, middle + half
    if low < 0:
        low, high = 0, high - low
    if high > limit:
        low, high = low - (high - limit), limit
    return max(round(low), 0), round(high)


def _blurred(mask: Mask, kernel: int) -> Mask:
    """(64, 64), with soft edges, stretched to 0..255."""
    small = cv2.resize(mask, (_BLURRED_SIZE, _BLURRED_SIZE))
    soft = cv2.GaussianBlur(small, (kernel, kernel), 0)
    return np.asarray(cv2.normalize(soft, np.empty_like(soft), 0, 255, cv2.NORM_MINMAX), np.uint8)


def _inverted(mask: Mask) -> Mask:
    # In this order and cut off, not rounded: some values come out one lower than 255 - mask.
    return ((1.0 - mask / 255.0) * 255).astype(np.uint8)


def _pyramid(mask: Mask, resolution: int) -> tuple[torch.Tensor, ...]:
    """The mask at the four resolutions of the UNet, flattened."""
    return tuple(_resized(mask, resolution // 8 // 2**level).reshape(1, -1) for level in range(4))


def _resized(mask: Mask, size: int) -> torch.Tensor:
    """(size, size) in [0, 1]."""
    picture = Image.fromarray(mask).resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(picture)).to(torch.float32) / 255
