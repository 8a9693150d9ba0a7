"""Which square of a picture is animated."""

from __future__ import annotations

from dataclasses import dataclass

from hallo2.face.mesh import Box

BEST_SHARE = 0.6
"""The face's share of the square's side; the published weights want 0.5 to 0.7 (the authors' README)."""


@dataclass(frozen=True)
class Square:
    """A square in whole pixels."""

    left: int
    top: int
    side: int

    def __str__(self) -> str:
        return f"[{self.left}, {self.top}, {self.side}]"

    @property
    def box(self) -> Box:
        """Its edges."""
        return Box(self.left, self.top, self.left + self.side, self.top + self.side)

    def lies_in(self, width: int, height: int) -> bool:
        """Whether a picture of that size has all of it."""
        return self.side > 0 <= min(self.left, self.top) and (
            self.left + self.side <= width and self.top + self.side <= height
        )


def square_around(face: Box, width: int, height: int) -> Square:
    """The square around a face that fills `BEST_SHARE` of its side; smaller where the picture is, and always in it."""
    return _centred(face, min(round(face.side / BEST_SHARE), width, height), width, height)


def largest_square(face: Box, width: int, height: int) -> Square:
    """The largest square of the picture; where there are several, the one with the face nearest to its middle."""
    return _centred(face, min(width, height), width, height)


def _centred(face: Box, side: int, width: int, height: int) -> Square:
    x, y = face.centre
    left, top = round(x - side / 2), round(y - side / 2)
    return Square(min(max(left, 0), width - side), min(max(top, 0), height - side), side)
