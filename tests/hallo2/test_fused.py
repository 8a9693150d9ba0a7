"""The fused path computes what the readable network computes, module by module, in Triton's interpreter on a CPU.

The interpreter takes minutes for a step at the size of the golden case. So every module is tested with the real
kernels, at its coarsest resolution, and the golden case with the kernels' expressions in plain torch.
"""

from __future__ import annotations

import plain_kernels
import pytest
import torch
from golden import relative_error, seeded
from tiny_networks import RESULTS, run, tiny_networks, tiny_vae
from torch import Tensor

import hallo2.fused
import hallo2.kernels
from hallo2 import Hallo2Pipeline
from hallo2.fused import (
    FusedAudio,
    FusedResidual,
    FusedSpatial,
    FusedTemporal,
    bias_of,
    by_parity,
    fuse_autoencoder,
)
from hallo2.transformers import CLIP_FRAMES, MOTION_FRAMES, to_tokens

TOLERANCE = 1e-5
SCALES = (0.8, 1.1, 1.4)


@pytest.fixture(autouse=True)
def no_gradients() -> object:
    with torch.no_grad():
        yield


def drawn(name: str, *shape: int) -> Tensor:
    return seeded.seeded_tensor(f"fused.{name}", shape)


def rows(x: Tensor) -> Tensor:
    """(halves * frames, c, h, w) as tokens, the even frames of each half before the odd ones."""
    return torch.cat([by_parity(half) for half in to_tokens(x).split(CLIP_FRAMES)]).contiguous()


@pytest.mark.parametrize("halves", [1, 2])
def test_spatial_transformer(halves: int) -> None:
    x, reference = drawn("x", halves * CLIP_FRAMES, 64, 2, 2), drawn("reference", 2, 4, 64)
    face_tokens = drawn("face", 2, 4, 48)[-halves:]
    plain = tiny_networks().denoising_unet.mid_block.attentions[0]
    fused = FusedSpatial(tiny_networks().denoising_unet.mid_block.attentions[0])
    expected = plain(x, plain.context(reference, face_tokens))
    out = fused(rows(x), fused.context(reference, face_tokens)) + fused.tail.bias
    assert relative_error(out, rows(expected)) < TOLERANCE


@pytest.mark.parametrize("halves", [1, 2])
def test_audio_transformer(halves: int) -> None:
    """With six audio tokens, which are padded to eight."""
    x, audio_tokens = drawn("x", halves * CLIP_FRAMES, 64, 2, 2), drawn("audio", CLIP_FRAMES, 6, 40)
    masks = [drawn(f"mask{region}", 1, 4, 1).sigmoid() for region in range(3)]
    plain = tiny_networks().denoising_unet.mid_block.audio_modules[0]
    fused = FusedAudio(tiny_networks().denoising_unet.mid_block.audio_modules[0])
    expected = plain(x, plain.speech(audio_tokens), plain.region(masks, SCALES))
    out = fused(rows(x), fused.speech(by_parity(audio_tokens)), fused.region(masks, SCALES)) + fused.tail.bias
    assert relative_error(out, rows(expected)) < TOLERANCE


@pytest.mark.parametrize("halves", [1, 2])
def test_temporal_transformer(halves: int) -> None:
    x, motion = drawn("x", halves * CLIP_FRAMES, 64, 2, 2), drawn("motion", halves * MOTION_FRAMES, 64, 2, 2)
    plain = tiny_networks().denoising_unet.mid_block.motion_modules[0].temporal_transformer
    fused = FusedTemporal(tiny_networks().denoising_unet.mid_block.motion_modules[0].temporal_transformer)
    out = fused(rows(x), fused.motion(to_tokens(motion).contiguous())) + fused.tail.bias
    assert relative_error(out, rows(plain(x, motion))) < TOLERANCE


@pytest.mark.parametrize(("level", "i"), [(0, 0), (3, 1)])
def test_residual_block(level: int, i: int) -> None:
    """One with a shortcut of its own, and one that adds its input."""
    blocks = tiny_networks().denoising_unet
    plain = blocks.up_blocks[1].resnets[i] if level == 0 else blocks.down_blocks[level].resnets[i]
    x, time = drawn("x", 2, plain.norm1.num_channels, 4, 4), drawn("time", 1, 128)
    shift = plain.time_emb_proj(torch.nn.functional.silu(time)) + bias_of(plain.conv1)
    out = FusedResidual(plain)(to_tokens(x).contiguous(), 4, shift)
    assert relative_error(out, to_tokens(plain(x, time))) < TOLERANCE


def test_autoencoder() -> None:
    pixels, latents = drawn("pixels", 1, 3, 32, 32), drawn("latents", 1, 4, 4, 4)
    plain, fused = tiny_vae(), tiny_vae().to(memory_format=torch.channels_last)
    fuse_autoencoder(fused)
    assert set(fused.state_dict()) == set(plain.state_dict())
    assert relative_error(fused.decode(latents).sample, plain.decode(latents).sample) < TOLERANCE
    expected = plain.encode(pixels).latent_dist.mean
    assert relative_error(fused.encode(pixels).latent_dist.mean, expected) < TOLERANCE


@pytest.fixture
def in_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that are as quick as torch is. Each real one is tested against the same expressions by itself."""
    for name in set(hallo2.kernels.__all__) - {"interleaved"}:
        monkeypatch.setattr(hallo2.fused, name, getattr(plain_kernels, name))


@pytest.mark.usefixtures("in_plain_torch")
def test_the_golden_case_in_the_fused_path() -> None:
    """All layers in their places: skip connections, biases added ahead, shifts, the order of the frames."""
    pipeline = Hallo2Pipeline(tiny_networks(), tiny_vae(), fused=True)
    for number, clip in enumerate(run(pipeline)):
        assert relative_error(clip.latents, RESULTS[f"clip{number}.latents"]) < 1e-3
        assert relative_error(clip.frames, RESULTS[f"clip{number}.frames"]) < 1e-3


@pytest.mark.usefixtures("in_plain_torch")
def test_without_guidance_in_the_fused_path() -> None:
    fused = next(run(Hallo2Pipeline(tiny_networks(), tiny_vae(), fused=True), guidance_scale=1.0))
    plain = next(run(Hallo2Pipeline(tiny_networks(), tiny_vae(), fused=False), guidance_scale=1.0))
    assert relative_error(fused.latents, plain.latents) < 1e-3
