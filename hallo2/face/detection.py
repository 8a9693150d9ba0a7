"""Finds faces with SCRFD.

Guo et al., "Sample and Computation Redistribution for Efficient Face Detection", ICLR 2022, arXiv 2105.04714; the file
is InsightFace's `scrfd_10g_bnkps.onnx`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from hallo2.face.mesh import Box, Points
from hallo2.onnx_model import CPU, input_size, open_model

Picture = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float32]

SCORE_THRESHOLD = 0.5
"""How sure the network must be, from 0 to 1; InsightFace's own."""

OVERLAP_THRESHOLD = 0.4
"""Of two boxes that overlap more (intersection over union) the less sure one is dropped; InsightFace's own."""

_INPUT_SIZE = 640
_FIRST_STRIDE = 8


@dataclass(frozen=True, eq=False)
class DetectedFace:
    """A face in a picture.

    Attributes:
        box: from the forehead to the chin.
        points: (5, 2), the eyes, the tip of the nose and the corners of the mouth, in pixels of the picture, those on
            the left of the picture first.
        score: how sure the network is, from 0 to 1.
    """

    box: Box
    points: Points
    score: float


class FaceDetector:
    """SCRFD with five points, on onnxruntime.

    Args:
        path: the ONNX file; it gives scores, boxes and points for three strides from 8 on, or more.
        providers: onnxruntime's execution providers, the preferred one first.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such network.
    """

    def __init__(self, path: Path, providers: Sequence[str] = CPU) -> None:
        self._session = open_model(path, providers)
        self._input = self._session.get_inputs()[0].name
        self._height, self._width = input_size(self._session, _INPUT_SIZE)
        outputs = len(self._session.get_outputs())
        if outputs not in {9, 15}:
            raise ValueError(f"{path} has {outputs} outputs, and a face detector with five points has 9 or 15")
        self._levels = outputs // 3

    def __call__(self, picture: Picture) -> list[DetectedFace]:
        """The faces in `picture` (H, W, 3), RGB, the surest first.

        A picture that a face fills shows larger faces than the network was trained on, so where none is found it looks
        again at half the size.
        """
        return self._detect(picture, 1.0) or self._detect(picture, 0.5)

    def _detect(self, picture: Picture, share: float) -> list[DetectedFace]:
        canvas, scale = self._letterboxed(picture, share)
        values = (canvas.astype(np.float32) - 127.5) / 128
        outputs = self._session.run(None, {self._input: values.transpose(2, 0, 1)[None]})
        scores, boxes, points = self._decode(outputs)
        return [
            DetectedFace(Box(*(boxes[i] / scale).tolist()), points[i] / scale, float(scores[i]))
            for i in _distinct(boxes, scores)
        ]

    def _letterboxed(self, picture: Picture, share: float) -> tuple[Picture, float]:
        """The picture in the top left corner of black, `share` of the network's size, and by how much it was scaled."""
        height, width = picture.shape[:2]
        limits = int(self._height * share), int(self._width * share)
        if height * limits[1] > width * limits[0]:
            fitted = limits[0], max(limits[0] * width // height, 1)
        else:
            fitted = max(limits[1] * height // width, 1), limits[1]
        canvas = np.zeros((self._height, self._width, 3), np.uint8)
        canvas[: fitted[0], : fitted[1]] = cv2.resize(picture, fitted[::-1])
        return canvas, fitted[0] / height

    def _decode(self, outputs: Sequence[Array]) -> tuple[Points, Points, Points]:
        """Scores (n,), boxes (n, 4) and points (n, 5, 2) in pixels of the network's input.

        Each anchor gives the distances of the box's edges and the offsets of the points in units of its stride.
        """
        found: list[tuple[Points, Points, Points]] = []
        for level in range(self._levels):
            stride = _FIRST_STRIDE * 2**level
            scores = outputs[level].reshape(-1).astype(np.float64)
            distances = outputs[level + self._levels].reshape(-1, 4) * np.float64(stride)
            offsets = outputs[level + 2 * self._levels].reshape(-1, 5, 2) * np.float64(stride)
            centres = self._centres(stride, len(scores))
            boxes = np.concatenate([centres - distances[:, :2], centres + distances[:, 2:]], axis=1)
            sure = scores >= SCORE_THRESHOLD
            found.append((scores[sure], boxes[sure], (centres[:, None] + offsets)[sure]))
        scores, boxes, points = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return scores, boxes, points

    def _centres(self, stride: int, anchors: int) -> Points:
        """(anchors, 2): x and y of each anchor; several in a row share a place."""
        rows, columns = self._height // stride, self._width // stride
        y, x = np.mgrid[:rows, :columns] * stride
        places = np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float64)
        return np.repeat(places, anchors // len(places), axis=0)


def _distinct(boxes: Points, scores: Points) -> list[int]:
    """Non-maximum suppression: the boxes to keep, the surest first. Edges count as pixels, hence the ones."""
    areas = np.prod(boxes[:, 2:] - boxes[:, :2] + 1, axis=1)
    order = np.argsort(-scores, kind="stable")
    keep: list[int] = []
    while order.size:
        best, order = int(order[0]), order[1:]
        keep.append(best)
        low = np.maximum(boxes[best, :2], boxes[order, :2])
        high = np.minimum(boxes[best, 2:], boxes[order, 2:])
        common = np.prod(np.maximum(high - low + 1, 0), axis=1)
        order = order[common / (areas[best] + areas[order] - common) <= OVERLAP_THRESHOLD]
    return keep
