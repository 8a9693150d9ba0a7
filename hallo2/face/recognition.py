"""Says whose face it is, as a vector, with ArcFace.

Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019, arXiv 1801.07698; the file is
InsightFace's `glintr100.onnx`. The face is first moved to a fixed place by the similarity transform that fits its five
points best (Umeyama, "Least-squares estimation of transformation parameters between two point patterns", 1991).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from hallo2.face.mesh import Points
from hallo2.onnx_model import CPU, input_size, open_model

Picture = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float32]

_INPUT_SIZE = 112
_PLACES = np.array([(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)])
"""Where ArcFace wants the five points, in a picture of 112 x 112."""


class FaceRecogniser:
    """ArcFace on onnxruntime.

    Args:
        path: the ONNX file.
        providers: onnxruntime's execution providers, the preferred one first.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no network that takes a square picture.
    """

    def __init__(self, path: Path, providers: Sequence[str] = CPU) -> None:
        self._session = open_model(path, providers)
        self._input = self._session.get_inputs()[0].name
        height, self._size = input_size(self._session, _INPUT_SIZE)
        if height != self._size:
            raise ValueError(f"{path} takes pictures of {self._size} x {height}, and faces are given to it as squares")

    def __call__(self, picture: Picture, points: Points) -> Array:
        """The embedding (512,), not normalised.

        Args:
            picture: (H, W, 3), RGB.
            points: (5, 2), the eyes, the tip of the nose and the corners of the mouth, in pixels of the picture, those
                on the left of the picture first.
        """
        transform = similarity_transform(points, _PLACES * (self._size / _INPUT_SIZE))
        face = cv2.warpAffine(picture, transform, (self._size, self._size))
        values = (face.astype(np.float32) - 127.5) / 127.5
        (embedding,) = self._session.run(None, {self._input: values.transpose(2, 0, 1)[None]})
        return np.asarray(embedding, np.float32).reshape(-1)


def similarity_transform(source: Points, target: Points) -> Points:
    """(2, 3): rotation, one scale and shift that bring `source` (n, 2) nearest to `target` (n, 2), in least squares."""
    source_mean, target_mean = source.mean(0), target.mean(0)
    centred = source - source_mean
    u, singular, vt = np.linalg.svd((target - target_mean).T @ centred / len(source))
    # Without a mirror image.
    signs = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ np.diag(signs) @ vt
    scale = (singular * signs).sum() / centred.var(0).sum()
    return np.column_stack([scale * rotation, target_mean - scale * rotation @ source_mean])
