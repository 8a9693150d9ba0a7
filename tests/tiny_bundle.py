"""The published bundle at a tiny size, for videos that show noise within seconds.

It has the layout of the published one, networks with weights that are drawn from their names, stand-ins for the
networks that find faces, and MediaPipe's real landmarks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from face_networks import make_face_analysis
from golden import load, seeded
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from hallo2 import Hallo2Config, Hallo2Networks

_AUDIO_LAYERS, _AUDIO_CHANNELS = 3, 32
_ARCFACE = 512

TINIEST = {
    "channels": [32, 32, 32, 32],
    "cross_attention_dim": 8,
    "audio_attention_dim": 8,
    "audio_intermediate_dim": 8,
    "audio_tokens": 2,
    "vae_channels": [8, 8, 8, 8],
    "vae_groups": 8,
    "sound_channels": 4,
}
"""The least that the networks can be, for renders of thousands of clips."""


def make_tiny_bundle(folder: Path, sizes: Mapping[str, Any] | None = None) -> Path:
    """Make the bundle in `folder`; in every picture it finds one face, where scikit-image's astronaut has it.

    Args:
        folder: where to.
        sizes: other sizes than those of the golden case, such as `TINIEST`.
    """
    golden, _ = load("tiny")
    sizes = {"vae_groups": 32, "sound_channels": 16, **golden, **(sizes or {})}
    _save_networks(sizes, folder / "hallo2" / "net.pth")
    _save_vae(sizes, folder / "sd-vae-ft-mse")
    _save_wav2vec(sizes, folder / "wav2vec" / "wav2vec2-base-960h")
    make_face_analysis(folder / "face_analysis")
    return folder


def _save_networks(sizes: Mapping[str, Any], path: Path) -> None:
    config = Hallo2Config(
        block_out_channels=tuple(sizes["channels"]),
        cross_attention_dim=sizes["cross_attention_dim"],
        audio_attention_dim=sizes["audio_attention_dim"],
        face_embedding_dim=_ARCFACE,
        audio_blocks=_AUDIO_LAYERS,
        audio_channels=_AUDIO_CHANNELS,
        audio_intermediate_dim=sizes["audio_intermediate_dim"],
        audio_tokens=sizes["audio_tokens"],
    )
    networks = Hallo2Networks(config)
    seeded.fill(networks)
    path.parent.mkdir(parents=True)
    torch.save({key: value.half() for key, value in networks.state_dict().items()}, path)


def _save_vae(sizes: Mapping[str, Any], folder: Path) -> None:
    vae = AutoencoderKL(
        block_out_channels=sizes["vae_channels"],
        layers_per_block=sizes["vae_layers"],
        latent_channels=4,
        norm_num_groups=sizes["vae_groups"],
        act_fn="silu",
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
    )
    seeded.fill(vae, prefix="vae.")
    vae.save_pretrained(folder)


def _save_wav2vec(sizes: Mapping[str, Any], folder: Path) -> None:
    settings, _ = load("wav2vec")
    config = {
        **settings["config"],
        "num_hidden_layers": _AUDIO_LAYERS,
        "hidden_size": _AUDIO_CHANNELS,
        "conv_dim": [sizes["sound_channels"]] * len(settings["config"]["conv_dim"]),
    }
    model = Wav2Vec2ForCTC(Wav2Vec2Config(**config, attn_implementation="eager"))
    seeded.fill(model, prefix="wav2vec2.")
    model.save_pretrained(folder)
    extractor = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": True, "sampling_rate": 16_000}
    (folder / "preprocessor_config.json").write_text(json.dumps(extractor))
