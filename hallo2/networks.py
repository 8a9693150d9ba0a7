"""The five Hallo2 networks as one module, with the keys of the published net.pth."""

from __future__ import annotations

from torch import nn

from hallo2.conditioning import AudioProjection, FaceLocator, FaceProjection
from hallo2.config import Hallo2Config
from hallo2.unet import DenoisingUNet, ReferenceUNet


class Hallo2Networks(nn.Module):
    """What the published net.pth holds; `state_dict()` has its keys and shapes.

    Attributes:
        config: the sizes.
        reference_unet: looks at the reference image and the motion frames.
        denoising_unet: predicts the velocity of a clip's latents.
        face_locator: where the face may move.
        imageproj: whose face it is.
        audioproj: what is said.
    """

    def __init__(self, config: Hallo2Config) -> None:
        super().__init__()
        self.config = config
        self.reference_unet = ReferenceUNet(config)
        self.denoising_unet = DenoisingUNet(config)
        self.face_locator = FaceLocator(config)
        self.imageproj = FaceProjection(config)
        self.audioproj = AudioProjection(config)
        self.requires_grad_(False).eval()
