"""What the fused modules are made of: torch's operations and the kernels, on tokens and with weights as given."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from hallo2.kernels import add_layer_norm, group_norm
from hallo2.transformers import CLIP_FRAMES, to_tokens


def attend(queries: Tensor, keys: Tensor, values: Tensor, *, heads: int) -> tuple[Tensor, Tensor]:
    """Attention of (n, length, c) to (n, other length, c), whose rows may be strided.

    By the library's kernel that is the fastest on Hopper: for head sizes 40, 80 and 160 cuDNN's takes half the time of
    the next.

    Returns:
        What is attended to, (n, length, heads, head_dim), contiguous; and of each softmax the logarithm of the sum of
        exponentials, (n, heads, length), float32.
    """
    q, k, v = (rearrange(x, "n l (heads d) -> n heads l d", heads=heads) for x in (queries, keys, values))
    aten = torch.ops.aten
    if q.device.type == "cpu":
        out, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    elif q.dtype == torch.float32:
        out, lse, *_ = aten._scaled_dot_product_efficient_attention(q, k, v, None, True)
    else:
        out, lse, *_ = aten._scaled_dot_product_cudnn_attention(q, k, v, None, True)
    length = q.shape[2]
    return out.transpose(1, 2).contiguous(), lse.reshape(*lse.shape[:2], -1)[..., :length].contiguous()


def packed(*maps: nn.Linear) -> Tensor:
    """The weights of linear maps of the same input as one, (sum of outs, in); theirs become views of it."""
    weight = torch.cat([part.weight for part in maps])
    for part, view in zip(maps, torch.split(weight, [part.out_features for part in maps]), strict=True):
        part.weight = nn.Parameter(view, requires_grad=False)
    return weight


def bias_of(module: nn.Conv2d | nn.Linear) -> Tensor:
    """The bias, which all convolutions and projections here have."""
    assert module.bias is not None  # noqa: S101
    return module.bias


def convolved(conv: nn.Conv2d, tokens: Tensor, height: int) -> Tensor:
    """A convolution of tokens (n, h * w, in), without its bias: (n, h' * w', out)."""
    x = rearrange(tokens, "n (h w) c -> n c h w", h=height)
    return to_tokens(functional.conv2d(x, conv.weight, None, conv.stride, conv.padding))


def normed(norm: nn.LayerNorm, tokens: Tensor, **more: Tensor | None) -> tuple[Tensor, Tensor]:
    """The tokens (n, h * w, c) with what is added, and what the norm makes of them; see `add_layer_norm`."""
    return add_layer_norm(tokens, norm.weight, norm.bias, eps=norm.eps, **more)


def grouped(
    norm: nn.GroupNorm, tokens: Tensor, *, silu: bool = False, shift: Tensor | None = None, beside: Tensor | None = None
) -> Tensor:
    """Group norm of tokens (n, h * w, c); see `group_norm`."""
    return group_norm(
        tokens,
        norm.weight,
        norm.bias,
        groups=norm.num_groups,
        eps=norm.eps,
        silu=silu,
        shift=shift,
        beside=beside,
    )


def let_go(*taken_over: nn.Linear | nn.Conv2d) -> None:
    """Free the weights of modules that another computation has taken into its own."""
    for module in taken_over:
        module.weight = nn.Parameter(torch.empty_like(module.weight, device="meta"), requires_grad=False)


PARITIES = 2
"""In the rows the even frames come before the odd ones, in each half by itself. The even ones of the conditional half
attend to the reference image as seen without identity, the odd ones to it as seen with identity."""


APART_TOKENS = 1 << 17
"""Halves with so many tokens are computed one after the other: each keeps a GPU busy, in half the memory."""


def apart(x: Tensor) -> list[slice]:
    """Which rows of (halves * frames, h * w, c) are computed together."""
    if len(x) <= CLIP_FRAMES or CLIP_FRAMES * x.shape[1] < APART_TOKENS:
        return [slice(None)]
    return [slice(first, first + CLIP_FRAMES) for first in range(0, len(x), CLIP_FRAMES)]


def by_parity(frames: Tensor) -> Tensor:
    """A clip's frames, (frames, ...), in the order of the rows."""
    return rearrange(frames, "(f parity) ... -> (parity f) ...", parity=PARITIES)
