"""The golden case's networks, and what it asks of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from diffusers import AutoencoderKL
from golden import load, seeded
from torch import Tensor

from hallo2 import Clip, Hallo2Config, Hallo2Networks, Hallo2Pipeline, Portrait

SETTINGS, RESULTS = load("tiny")
SIZE: int = SETTINGS["size"]
SALT: str = SETTINGS["salt"]


def tiny_networks() -> Hallo2Networks:
    config = Hallo2Config(
        block_out_channels=tuple(SETTINGS["channels"]),
        **{
            name: SETTINGS[name]
            for name in (
                "cross_attention_dim",
                "audio_attention_dim",
                "face_embedding_dim",
                "audio_blocks",
                "audio_channels",
                "audio_intermediate_dim",
                "audio_tokens",
            )
        },
    )
    networks = Hallo2Networks(config)
    seeded.fill(networks, salt=SALT)
    return networks


def tiny_vae() -> AutoencoderKL:
    vae = AutoencoderKL(
        block_out_channels=SETTINGS["vae_channels"],
        layers_per_block=SETTINGS["vae_layers"],
        latent_channels=4,
        norm_num_groups=32,
        act_fn="silu",
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
    )
    seeded.fill(vae, prefix="vae.", salt=SALT)
    return vae.eval()


def tiny_portrait() -> Portrait:
    def drawn(name: str, *shape: int) -> Tensor:
        return seeded.seeded_tensor(f"input.{name}", shape, SALT)

    def masks(region: str) -> tuple[Tensor, ...]:
        return tuple(drawn(f"mask.{region}.{k}", 1, (SIZE // 8 // 2**k) ** 2).sigmoid() for k in range(4))

    return Portrait(
        pixels=drawn("reference_image", 1, 3, SIZE, SIZE)[0].clamp(-3, 3) / 3,
        face_region=(drawn("face_region", 1, 1, SIZE, SIZE)[0] > 0).float(),
        face_embedding=drawn("face_embedding", 1, SETTINGS["face_embedding_dim"])[0],
        full_masks=masks("full"),
        face_masks=masks("face"),
        lip_masks=masks("lip"),
    )


def tiny_audio() -> Tensor:
    shape = (SETTINGS["clips"] * 16, SETTINGS["audio_blocks"], SETTINGS["audio_channels"])
    return seeded.seeded_tensor("input.audio_features", shape, SALT)


def run(pipeline: Hallo2Pipeline, **settings: Any) -> Iterator[Clip]:
    """The video of the golden case."""
    return pipeline(
        tiny_portrait(),
        tiny_audio(),
        **{
            "num_inference_steps": SETTINGS["steps"],
            "guidance_scale": SETTINGS["guidance_scale"],
            "motion_scale": SETTINGS["motion_scale"],
            "mask_rate": SETTINGS["mask_rate"],
            "seed": SETTINGS["seed"],
            **settings,
        },
    )
