"""The attention's weights of the audio tokens against the same mathematics in torch, in float64.

Without a GPU they are computed in Triton's interpreter: every line, on numpy instead of tensor cores.
"""

from __future__ import annotations

import pytest
import torch
from einops import rearrange
from kernel_checks import assert_close, normal
from torch import Tensor
from torch.nn import functional

from hallo2.kernels import speech_weights
from hallo2.kernels.speech import SPEECH_TILES
from hallo2.kernels.tiles import Tile


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def weighed(normed: Tensor, keys: Tensor, weights: Tensor, heads: int, tokens: int) -> Tensor:
    """The same in torch."""
    scores = normed.double() @ keys.double().transpose(1, 2)
    attention = rearrange(scores, "f hw (r h t) -> f hw r h t", h=heads, t=tokens).softmax(dim=-1)
    return (attention * weights.double()[:, :, None, None]).flatten(2)


@pytest.mark.parametrize(
    ("dtype", "tile"),
    [(torch.float32, None), *((torch.float16, tile) for tile in (None, *SPEECH_TILES))],
)
@pytest.mark.parametrize(
    ("frames", "hw", "c", "regions", "heads", "tokens"),
    [
        (2, 100, 40, 3, 8, 32),  # tiles that end beyond their frame
        (3, 4, 32, 3, 2, 32),  # regions that share a tile
        (2, 1, 72, 3, 8, 32),
        (1, 70, 104, 1, 3, 8),  # tiles that end beyond the last column
    ],
)
def test_speech_weights(
    frames: int, hw: int, c: int, regions: int, heads: int, tokens: int, tile: Tile | None, dtype: torch.dtype
) -> None:
    normed = normal(frames, hw, c, dtype=dtype)
    keys = normal(frames, regions * heads * tokens, c, dtype=dtype, std=2 * c**-0.5)
    weights = normal(hw, regions, dtype=dtype)
    out = speech_weights(normed, keys, weights, heads, tokens=tokens, tile=tile)
    assert out.dtype == dtype
    assert_close(out, weighed(normed, keys, weights, heads, tokens))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_padding_has_no_weight(dtype: torch.dtype) -> None:
    normed, weights = normal(2, 5, 32, dtype=dtype), normal(5, 3, dtype=dtype)
    keys = normal(2, 3 * 2 * 8, 32, dtype=dtype, std=0.3)
    out = rearrange(speech_weights(normed, keys, weights, 2, tokens=8, used=6), "f hw (rh t) -> f hw rh t", t=8)
    assert torch.equal(out[..., 6:], torch.zeros_like(out[..., 6:]))
    unpadded = rearrange(rearrange(keys, "f (rh t) c -> f rh t c", t=8)[:, :, :6], "f rh t c -> f (rh t) c")
    assert_close(out[..., :6].flatten(2), weighed(normed, unpadded, weights, 2, 6))


def test_large_scores_and_regions_without_weight() -> None:
    normed, keys, weights = normal(1, 20, 32, std=30.0), normal(1, 3 * 64, 32), normal(20, 3)
    weights[:, 1] = 0.0
    out = speech_weights(normed, keys, weights, 2)
    assert float(out[..., 64:128].abs().max()) == 0.0
    expected = weighed(normed, keys, weights, 2, 32)
    # Scores of some hundreds are no closer than float32 has them.
    assert float((out.double() - expected).norm() / expected.norm()) < 3e-5


def test_projections_are_folded_into_the_tokens() -> None:
    frames, hw, c, regions, heads, tokens, d = 2, 6, 32, 3, 2, 32, 16
    x, weights = normal(frames, hw, c), normal(hw, regions)
    to_q, to_out = normal(regions, heads, d, c, std=0.4), normal(regions, c, heads, d, std=0.2)
    k, v = (normal(frames, regions, heads, tokens, d) for _ in range(2))
    keys = torch.einsum("frhtd,rhdc->frhtc", k, to_q / d**0.5).flatten(1, 3)
    values = torch.einsum("frhtd,rchd->frhtc", v, to_out).flatten(1, 3)
    added = torch.bmm(speech_weights(x, keys, weights, heads), values)

    queries = torch.einsum("fnc,rhdc->frhnd", x.double(), to_q.double())
    spoken = functional.scaled_dot_product_attention(queries, k.double(), v.double())
    assert_close(added, torch.einsum("frhnd,rchd,nr->fnc", spoken, to_out.double(), weights.double()))
