"""What the engine needs to know of the person who speaks."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class Portrait:
    """A picture of one face, square, with where the face and the lips are.

    Attributes:
        pixels: (3, H, W) in [-1, 1]; H = W, a multiple of 64.
        face_region: (1, H, W) in [0, 1]; 1 where the face may move.
        face_embedding: (face_embedding_dim,), the ArcFace embedding, not normalised.
        full_masks: everything but the face: four tensors (1, (H / 8 / 2**k)**2) in [0, 1], k = 0..3, one for each
            resolution of the UNet, rows first.
        face_masks: the face without the lips, likewise.
        lip_masks: the lips, likewise.
    """

    pixels: torch.Tensor
    face_region: torch.Tensor
    face_embedding: torch.Tensor
    full_masks: tuple[torch.Tensor, ...]
    face_masks: tuple[torch.Tensor, ...]
    lip_masks: tuple[torch.Tensor, ...]
