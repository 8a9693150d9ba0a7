"""Reads the published bundle: strictly, and straight to where the weights are used.

A key that is missing, unknown, misshapen or not finite is an error that names it: a network with half of its weights
would still make pictures.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers import AutoencoderKL
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hallo2.config import Hallo2Config
from hallo2.networks import Hallo2Networks

if TYPE_CHECKING:
    from transformers import Wav2Vec2Model

NETWORKS = Path("hallo2/net.pth")
VAE = Path("sd-vae-ft-mse")
WAV2VEC = Path("wav2vec/wav2vec2-base-960h")

_OLD_ATTENTION_NAMES = {
    r"(attentions\.\d+)\.query\b": r"\1.to_q",
    r"(attentions\.\d+)\.key\b": r"\1.to_k",
    r"(attentions\.\d+)\.value\b": r"\1.to_v",
    r"(attentions\.\d+)\.proj_attn\b": r"\1.to_out.0",
}

_OLD_WAV2VEC_NAMES = {
    r"^wav2vec2\.": "",
    r"\.weight_g$": ".parametrizations.weight.original0",
    r"\.weight_v$": ".parametrizations.weight.original1",
}


class WeightsError(ValueError):
    """Weights that cannot be used: one sentence with the file, what is wrong, and the key where there is one."""


def load_networks(
    bundle_dir: str | PathLike[str], device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> Hallo2Networks:
    """The five networks from `hallo2/net.pth`.

    Args:
        bundle_dir: the folder of the bundle.
        device: where to.
        dtype: in which precision; the file's own (float16) if None.

    Raises:
        WeightsError: the file is missing or damaged, or a key is missing, unknown, misshapen or not finite.
    """
    path = Path(bundle_dir) / NETWORKS
    stored = _read_checkpoint(path)
    config = config_of({key: tuple(value.shape) for key, value in stored.items()}, path, _audio_blocks(bundle_dir))
    with torch.device("meta"):
        networks = Hallo2Networks(config)
    _fill(networks, stored, path, device, dtype)
    return networks


def load_vae(
    bundle_dir: str | PathLike[str], device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> AutoencoderKL:
    """The autoencoder from `sd-vae-ft-mse/`.

    Raises:
        WeightsError: as for `load_networks`.
    """
    folder = Path(bundle_dir) / VAE
    _require(folder / "config.json")
    with torch.device("meta"):
        vae: AutoencoderKL = AutoencoderKL.from_config(AutoencoderKL.load_config(folder, local_files_only=True))
    path = folder / "diffusion_pytorch_model.safetensors"
    # The file is older than the names that diffusers gives the projections of an attention layer.
    _fill(vae, _renamed(_read_safetensors(path), _OLD_ATTENTION_NAMES), path, device, dtype)
    return vae


def load_wav2vec(bundle_dir: str | PathLike[str], device: str | torch.device = "cpu") -> Wav2Vec2Model:
    """The speech encoder from `wav2vec/wav2vec2-base-960h/`, in float32.

    Raises:
        WeightsError: as for `load_networks`.
    """
    from transformers import Wav2Vec2Config, Wav2Vec2Model  # noqa: PLC0415 - takes a second

    folder = Path(bundle_dir) / WAV2VEC
    _require(folder / "config.json")
    with torch.device("meta"):
        model = Wav2Vec2Model(Wav2Vec2Config.from_pretrained(folder, local_files_only=True))
    path = folder / "model.safetensors"
    stored = _renamed(_read_safetensors(path), _OLD_WAV2VEC_NAMES)
    # The file is of the model that recognises speech: it has one layer more.
    _fill(model, {k: v for k, v in stored.items() if not k.startswith("lm_head.")}, path, device, torch.float32)
    return model


def config_of(shapes: Mapping[str, tuple[int, ...]], path: Path, audio_blocks: int) -> Hallo2Config:
    """The sizes of networks whose weights have these shapes.

    Args:
        shapes: of every key.
        path: the file, for the error.
        audio_blocks: layers of the audio encoder; the weights only know how wide all of them are together.

    Raises:
        WeightsError: a key that tells a size is missing.
    """
    try:
        widths = [shapes[f"reference_unet.down_blocks.{level}.resnets.0.conv1.weight"][0] for level in range(4)]
        face_dim = shapes["imageproj.norm.weight"][0]
        face_tokens, face_embedding_dim = shapes["imageproj.proj.weight"]
        audio_dim = shapes["audioproj.norm.weight"][0]
        intermediate, window_size = shapes["audioproj.proj1.weight"]
        audio_tokens = shapes["audioproj.proj3.weight"][0]
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(f"{path} is not Hallo2's: {error} says nothing of the networks' sizes") from error
    window = Hallo2Config.audio_window
    return Hallo2Config(
        block_out_channels=(widths[0], widths[1], widths[2], widths[3]),
        cross_attention_dim=face_dim,
        audio_attention_dim=audio_dim,
        face_embedding_dim=face_embedding_dim,
        face_tokens=face_tokens // face_dim,
        audio_blocks=audio_blocks,
        audio_channels=window_size // (window * audio_blocks),
        audio_intermediate_dim=intermediate,
        audio_tokens=audio_tokens // audio_dim,
    )


def _audio_blocks(bundle_dir: str | PathLike[str]) -> int:
    from transformers import Wav2Vec2Config  # noqa: PLC0415

    folder = Path(bundle_dir) / WAV2VEC
    if not (folder / "config.json").is_file():
        return Hallo2Config.audio_blocks
    return int(Wav2Vec2Config.from_pretrained(folder, local_files_only=True).num_hidden_layers)


def _require(path: Path) -> None:
    if not path.is_file():
        raise WeightsError(f"{path} is missing: `atenea models download` fetches it")


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Every tensor of a torch checkpoint, on the disk until it is used; nothing in it is executed."""
    _require(path)
    try:
        stored = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{path} is no checkpoint of tensors alone, and nothing else is read") from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise WeightsError(f"{path} is damaged: {_first_sentence(error)}") from error
    if not isinstance(stored, dict) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise WeightsError(f"{path} is no checkpoint of tensors")
    return stored


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, on the disk until it is used."""
    _require(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} is damaged: {_first_sentence(error)}") from error


def _fill(
    module: nn.Module,
    stored: Mapping[str, Tensor],
    path: Path,
    device: str | torch.device,
    dtype: torch.dtype | None,
) -> None:
    """Give `module`, made on the device "meta", its weights: one by one from the file to the device."""
    _check_keys(stored, module.state_dict(), path)
    weights = {key: value.to(device, dtype) for key, value in stored.items()}
    _check_finite(weights, path)
    module.load_state_dict(weights, assign=True)
    module.requires_grad_(False).eval()


def _check_keys(stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> None:
    if missing := sorted(wanted.keys() - stored.keys()):
        raise WeightsError(f"{path} lacks {_listed(missing)}")
    if extra := sorted(stored.keys() - wanted.keys()):
        raise WeightsError(f"{path} has weights that the network does not know: {_listed(extra)}")
    for key, value in wanted.items():
        if stored[key].shape != value.shape:
            raise WeightsError(f"{path} has {key} in the shape {tuple(stored[key].shape)}, not {tuple(value.shape)}")


def _check_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    # All are asked before the first answer is waited for: on a GPU each wait would cost as much as the question.
    finite = torch.stack([value.isfinite().all() for value in weights.values()]).tolist()
    if bad := [key for key, good in zip(weights, finite, strict=True) if not good]:
        raise WeightsError(f"{path} has numbers that are not finite in {_listed(bad)}")


def _renamed(stored: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors under new keys: of each key, the parts that match are replaced."""
    renamed = {}
    for key, value in stored.items():
        for pattern, name in names.items():
            key = re.sub(pattern, name, key)  # noqa: PLW2901
        renamed[key] = value
    return renamed


def _first_sentence(error: Exception) -> str:
    return str(error).split(". ")[0].splitlines()[0] if str(error) else type(error).__name__


def _listed(keys: list[str]) -> str:
    rest = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(keys[:3]) + rest
