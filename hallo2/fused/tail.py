"""How the three transformers end: feed-forward, projection and sum in two products."""

from __future__ import annotations

import torch
from diffusers.models.attention import FeedForward
from torch import Tensor, nn

from hallo2.fused.operations import bias_of, let_go, normed
from hallo2.kernels import geglu, interleaved

TAIL_ELEMENTS = 100 << 20
"""How many numbers may lie between the products of a transformer's tail at a time: nothing else is as wide."""


class FusedTail:
    """The end of a transformer: the feed-forward of its block, the projection behind it, the sum with the picture."""

    def __init__(self, norm: nn.LayerNorm, feed_forward: FeedForward, projection: nn.Linear | nn.Conv2d) -> None:
        gated, out = feed_forward.net[0].proj, feed_forward.net[2]
        self.norm = norm
        self.gated_weight, self.gated_bias = interleaved(gated.weight), interleaved(gated.bias)
        # P (t + W h + b) + p = [P, P W] [t, h] + (P b + p)
        weight = projection.weight.flatten(1)
        self.weight = torch.cat([weight, (weight.float() @ out.weight.float()).to(weight.dtype)], dim=1)
        self.bias = weight.float() @ out.bias.float() + bias_of(projection).float()
        let_go(gated, out, projection)

    def __call__(
        self, x: Tensor, tokens: Tensor, *, everywhere: Tensor | None = None, added: Tensor | None = None
    ) -> Tensor:
        """Add to x (n, h * w, c), in place and without the bias, what comes of the tokens (n, h * w, dim).

        Args:
            x: the picture.
            tokens: the transformer's.
            everywhere: see `add_layer_norm`.
            added: likewise.
        """
        without = len(x) - (0 if added is None else len(added))
        frames = max(1, TAIL_ELEMENTS // (x.shape[1] * self.weight.shape[1]))
        for first in range(0, len(x), frames):
            last = first + frames
            late = None if added is None or last <= without else added[max(0, first - without) : last - without]
            self._add(x[first:last], tokens[first:last], everywhere, late)
        return x

    def _add(self, x: Tensor, tokens: Tensor, everywhere: Tensor | None, added: Tensor | None) -> None:
        dim = tokens.shape[-1]
        both = tokens.new_empty(*tokens.shape[:-1], self.weight.shape[1])
        _, hidden = normed(self.norm, tokens, everywhere=everywhere, added=added, total_out=both[..., :dim])
        geglu(hidden, self.gated_weight, self.gated_bias, out=both[..., dim:])
        x.flatten(0, 1).addmm_(both.flatten(0, 1), self.weight.t())
