"""The published bundle at a tiny size, for videos that show noise within seconds.

It has the layout of the published one, networks with weights that are drawn from their names, stand-ins for the
networks that find faces, and MediaPipe's real landmarks.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from face_networks import make_face_analysis
from golden import load, seeded
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from hallo2 import Hallo2Config, Hallo2Networks

_AUDIO_LAYERS, _AUDIO_CHANNELS = 3, 32
_ARCFACE = 512


def make_tiny_bundle(folder: Path) -> Path:
    """Make the bundle in `folder`; in every picture it finds one face, where scikit-image's astronaut has it."""
    sizes, _ = load("tiny")
    _save_networks(sizes, folder / "hallo2" / "net.pth")
    _save_vae(sizes, folder / "sd-vae-ft-mse")
    _save_wav2vec(folder / "wav2vec" / "wav2vec2-base-960h")
    make_face_analysis(folder / "face_analysis")
    return folder


def _save_networks(sizes: dict, path: Path) -> None:
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


def _save_vae(sizes: dict, folder: Path) -> None:
    vae = AutoencoderKL(
        block_out_channels=sizes["vae_channels"],
        layers_per_block=sizes["vae_layers"],
        latent_channels=4,
        norm_num_groups=32,
        act_fn="silu",
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
    )
    seeded.fill(vae, prefix="vae.")
    vae.save_pretrained(folder)


def _save_wav2vec(folder: Path) -> None:
    settings, _ = load("wav2vec")
    model = Wav2Vec2ForCTC(
        Wav2Vec2Config(
            **{**settings["config"], "num_hidden_layers": _AUDIO_LAYERS, "hidden_size": _AUDIO_CHANNELS},
            attn_implementation="eager",
        )
    )
    seeded.fill(model, prefix="wav2vec2.")
    model.save_pretrained(folder)
    extractor = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": True, "sampling_rate": 16_000}
    (folder / "preprocessor_config.json").write_text(json.dumps(extractor))
