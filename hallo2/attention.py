"""Multi-head attention, with keys and values as data of their own: what is constant is projected but once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from hallo2.modules import Modules


class KeysValues(NamedTuple):
    """What queries attend to: keys and values, each (n, heads, length, head_dim)."""

    keys: Tensor
    values: Tensor

    def repeat_rows(self, times: int) -> KeysValues:
        """Every row `times` times in a row: (n * times, heads, length, head_dim)."""
        return KeysValues(*(x.repeat_interleave(times, dim=0) for x in self))

    def followed_by(self, other: KeysValues) -> KeysValues:
        """These, then `other`'s, whose m rows serve the n rows of these in turn; n is a multiple of m."""
        return KeysValues(
            *(torch.cat([x, y.repeat(len(x) // len(y), 1, 1, 1)], dim=2) for x, y in zip(self, other, strict=True))
        )

    def rows(self, start: int, stop: int | None = None) -> KeysValues:
        """The rows from `start` up to `stop`."""
        return KeysValues(self.keys[start:stop], self.values[start:stop])


class Attention(nn.Module):
    """Attention of `dim` wide queries to `context_dim` wide tokens, without bias on queries, keys and values.

    Queries, keys and values have `heads` heads of dim / heads.
    """

    def __init__(self, dim: int, heads: int, context_dim: int | None = None) -> None:
        super().__init__()
        context_dim = context_dim or dim
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(context_dim, dim, bias=False)
        self.to_v = nn.Linear(context_dim, dim, bias=False)
        self.to_out = Modules[nn.Linear]([nn.Linear(dim, dim)])

    def queries(self, tokens: Tensor) -> Tensor:
        """(n, length, dim) -> (n, heads, length, head_dim)."""
        return self._split(self.to_q(tokens))

    def keys_values(self, tokens: Tensor) -> KeysValues:
        """(n, length, context_dim) -> keys and values, each (n, heads, length, head_dim)."""
        return KeysValues(self._split(self.to_k(tokens)), self._split(self.to_v(tokens)))

    def attend(self, queries: Tensor, context: KeysValues) -> Tensor:
        """(n, heads, length, head_dim) -> (n, length, dim), before the output projection."""
        out: Tensor = functional.scaled_dot_product_attention(queries, context.keys, context.values)
        return rearrange(out, "n heads length d -> n length (heads d)")

    @property
    def out_bias(self) -> Tensor:
        """What attention to nothing gives, (dim,)."""
        return self.to_out[0].bias

    def project(self, attended: Tensor) -> Tensor:
        """The output projection: (n, length, dim) -> (n, length, dim)."""
        out: Tensor = self.to_out[0](attended)
        return out

    def forward(self, tokens: Tensor, context: KeysValues | None = None) -> Tensor:
        """(n, length, dim) -> (n, length, dim); without `context`, the tokens attend to themselves."""
        context = context or self.keys_values(tokens)
        return self.project(self.attend(self.queries(tokens), context))

    def _split(self, x: Tensor) -> Tensor:
        return rearrange(x, "n length (heads d) -> n heads length d", heads=self.heads)
