"""What is where among the landmarks of MediaPipe's face mesh."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]

LANDMARKS = 478

LIPS = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 146, 91, 181, 84, 17, 314, 405, 321, 375)
"""The outer edge of the lips."""

SILHOUETTE = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
"""The outline of the face, from the top of the forehead round by the chin."""

FIVE_POINTS = (468, 473, 1, 61, 291)
"""The irises, the tip of the nose and the corners of the mouth, those on the left of the picture first."""


LEFT_EDGE, RIGHT_EDGE, FOREHEAD, CHIN = 234, 454, 10, 152
"""The ends of the face: left and right as one sees it."""


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of the picture; it may lie in part outside it."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def around(cls, points: Points) -> Box:
        """The smallest that holds `points` (n, 2)."""
        (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
        return cls(left, top, right, bottom)

    def __str__(self) -> str:
        return f"[{self.left:.0f}, {self.top:.0f}, {self.right:.0f}, {self.bottom:.0f}]"

    @property
    def width(self) -> float:
        """In pixels."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """In pixels."""
        return self.bottom - self.top

    @property
    def side(self) -> float:
        """The longer of width and height, in pixels."""
        return max(self.width, self.height)

    @property
    def area(self) -> float:
        """In square pixels; 0 for a box turned inside out."""
        return max(self.width, 0.0) * max(self.height, 0.0)

    @property
    def centre(self) -> tuple[float, float]:
        """x and y."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    def holds(self, x: float, y: float) -> bool:
        """Whether the point lies in it."""
        return self.left <= x <= self.right and self.top <= y <= self.bottom

    def overlap(self, other: Box) -> float:
        """Intersection over union, 0 to 1."""
        common = Box(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        ).area
        union = self.area + other.area - common
        return common / union if union else 0.0
