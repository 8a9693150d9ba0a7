"""One clip of a video, and what is needed to go on after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hallo2.portrait import Portrait
from hallo2.transfer import to_host
from hallo2.transformers import MOTION_FRAMES


@dataclass(frozen=True, eq=False)
class ClipState:
    """All that a clip inherits from those before it: with it, a render goes on as if it had never stopped.

    Attributes:
        clips: how many clips are finished.
        motion_frames: the last two frames, (2, 3, H, W) in [-1, 1], without loss.
        random_state: of the generator that draws masks and noise, (bytes,) uint8.
    """

    clips: int
    motion_frames: Tensor
    random_state: Tensor

    @classmethod
    def initial(cls, portrait: Portrait, seed: int) -> ClipState:
        """Before the first clip: both motion frames are the portrait itself."""
        motion_frames = portrait.pixels.expand(MOTION_FRAMES, -1, -1, -1)
        return cls(0, motion_frames, torch.Generator().manual_seed(seed).get_state())

    def to_tensors(self) -> dict[str, Tensor]:
        """As tensors on the CPU, to be kept in a file; waits until the clip is computed."""
        return {
            "clips": torch.tensor(self.clips),
            "motion_frames": to_host(self.motion_frames.contiguous()),
            "random_state": self.random_state,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> ClipState:
        """What `to_tensors` gave.

        Raises:
            KeyError: a tensor is missing.
        """
        return cls(int(tensors["clips"]), tensors["motion_frames"], tensors["random_state"])


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip. A GPU may still be computing it: only what is fetched from there waits.

    Attributes:
        pixels: (16, 3, H, W) in [0, 1], in the networks' precision.
        pictures: the same with 8 bits, (16, H, W, 3) uint8; rounded down, as the published code does.
        latents: (1, 4, 16, H / 8, W / 8), denoised, float32.
        state: what the next clip needs.
    """

    pixels: Tensor
    pictures: Tensor
    latents: Tensor
    state: ClipState

    @property
    def frames(self) -> Tensor:
        """The frames, (16, 3, H, W) in [0, 1], float32."""
        return self.pixels.float()

    def images(self) -> Tensor:
        """The frames as 8-bit pictures on the CPU, (16, H, W, 3) uint8; waits until they are computed."""
        return to_host(self.pictures)
