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

import hallo2.kernels
from hallo2 import Hallo2Pipeline
from hallo2.fused import fuse_autoencoder, operations, tail
from hallo2.fused.audio import FusedAudio
from hallo2.fused.operations import bias_of, by_parity
from hallo2.fused.residual import FusedResidual
from hallo2.fused.spatial import FusedSpatial
from hallo2.fused.temporal import FusedTemporal
from hallo2.transformers import CLIP_FRAMES, MOTION_FRAMES, to_tokens
from hallo2.upsample import PhasedUpsample

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


def test_residual_block_with_a_skip_connection() -> None:
    plain = tiny_networks().denoising_unet.up_blocks[1].resnets[2]
    x, time = drawn("x", 2, plain.norm1.num_channels, 4, 4), drawn("time", 1, 128)
    shift = plain.time_emb_proj(torch.nn.functional.silu(time)) + bias_of(plain.conv1)
    channels = plain.conv2.out_channels
    tokens, skip = (to_tokens(part).contiguous() for part in (x[:, :channels], x[:, channels:]))
    out = FusedResidual(plain)(tokens, 4, shift, skip)
    assert relative_error(out, to_tokens(plain(x, time))) < TOLERANCE


@pytest.mark.parametrize(("elements", "late"), [(1, 16), (8 * 320, 16), (101 * 320, 16), (1 << 20, 3)])
def test_tail_in_parts(elements: int, late: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much it takes at a time, and wherever the rows begin that something is added to."""
    block = FusedSpatial(tiny_networks().denoising_unet.mid_block.attentions[0])
    x, hidden, everywhere = (drawn(name, 32, 4, 64) for name in ("x", "hidden", "everywhere"))
    added = drawn("added", late, 4, 64)
    total = torch.cat([hidden[:-late], hidden[-late:] + added]) + everywhere[0]
    expected = x + plain_tail(block.tail, total)
    monkeypatch.setattr(tail, "TAIL_ELEMENTS", elements)
    out = block.tail(x, hidden, everywhere=everywhere[0], added=added)
    assert relative_error(out, expected) < TOLERANCE


def plain_tail(fused: tail.FusedTail, tokens: Tensor) -> Tensor:
    normed = torch.nn.functional.layer_norm(tokens, fused.norm.weight.shape, fused.norm.weight, fused.norm.bias)
    gated = plain_kernels.geglu(normed, fused.gated_weight, fused.gated_bias)
    return torch.cat([tokens, gated], dim=-1) @ fused.weight.t()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5)])
def test_upsample(height: int, width: int) -> None:
    plain = tiny_networks().denoising_unet.up_blocks[0].upsamplers[0]
    x = drawn("x", 2, plain.conv.in_channels, height, width)
    out = PhasedUpsample(plain.conv)(x.contiguous(memory_format=torch.channels_last))
    assert relative_error(out, plain(x)) < TOLERANCE


def test_autoencoder() -> None:
    pixels, latents = drawn("pixels", 1, 3, 32, 32), drawn("latents", 1, 4, 4, 4)
    plain, fused = tiny_vae(), tiny_vae().to(memory_format=torch.channels_last)
    fuse_autoencoder(fused)
    assert relative_error(fused.decode(latents).sample, plain.decode(latents).sample) < TOLERANCE
    expected = plain.encode(pixels).latent_dist.mean
    assert relative_error(fused.encode(pixels).latent_dist.mean, expected) < TOLERANCE


@pytest.fixture
def in_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that are as quick as torch is. Each real one is tested against the same expressions by itself."""
    for name in set(hallo2.kernels.__all__) - {"interleaved"}:
        users = [module for module in plain_kernels.CALLERS if hasattr(module, name)]
        assert users
        for module in users:
            monkeypatch.setattr(module, name, getattr(plain_kernels, name))


@pytest.mark.usefixtures("in_plain_torch")
def test_the_golden_case_in_the_fused_path() -> None:
    """All layers in their places: skip connections, biases added ahead, shifts, the order of the frames."""
    pipeline = Hallo2Pipeline(tiny_networks(), tiny_vae(), fused=True)
    for number, clip in enumerate(run(pipeline)):
        assert relative_error(clip.latents, RESULTS[f"clip{number}.latents"]) < 1e-3
        assert relative_error(clip.frames, RESULTS[f"clip{number}.frames"]) < 1e-3


@pytest.mark.usefixtures("in_plain_torch")
def test_halves_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """As pictures are computed that are large."""
    together = next(run(Hallo2Pipeline(tiny_networks(), tiny_vae(), fused=True)))
    monkeypatch.setattr(operations, "APART_TOKENS", 1)
    apart = next(run(Hallo2Pipeline(tiny_networks(), tiny_vae(), fused=True)))
    assert relative_error(apart.latents, together.latents) < 1e-3


@pytest.mark.usefixtures("in_plain_torch")
def test_without_guidance_in_the_fused_path() -> None:
    fused = next(run(Hallo2Pipeline(tiny_networks(), tiny_vae(), fused=True), guidance_scale=1.0))
    plain = next(run(Hallo2Pipeline(tiny_networks(), tiny_vae(), fused=False), guidance_scale=1.0))
    assert relative_error(fused.latents, plain.latents) < 1e-3
