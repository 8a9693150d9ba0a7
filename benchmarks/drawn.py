"""Networks whose weights are drawn from their names: time and rounding do not ask what weights were trained for."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Wav2Vec2Config, Wav2Vec2Model

from hallo2 import Hallo2Config, Hallo2Networks
from hallo2.transformers import PositionTable

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from face_networks import astronaut, make_face_analysis
from golden import seeded
from operation_counter import count_step

__all__ = ["TINY", "astronaut", "autoencoder", "bundle", "count_step", "networks", "seeded"]

TINY = Hallo2Config(
    block_out_channels=(32, 64, 64, 64),
    cross_attention_dim=48,
    audio_attention_dim=40,
    face_embedding_dim=512,
    audio_blocks=3,
    audio_channels=32,
    audio_intermediate_dim=32,
    audio_tokens=6,
)
"""To try a benchmark without a GPU."""


def networks(config: Hallo2Config, device: torch.device, dtype: torch.dtype) -> Hallo2Networks:
    """The five networks."""
    with torch.device("meta"):
        made = Hallo2Networks(config)
    fill(made, "", device, dtype)
    return made


def autoencoder(device: torch.device, dtype: torch.dtype, *, tiny: bool) -> AutoencoderKL:
    """The autoencoder, with the sizes of the published one."""
    with torch.device("meta"):
        made = AutoencoderKL(
            block_out_channels=(32, 32, 64, 64) if tiny else (128, 256, 512, 512),
            layers_per_block=1 if tiny else 2,
            latent_channels=4,
            norm_num_groups=32,
            act_fn="silu",
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
    fill(made, "vae.", device, dtype)
    return made


def speech_encoder(*, tiny: bool) -> Wav2Vec2Model:
    """The speech encoder, in float32 on the CPU."""
    small = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    with torch.device("meta"):
        made = Wav2Vec2Model(Wav2Vec2Config(**(small if tiny else {})))
    fill(made, "wav2vec.", torch.device("cpu"), torch.float32)
    return made


def fill(module: nn.Module, prefix: str, device: torch.device, dtype: torch.dtype) -> None:
    """Give a module that was made on the device "meta" its weights."""
    tables = dict(_position_tables(module))

    def drawn(name: str, shape: torch.Size) -> Tensor:
        value = tables[name] if name in tables else seeded.seeded_parameter(prefix + name, shape)
        return value.to(device, dtype)

    with ThreadPoolExecutor() as threads:
        empty = module.state_dict()
        values = threads.map(drawn, empty, (value.shape for value in empty.values()))
        module.load_state_dict(dict(zip(empty, values, strict=True)), assign=True)


def bundle(folder: Path, *, tiny: bool) -> None:
    """A bundle in the layout of the published one; in every picture it finds scikit-image's astronaut."""
    cpu = torch.device("cpu")
    (folder / "hallo2").mkdir(parents=True)
    made = networks(TINY if tiny else Hallo2Config(), cpu, torch.float16)
    torch.save(made.state_dict(), folder / "hallo2" / "net.pth")
    vae = autoencoder(cpu, torch.float32, tiny=tiny)
    vae.save_config(folder / "sd-vae-ft-mse")
    save_file(vae.state_dict(), folder / "sd-vae-ft-mse" / "diffusion_pytorch_model.safetensors")
    encoder = speech_encoder(tiny=tiny)
    home = folder / "wav2vec" / "wav2vec2-base-960h"
    encoder.config.save_pretrained(home)
    save_file(encoder.state_dict(), home / "model.safetensors")
    extractor = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": True, "sampling_rate": 16_000}
    (home / "preprocessor_config.json").write_text(json.dumps(extractor), encoding="utf-8")
    make_face_analysis(folder / "face_analysis")


def _position_tables(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What is not drawn, because it is no weight."""
    for name, part in module.named_modules():
        if isinstance(part, PositionTable):
            yield f"{name}.pe", PositionTable(part.pe.shape[-1]).pe
