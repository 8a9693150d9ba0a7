"""What one denoising step computes and moves, counted without a device: networks of full size on torch's meta device.

Nothing is computed there, but every operation is called with its shapes, and every tensor is made and let go. Of the
kernels, stand-ins make what they make.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from plain_kernels import CALLERS
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from hallo2 import Hallo2Config, Hallo2Networks
from hallo2.fused import FusedDenoisingUNet
from hallo2.transformers import CLIP_FRAMES, MOTION_FRAMES
from hallo2.unet import Denoiser, Regions

HALVES = 2


@dataclass
class Counted:
    """What was counted.

    Attributes:
        tflop: multiplications and additions in products, convolutions and attention, in 10**12.
        operations: what a GPU would be given to do, one by one.
        gigabytes: what they read and write, every operand once.
        peak_gib: the most memory at a time, beyond what was there before.
    """

    tflop: float = 0.0
    operations: int = 0
    gigabytes: float = 0.0
    peak_gib: float = 0.0


class Counter(TorchDispatchMode):
    """Counts what is called while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.counted = Counted()
        self._live: dict[int, int] = {}
        self._bytes = self._before = 0

    def start(self) -> None:
        """Count from zero."""
        self.counted, self._before = Counted(), self._bytes

    def add(self, flop: float, *operands: Tensor | None) -> None:
        """One operation."""
        self.counted.operations += 1
        self.counted.tflop += flop / 1e12
        self.counted.gigabytes += sum(x.nbytes for x in operands if x is not None) / 1e9

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet is torch.ops.aten.convolution and args[0].is_contiguous(memory_format=torch.channels_last):
            out = out.contiguous(memory_format=torch.channels_last)  # as on a GPU
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        views = [result.alias_info for result in func._schema.returns]
        is_view = any(alias is not None and not alias.is_write for alias in views)
        if not is_view and "empty" not in packet.__name__ and packet.__name__ != "_unsafe_view":
            counted = getattr(torch.ops.aten, packet.__name__.removesuffix("_"), packet)  # in place it is the same
            flop = flop_registry[counted](*args, **(kwargs or {}), out_val=out) if counted in flop_registry else 0
            self.add(flop, *(x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)), *made)
        for x in made:
            self.keep(x)
        return out

    def keep(self, x: Tensor) -> None:
        """Know of a tensor, and of when it goes."""
        storage = x.untyped_storage()
        if storage._cdata not in self._live:
            self._live[storage._cdata] = storage.nbytes()
            self._bytes += storage.nbytes()
            weakref.finalize(storage, self._let_go, storage._cdata)
            self.counted.peak_gib = max(self.counted.peak_gib, (self._bytes - self._before) / 2**30)

    def _let_go(self, key: int) -> None:
        self._bytes -= self._live.pop(key)


class StandIns:
    """In place of the kernels and of attention: they make what those make, and count what those compute and move."""

    def __init__(self, counter: Counter) -> None:
        self._add = counter.add

    def group_norm(self, x: Tensor, weight: Tensor, bias: Tensor, *, beside: Tensor | None = None, **_: Any) -> Tensor:
        out = x.new_empty(*x.shape[:-1], len(weight))
        self._add(0, x, x, beside, beside, out)  # read once for the statistics
        return out

    def add_layer_norm(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        *,
        everywhere: Tensor | None = None,
        added: Tensor | None = None,
        total_out: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        adds = everywhere is not None or added is not None
        total = total_out if total_out is not None else torch.empty_like(x) if adds else x
        out = torch.empty_like(x)
        self._add(0, x, added, out, None if total is x else total)
        return total, out

    def geglu(self, x: Tensor, weight: Tensor, bias: Tensor, *, out: Tensor | None = None) -> Tensor:
        out = x.new_empty(*x.shape[:-1], len(weight) // 2) if out is None else out
        self._add(2 * x.numel() * len(weight), x, weight, out)
        return out

    def speech_weights(self, normed: Tensor, keys: Tensor, weights: Tensor, heads: int, **_: Any) -> Tensor:
        out = normed.new_empty(*normed.shape[:-1], keys.shape[1])
        self._add(2 * normed.numel() * keys.shape[1], normed, keys, weights, out)
        return out

    def temporal_attention(
        self, qkv: Tensor, motion_qkv: Tensor, heads: int, *, for_motion: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        out, motion = (x.new_empty(*x.shape[:-1], x.shape[-1] // 3) for x in (qkv, motion_qkv))
        rows = out.numel() + (motion.numel() if for_motion else 0)
        self._add(4 * rows * (CLIP_FRAMES + MOTION_FRAMES), qkv, motion_qkv, out, motion if for_motion else None)
        return out, motion if for_motion else None

    def token_attention(self, x: Tensor, *_: Any, heads: int, tokens: int) -> Tensor:
        out = torch.empty_like(x)
        self._add(4 * x.numel() * heads * tokens, x, out)
        return out

    def merge_attention(self, out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> None:
        self._add(0, out, out, other)

    def add_bias(self, x: Tensor, added: Tensor, bias: Tensor) -> Tensor:
        out = torch.empty_like(x)
        self._add(0, x, added, out)
        return out

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, *, heads: int) -> tuple[Tensor, Tensor]:
        n, length, c = queries.shape
        out = queries.new_empty(n, length, heads, c // heads)
        self._add(4 * queries.numel() * keys.shape[1], queries, keys, values, out)
        return out, queries.new_empty(n, heads, length, dtype=torch.float32)

    def scaled_dot_product_attention(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        out = torch.empty_like(queries)
        self._add(4 * queries.numel() * keys.shape[2], queries, keys, values, out)
        return out


@contextmanager
def stand_ins(counter: Counter) -> Iterator[None]:
    """Have them called."""
    standing = StandIns(counter)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(functional, "scaled_dot_product_attention", standing.scaled_dot_product_attention)
        for module in CALLERS:
            for name in dir(StandIns):
                if not name.startswith("_") and hasattr(module, name):
                    patch.setattr(module, name, getattr(standing, name))
        yield


def meta(*shape: int) -> Tensor:
    """A tensor of which there is but the shape; pictures in channels-last layout."""
    x = torch.empty(shape, dtype=torch.float16, device="meta")
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


@torch.no_grad()
def count_step(fused: bool, size: int = 512, config: Hallo2Config | None = None) -> Counted:
    """One call of the denoising UNet in float16, with guidance."""
    config, side, counter = config or Hallo2Config(), size // 8, Counter()
    with torch.device("meta"):
        networks = Hallo2Networks(config).half().to(memory_format=torch.channels_last)
    for weight in networks.state_dict().values():
        counter.keep(weight)
    with counter, stand_ins(counter):
        denoiser = networks.denoising_unet
        step = _step(FusedDenoisingUNet(denoiser) if fused else denoiser, networks, config, side)
        counter.start()
        step()
    return counter.counted


def _step(denoiser: Denoiser, networks: Hallo2Networks, config: Hallo2Config, side: int) -> Callable[[], Tensor]:
    """The call, all that is constant over a clip being there."""
    pyramid = tuple(meta(1, (side // 2**level) ** 2) for level in range(4))
    face_tokens = meta(HALVES, config.face_tokens, config.cross_attention_dim)
    seen = networks.reference_unet(meta(2, 4, side, side), face_tokens)
    portrait = denoiser.portrait_contexts(seen, face_tokens, Regions((pyramid,) * 3, (1.0, 1.0, 1.0)))
    moved = networks.reference_unet(
        meta(HALVES * MOTION_FRAMES, 4, side, side), meta(HALVES * MOTION_FRAMES, *face_tokens.shape[1:])
    )
    contexts = denoiser.clip_contexts(
        portrait, moved, meta(CLIP_FRAMES, config.audio_tokens, config.audio_attention_dim)
    )
    [time] = denoiser.times(torch.empty(1, device="meta"))
    latents, face = meta(HALVES * CLIP_FRAMES, 4, side, side), meta(1, config.block_out_channels[0], side, side)
    return lambda: denoiser(latents, time, contexts, face)
