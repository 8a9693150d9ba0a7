"""A list of modules that knows what they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)

if TYPE_CHECKING:

    class Modules(nn.ModuleList, Generic[M]):
        """As `torch.nn.ModuleList`, typed."""

        def __iter__(self) -> Iterator[M]: ...
        def __getitem__(self, index: int) -> M: ...  # type: ignore[override]

else:

    class Modules(nn.ModuleList, Generic[M]):
        """As `torch.nn.ModuleList`, typed."""
