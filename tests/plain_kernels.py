"""What the kernels of `hallo2.kernels` compute, in plain torch: quick enough for videos on a CPU."""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn import functional

from hallo2.fused import audio, operations, residual, spatial, tail, temporal

CALLERS = (audio, operations, residual, spatial, tail, temporal)
"""The modules that call kernels, in which a test puts others in their place."""


def group_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    groups: int = 32,
    eps: float,
    silu: bool,
    shift: Tensor | None = None,
    beside: Tensor | None = None,
) -> Tensor:
    if beside is not None:
        x = torch.cat([x, beside], dim=-1)
    if shift is not None:
        x = x + (shift if shift.dim() == 1 else shift[:, None])
    out = functional.group_norm(x.transpose(1, 2).contiguous(), groups, weight, bias, eps).transpose(1, 2)
    return (functional.silu(out) if silu else out).contiguous()


def add_layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float = 1e-5,
    everywhere: Tensor | None = None,
    added: Tensor | None = None,
    position: Tensor | None = None,
    total_out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    total = x if everywhere is None else x + everywhere
    if added is not None:
        total = torch.cat([total[: len(x) - len(added)], total[len(x) - len(added) :] + added])
    out = functional.layer_norm(total, weight.shape, weight, bias, eps)
    if position is not None:
        out = out + repeat(position, "frames c -> (n frames) 1 c", n=len(x) // len(position))
    return total if total_out is None else total_out.copy_(total), out


def geglu(x: Tensor, weight: Tensor, bias: Tensor, *, out: Tensor | None = None) -> Tensor:
    values, gates = rearrange(
        functional.linear(x, weight, bias), "... (n two eight) -> two ... (n eight)", two=2, eight=8
    )
    result = values * functional.gelu(gates)
    return result if out is None else out.copy_(result)


def speech_weights(
    normed: Tensor, keys: Tensor, weights: Tensor, heads: int, *, tokens: int = 32, used: int | None = None
) -> Tensor:
    scores = rearrange(normed @ keys.transpose(1, 2), "f hw (r h t) -> f hw r h t", h=heads, t=tokens).clone()
    scores[..., used or tokens :] = -torch.inf
    return (scores.softmax(dim=-1) * weights[:, :, None, None]).flatten(2)


def temporal_attention(
    qkv: Tensor, motion_qkv: Tensor, heads: int, *, for_motion: bool = True
) -> tuple[Tensor, Tensor | None]:
    packed = torch.cat(
        [rearrange(rows, "(half f) hw c -> half f hw c", f=f) for rows, f in ((motion_qkv, 2), (qkv, 16))], dim=1
    )
    q, k, v = rearrange(packed, "half f hw (three heads d) -> three half hw heads f d", three=3, heads=heads)
    out = rearrange(functional.scaled_dot_product_attention(q, k, v), "half hw heads f d -> half f hw (heads d)")
    return out[:, 2:].flatten(0, 1), out[:, :2].flatten(0, 1) if for_motion else None


def token_attention(
    x: Tensor,
    normed_weight: Tensor,
    normed_bias: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: Tensor,
    shift: Tensor,
    *,
    heads: int,
    tokens: int,
    eps: float = 1e-5,
) -> Tensor:
    frames = len(x) // len(keys)
    x = x + shift
    normed = functional.layer_norm(x, normed_weight.shape, normed_weight, normed_bias, eps)
    scores = rearrange(normed @ keys.repeat_interleave(frames, dim=0), "n hw (h t) -> n hw h t", h=heads, t=tokens)
    return x + scores.softmax(dim=-1).flatten(2) @ values.repeat_interleave(frames, dim=0) + bias


def merge_attention(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> None:
    share = rearrange((lse - other_lse).sigmoid(), "n heads length -> n length heads 1")
    out.copy_(out * share + other * (1 - share))


def add_bias(x: Tensor, added: Tensor, bias: Tensor) -> Tensor:
    return x + added + bias
