"""What is wrong with a picture."""

from __future__ import annotations


class FaceError(ValueError):
    """A picture cannot be animated; the message is one sentence that says why and what to do."""
