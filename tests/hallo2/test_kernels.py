"""The Triton kernels against the same mathematics in torch, in float64.

Without a GPU they run in Triton's interpreter: every line of them, on numpy instead of tensor cores.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import pytest
import torch
from golden import relative_error
from kernel_checks import DEVICE, assert_close, normal
from torch import Tensor
from torch.nn import functional
from triton.runtime.jit import KernelInterface

from hallo2.kernels import (
    add_bias,
    add_layer_norm,
    group_norm,
    merge_attention,
    temporal_attention,
    token_attention,
)
from hallo2.kernels.temporal import Rows
from hallo2.kernels.tiles import channel_block

DTYPES = (torch.float32, torch.float16)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def split(x: Tensor, dim: int, sizes: tuple[int, ...]) -> Tensor:
    """One dimension as several."""
    dim %= x.dim()
    return x.reshape(*x.shape[:dim], *sizes, *x.shape[dim + 1 :])


def group_normed(x: Tensor, weight: Tensor, bias: Tensor, eps: float, groups: int = 32) -> Tensor:
    channels_first = x.double().transpose(1, 2)
    return functional.group_norm(channels_first, groups, weight.double(), bias.double(), eps).transpose(1, 2)


@pytest.mark.parametrize(
    ("c", "block"), [(320, 64), (640, 128), (960, 64), (1280, 256), (2560, 256), (32, 32), (48, 64), (8, 8)]
)
def test_channels_are_cut_without_remainder_where_possible(c: int, block: int) -> None:
    assert channel_block(c) == block


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
@pytest.mark.parametrize(
    ("n", "hw", "c", "groups"),
    [
        (2, 1, 32, 32),  # one pixel, one channel a group
        (1, 200, 320, 32),  # groups across blocks of channels, pictures in pieces, the last of which is short
        (2, 70, 96, 32),  # a block of channels that is not full
        (1, 33, 960, 32),
        (1, 16, 2560, 32),
        (3, 9, 24, 4),
    ],
)
def test_group_norm(n: int, hw: int, c: int, groups: int, dtype: torch.dtype) -> None:
    x, shift = normal(n, hw, c, dtype=dtype, mean=1.0, std=2.0), normal(n, c, dtype=dtype)
    weight, bias = normal(c, dtype=dtype), normal(c, dtype=dtype)
    expected = group_normed(x.double() + shift.double()[:, None], weight, bias, 1e-5, groups)
    out = group_norm(x, weight, bias, groups=groups, eps=1e-5, silu=True, shift=shift)
    assert_close(out, functional.silu(expected), dtype)


@pytest.mark.parametrize(
    ("own", "others", "groups"),
    [
        (64, 32, 16),
        (640, 320, 32),  # groups of 30: one has channels of both
        (32, 64, 3),
    ],
)
def test_group_norm_of_channels_side_by_side(own: int, others: int, groups: int) -> None:
    c = own + others
    x, beside, shift = normal(2, 70, own, std=2.0), normal(2, 70, others, mean=1.0), normal(1, c)
    weight, bias = normal(c), normal(c)
    expected = group_normed(torch.cat([x, beside], dim=-1).double() + shift.double(), weight, bias, 1e-5, groups)
    out = group_norm(x, weight, bias, groups=groups, eps=1e-5, silu=False, shift=shift, beside=beside)
    assert_close(out, expected, torch.float32)


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("shape", [None, (32,), (1, 32), (2, 32)])
def test_group_norm_with_every_kind_of_shift(shape: tuple[int, ...] | None, silu: bool) -> None:
    x, weight, bias = normal(2, 50, 32), normal(32), normal(32)
    shift = None if shape is None else normal(*shape)
    shifted = x.double() if shift is None else x.double() + shift.double().expand(2, 32)[:, None]
    expected = group_normed(shifted, weight, bias, 1e-6, 8)
    out = group_norm(x, weight, bias, groups=8, eps=1e-6, silu=silu, shift=shift)
    assert_close(out, functional.silu(expected) if silu else expected, torch.float32)


def test_group_norm_far_from_zero() -> None:
    # float32 itself resolves no better than 6e-5 around 1000: the mean cannot be known any closer.
    x = normal(2, 300, 64, mean=1000.0)
    ones, zeros = torch.ones(64, device=DEVICE), torch.zeros(64, device=DEVICE)
    out = group_norm(x, ones, zeros, eps=1e-5, silu=False)
    assert relative_error(out, group_normed(x, ones, zeros, 1e-5)) < 2e-4


def test_group_norm_of_a_constant_is_its_bias() -> None:
    x = torch.full((1, 40, 32), 3.0, device=DEVICE)
    weight, bias = normal(32), normal(32)
    out = group_norm(x, weight, bias, eps=1e-5, silu=False)
    assert torch.equal(out, bias.expand_as(out))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
@pytest.mark.parametrize(("n", "hw", "c"), [(1, 1, 32), (5, 7, 320), (6, 2, 640), (3, 1, 1280), (26, 5, 24)])
def test_layer_norm_of_sums(n: int, hw: int, c: int, dtype: torch.dtype) -> None:
    x, everywhere, added = normal(n, hw, c, dtype=dtype), normal(hw, c, dtype=dtype), normal(-(-n // 2), hw, c)
    added = added.to(dtype)
    weight, bias, position = (normal(*shape, dtype=dtype) for shape in ((c,), (c,), (4, c)))
    total, normed = add_layer_norm(x, weight, bias, everywhere=everywhere, added=added, position=position)
    expected = x.double() + everywhere.double()
    expected[n - len(added) :] += added.double()
    expected_normed = functional.layer_norm(expected, (c,), weight.double(), bias.double())
    expected_normed += position.double()[torch.arange(n) % 4, None]
    assert_close(total, expected, dtype)
    assert_close(normed, expected_normed, dtype)


@pytest.mark.parametrize("summand", ["everywhere", "added"])
def test_layer_norm_of_one_sum(summand: str) -> None:
    x, weight, bias, given = normal(4, 3, 40), normal(40), normal(40), normal(3, 40)
    everywhere = given if summand == "everywhere" else None
    added = given[None] if summand == "added" else None
    total, normed = add_layer_norm(x, weight, bias, everywhere=everywhere, added=added)
    expected = x.double()
    expected[0 if summand == "everywhere" else 3 :] += given.double()
    assert_close(total, expected, torch.float32)
    assert_close(normed, functional.layer_norm(expected, (40,), weight.double(), bias.double()), torch.float32)


def test_layer_norm_alone_hands_its_input_back() -> None:
    x, weight, bias = normal(1, 11, 48, mean=100.0), normal(48), normal(48)
    total, normed = add_layer_norm(x, weight, bias, eps=1e-3)
    expected = functional.layer_norm(x.double(), (48,), weight.double(), bias.double(), 1e-3)
    assert total is x
    assert relative_error(normed, expected) < 2e-5


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
@pytest.mark.parametrize("adds", [False, True])
def test_layer_norm_writes_the_sum_into_wider_rows(adds: bool, dtype: torch.dtype) -> None:
    x, weight, bias = normal(4, 3, 40, dtype=dtype), normal(40, dtype=dtype), normal(40, dtype=dtype)
    added = normal(2, 3, 40, dtype=dtype) if adds else None
    wide = normal(4, 3, 120, dtype=dtype)
    before = wide[..., 40:].clone()
    place = wide[..., :40]
    total, normed = add_layer_norm(x, weight, bias, added=added, total_out=place)
    expected_total, expected_normed = add_layer_norm(x, weight, bias, added=added)
    assert total is place
    assert torch.equal(total, expected_total)
    assert torch.equal(normed, expected_normed)
    assert torch.equal(wide[..., 40:], before)


def over_frames(qkv: Tensor, motion_qkv: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Temporal attention in torch: for the clip's frames and for the motion frames."""
    packed = torch.cat([split(motion_qkv, 0, (-1, 2)), split(qkv, 0, (-1, 16))], dim=1).double()
    q, k, v = split(packed, -1, (3, heads, -1)).permute(3, 0, 2, 4, 1, 5)
    out = functional.scaled_dot_product_attention(q, k, v).permute(0, 3, 1, 2, 4).flatten(3)
    return out[:, 2:].flatten(0, 1), out[:, :2].flatten(0, 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("for_motion", [True, False])
@pytest.mark.parametrize("rows", [Rows(), Rows(32, 1)])
@pytest.mark.parametrize(("halves", "hw", "c", "heads"), [(2, 4, 32, 8), (1, 1, 320, 8), (2, 3, 64, 4)])
def test_temporal_attention(
    halves: int, hw: int, c: int, heads: int, rows: Rows, for_motion: bool, dtype: torch.dtype
) -> None:
    qkv, motion_qkv = (normal(halves * frames, hw, 3 * c, dtype=dtype, std=2.0) for frames in (16, 2))
    out, motion_out = temporal_attention(qkv, motion_qkv, heads, for_motion=for_motion, rows=rows)
    expected, expected_motion = over_frames(qkv, motion_qkv, heads)
    assert_close(out, expected, dtype)
    assert (motion_out is not None) == for_motion
    if motion_out is not None:
        assert_close(motion_out, expected_motion, dtype)


@pytest.mark.parametrize("c", [640, 1280])
def test_temporal_attention_with_wide_heads(c: int) -> None:
    qkv, motion_qkv = normal(16, 2, 3 * c), normal(2, 2, 3 * c)
    for out, expected in zip(temporal_attention(qkv, motion_qkv, 8), over_frames(qkv, motion_qkv, 8), strict=True):
        assert out is not None
        assert_close(out, expected, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "length", "heads", "d"), [(2, 5, 8, 4), (1, 9, 8, 40), (3, 4, 4, 80)])
def test_merged_attention_is_that_to_all_keys(n: int, length: int, heads: int, d: int, dtype: torch.dtype) -> None:
    q, k, v = (normal(n, length, heads, d, dtype=dtype).double() for _ in range(3))
    more_k, more_v = (normal(n, length + 3, heads, d, dtype=dtype).double() for _ in range(2))

    def attended(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        scores = torch.einsum("nqhd,nkhd->nhqk", q, keys) / d**0.5
        return torch.einsum("nhqk,nkhd->nqhd", scores.softmax(-1), values), scores.logsumexp(-1)

    (first, first_lse), (second, second_lse) = attended(k, v), attended(more_k, more_v)
    out = first.to(dtype).contiguous()
    merge_attention(out, first_lse.float(), second.to(dtype).contiguous(), second_lse.float())
    expected, _ = attended(torch.cat([k, more_k], 1), torch.cat([v, more_v], 1))
    assert relative_error(out, expected) < (1e-6 if dtype == torch.float32 else 6e-4)


def test_attention_that_outweighs_the_other_is_kept_as_it_is() -> None:
    def sums(value: float) -> Tensor:
        return torch.full((1, 1, 2), value, device=DEVICE)

    out, other = normal(1, 2, 1, 4), normal(1, 2, 1, 4)
    merged = out.clone()
    merge_attention(merged, sums(1e4), other, sums(-1e4))
    assert torch.equal(merged, out)
    merge_attention(merged, sums(-1e4), other, sums(1e4))
    assert torch.equal(merged, other)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
@pytest.mark.parametrize(("m", "c"), [(1, 32), (70, 320), (33, 40), (17, 1280)])
def test_add_bias(m: int, c: int, dtype: torch.dtype) -> None:
    x, added, bias = normal(m, c, dtype=dtype), normal(m, c, dtype=dtype), normal(c, dtype=dtype)
    assert_close(add_bias(x, added, bias), x.double() + added.double() + bias.double(), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("halves", "frames", "hw", "c", "heads", "tokens"),
    [
        (2, 3, 15, 32, 8, 4),
        (1, 2, 30, 320, 8, 4),
        (2, 1, 9, 640, 8, 4),
        (2, 2, 7, 96, 6, 3),  # neither heads nor tokens are powers of two
        (2, 1, 1, 48, 2, 2),  # less than the matrix units take
        (1, 1, 17, 24, 4, 1),
    ],
)
def test_token_attention(
    halves: int, frames: int, hw: int, c: int, heads: int, tokens: int, dtype: torch.dtype
) -> None:
    x = normal(halves * frames, hw, c, dtype=dtype, mean=3.0)
    weight, bias, out_bias, shift = (normal(c, dtype=dtype) for _ in range(4))
    keys = normal(halves, c, heads * tokens, dtype=dtype, std=2 * c**-0.5)
    values = normal(halves, heads * tokens, c, dtype=dtype)
    out = token_attention(x, weight, bias, keys, values, out_bias, shift, heads=heads, tokens=tokens)

    x = x.double() + shift.double()
    normed = functional.layer_norm(x, (c,), weight.double(), bias.double())
    scores = normed @ keys.double().repeat_interleave(frames, dim=0)
    weights = split(scores, -1, (heads, tokens)).softmax(dim=-1).flatten(2)
    expected = x + weights @ values.double().repeat_interleave(frames, dim=0) + out_bias.double()
    assert_close(out, expected, dtype)


def test_token_attention_folds_projections_into_tokens() -> None:
    c, heads, tokens, d = 64, 8, 4, 8
    x, bias = normal(1, 10, c), normal(c)
    query, out_projection = normal(c, c, std=0.2), normal(c, c, std=0.2)
    k, v = normal(heads, tokens, d), normal(heads, tokens, d)
    ones, zeros = torch.ones(c, device=DEVICE), torch.zeros(c, device=DEVICE)
    keys = torch.einsum("hdc,htd->cht", split(query, 0, (heads, d)), k).flatten(1)[None] * d**-0.5
    values = torch.einsum("htd,chd->htc", v, split(out_projection, 1, (heads, d))).flatten(0, 1)[None]
    keys, values = keys.contiguous(), values.contiguous()
    out = token_attention(x, ones, zeros, keys, values, bias, zeros, heads=heads, tokens=tokens)

    queries = split(functional.layer_norm(x.double(), (c,)) @ query.double().T, -1, (heads, d)).transpose(1, 2)
    attended = functional.scaled_dot_product_attention(queries, k.double()[None], v.double()[None])
    expected = x.double() + attended.transpose(1, 2).flatten(2) @ out_projection.double().T + bias.double()
    assert_close(out, expected, torch.float32)


class Launched:
    """Stands for a kernel: keeps with what grids it is launched, and computes nothing."""

    def __init__(self) -> None:
        self.grids: list[tuple[int, ...]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        self.grids.append(grid)
        return lambda *_arguments, **_options: None


def absent(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float16, device="meta")


TOKENS, PIXELS = (2048 // 8) ** 2, 2048**2
SUMS = absent(32, 8, TOKENS)


@pytest.mark.parametrize(
    ("module", "call"),
    [
        ("add_bias", lambda: add_bias(absent(16 * PIXELS, 128), absent(16 * PIXELS, 128), absent(128))),
        ("group_norm", lambda: group_norm(absent(16, PIXELS, 256), absent(256), absent(256), eps=1e-6, silu=True)),
        ("layer_norm", lambda: add_layer_norm(absent(32, TOKENS, 320), absent(320), absent(320))),
        ("merge", lambda: merge_attention(absent(32, TOKENS, 8, 40), SUMS, absent(32, TOKENS, 8, 40), SUMS)),
        ("temporal", lambda: temporal_attention(absent(32, TOKENS, 960), absent(4, TOKENS, 960), heads=8)),
        (
            "cross",
            lambda: token_attention(
                absent(32, TOKENS, 320),
                *(absent(*shape) for shape in ((320,), (320,), (2, 320, 32), (2, 32, 320), (320,), (320,))),
                heads=8,
                tokens=4,
            ),
        ),
    ],
)
def test_grids_of_the_largest_pictures_are_ones_that_cuda_takes(
    module: str, call: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = Launched()
    names = vars(import_module(f"hallo2.kernels.{module}"))
    for name in [name for name, value in names.items() if isinstance(value, KernelInterface)]:
        monkeypatch.setitem(names, name, launched)
    call()
    assert launched.grids
    for first, *others in launched.grids:
        assert first < 2**31
        assert all(blocks < 2**16 for blocks in others)
