"""The Hallo2 inference engine: a library of its own that knows nothing of the daemon."""

from hallo2.config import Hallo2Config

__all__ = ["Hallo2Config"]
