"""The Hallo2 inference engine: a library of its own that knows nothing of the daemon."""

from hallo2.clip import Clip, ClipState
from hallo2.config import Hallo2Config
from hallo2.networks import Hallo2Networks
from hallo2.pipeline import Hallo2Pipeline
from hallo2.portrait import Portrait

__all__ = ["Clip", "ClipState", "Hallo2Config", "Hallo2Networks", "Hallo2Pipeline", "Portrait"]
